"""Import kansformer as soon as transformers is about to load a model, in any program of this Python.

`kansformer autoload on` has Python run this file at its start, by a line in a `.pth` file; nothing else does. So it
imports nothing but the standard library, and not its own package: that takes seconds.
"""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path

FILE = "kansformer_autoload.pth"
"""In site-packages; its line runs this file."""
TRIGGER = "transformers.modeling_utils"
"""What transformers imports before it loads a model. Not the module with the quantizers, which it imports midway: the
class of models, which kansformer needs as well, would not be there yet."""


def import_kansformer() -> None:
    """Import the package, which registers the loader; where it is broken, warn: the program may load other models."""
    try:
        importlib.import_module("kansformer")
    except Exception as error:
        file = next((path for path in (Path(folder, FILE) for folder in sys.path) if path.exists()), FILE)
        warnings.warn(
            f"kansformer cannot be imported ({type(error).__name__}: {error}), so models with curves cannot be loaded. "
            f"Install it again, or turn its autoload off: delete the file {str(file)!r}.",
            stacklevel=2,
        )


def wait_for_transformers() -> None:
    """Have kansformer imported after transformers' module."""
    spec = importlib.util.spec_from_file_location("kansformer_hooks", Path(__file__).with_name("import_hooks.py"))
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    hooks.after_import(TRIGGER, import_kansformer)


if __name__ == "__main__":
    wait_for_transformers()
