"""What is to become of each weight."""
