"""What samples say of a model: sums, the loop over its layers, allocation."""
