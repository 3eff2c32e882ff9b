"""Import kansformer as soon as transformers is about to load a model, in any program of this Python.

`kansformer autoload on` has Python import this file at its start, by a line in a `.pth` file; nothing else does. So it
imports nothing but the standard library, and finds kansformer without importing it: that takes seconds.
"""

import importlib.util
from pathlib import Path

TRIGGER = "transformers.modeling_utils"
"""What transformers imports before it loads a model. Not the module with the quantizers, which it imports midway: the
class of models, which kansformer needs as well, would not be there yet."""


def _import_kansformer() -> None:
    import kansformer  # noqa: F401


def _wait_for_transformers() -> None:
    package = importlib.util.find_spec("kansformer")
    if package is None or package.origin is None:
        return
    file = Path(package.origin).with_name("import_hooks.py")
    spec = importlib.util.spec_from_file_location("kansformer_autoload_hooks", file)
    if spec is None or spec.loader is None:
        return
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    hooks.after_import(TRIGGER, _import_kansformer)


_wait_for_transformers()
