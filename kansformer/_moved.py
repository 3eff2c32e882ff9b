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
        return _resolve(places[name])

    return __getattr__


def moved_names(module: str, new_places: Mapping[str, str], *, stand_ins: str | None = None) -> Callable[[str], object]:
    """Make the `__getattr__` of a module from which names moved.

    Args:
        module: its name.
        new_places: the new place of every name that moved, as `package.module.name` or `package.module.Class.method`.
        stand_ins: a module with a dict `STAND_INS`: functions with the old arguments for names whose new form differs.
    """

    find_new = lazy_names(module, new_places)

    def __getattr__(name: str) -> object:  # noqa: N807 - a module's
        new = find_new(name)
        warnings.warn(
            f"{module}.{name} has moved to {new_places[name]}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return new if stand_ins is None else vars(importlib.import_module(stand_ins))["STAND_INS"].get(name, new)

    return __getattr__


def _resolve(place: str) -> object:
    package, _, attribute = place.rpartition(".")
    if package.rpartition(".")[2][:1].isupper():  # a class
        return getattr(_resolve(package), attribute)
    return getattr(importlib.import_module(package), attribute)
