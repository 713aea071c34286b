"""What a weight is: sites, reading and storing them, the record of a report."""
