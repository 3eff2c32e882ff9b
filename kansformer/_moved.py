"""Names that a module imports when they are used: public ones that are slow to import, and ones that have moved.

Old import paths work for one release, with a `DeprecationWarning` that names the new place.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping


def lazy_names(module: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """Make the `__getattr__` of a module that imports its public names when they are first used.

    Args:
        module: its name.
        places: of every name, as `package.module.name`.
    """

    def __getattr__(name: str) -> object:  # noqa: N807 - a module's
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        package, _, attribute = places[name].rpartition(".")
        return getattr(importlib.import_module(package), attribute)

    return __getattr__


def moved_names(module: str, new_places: Mapping[str, str]) -> Callable[[str], object]:
    """Make the `__getattr__` of a module from which names moved.

    Args:
        module: its name.
        new_places: the new place of every name that moved, as `package.module.name`.
    """
    import_moved = lazy_names(module, new_places)

    def __getattr__(name: str) -> object:  # noqa: N807 - a module's
        value = import_moved(name)
        warnings.warn(
            f"{module}.{name} has moved to {new_places[name]}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return value

    return __getattr__
