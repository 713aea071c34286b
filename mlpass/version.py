"""The version of mlpass."""

__version__ = "0.1.0"
