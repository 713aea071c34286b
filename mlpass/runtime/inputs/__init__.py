"""Inputs of weights, one op family a file: what a weight's rows are multiplied with."""
