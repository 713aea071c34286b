"""Studies of a model: many configs compared, layers measured, one config chosen."""
