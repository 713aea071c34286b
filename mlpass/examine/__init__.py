"""What a model is, without changing it."""
