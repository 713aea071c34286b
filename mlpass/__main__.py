"""`python -m mlpass`: the same as the `mlpass` command."""

import sys

from mlpass.cli import main

sys.exit(main())
