"""`python -m mlpass`: the same as the `mlpass` command."""

from mlpass.cli import run

run()
