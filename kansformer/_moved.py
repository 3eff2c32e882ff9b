"""Old import paths of public names, which work for one release with a `DeprecationWarning` that names the new place."""

import importlib
import warnings
from collections.abc import Callable, Mapping


def moved_names(module: str, new_places: Mapping[str, str]) -> Callable[[str], object]:
    """Make the `__getattr__` of a module from which names moved.

    Args:
        module: its name.
        new_places: the new place of every name that moved, as `package.module.name`.
    """

    def __getattr__(name: str) -> object:  # noqa: N807 - a module's
        if name not in new_places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        package, _, attribute = new_places[name].rpartition(".")
        warnings.warn(
            f"{module}.{name} has moved to {new_places[name]}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(package), attribute)

    return __getattr__
