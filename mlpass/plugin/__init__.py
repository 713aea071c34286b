"""mlpass as a plugin of coremltools: importing it registers the `mlpass::` passes.

`install` adds named pipelines and a converter front end for packages, `uninstall` takes all out;
`register` makes a pass that has its options with it, `names` a whole list of passes.
"""

from __future__ import annotations

from mlpass.plugin.named import names, register
from mlpass.plugin.passes import install, uninstall

__all__ = ["install", "names", "register", "uninstall"]
