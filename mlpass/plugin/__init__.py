"""mlpass as a plugin of coremltools: importing it registers the `mlpass::` passes.

`install` adds named pipelines and a converter front end for packages, `uninstall` takes all out.
"""

from __future__ import annotations

from mlpass.plugin.passes import install, uninstall

__all__ = ["install", "uninstall"]
