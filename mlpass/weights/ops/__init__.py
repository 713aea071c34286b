"""The ops that read weights, one family a file: how each reads one, and what it multiplies it with.

A new family is a file that registers its records, and its name in the import below.
"""

from mlpass.weights.ops import convolutions, gather, products, recurrent

__all__ = ["convolutions", "gather", "products", "recurrent"]
