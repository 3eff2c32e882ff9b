"""Do something once a module of another package has been imported, and never import it for that."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def after_import(module: str, action: Callable[[], None]) -> None:
    """Call `action` now if the module is there already, else right after it has been imported.

    A second call for the same module and action, from a reloaded kansformer, takes the place of the first.
    """
    if module in sys.modules:
        action()
        return
    hook = KansformerImportHook(module, action)
    # By name, since a reloaded kansformer finds the hooks of its predecessor.
    for finder in list(sys.meta_path):
        if type(finder).__name__ == KansformerImportHook.__name__ and getattr(finder, "key", None) == hook.key:
            sys.meta_path.remove(finder)
    sys.meta_path.insert(0, hook)


class KansformerImportHook(importlib.abc.MetaPathFinder):
    """Leaves finding the module to the other finders, and acts once it has run."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self.module, self.action = module, action
        self.key = (module, f"{action.__module__}.{action.__qualname__}")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        finders = list(sys.meta_path)
        # Only those behind this one: another hook that waits for the same module would ask this one in turn.
        for finder in finders[finders.index(self) + 1 if self in finders else 0 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ActingLoader(spec.loader, self)
                return spec
        return None


class _ActingLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, hook: KansformerImportHook) -> None:
        self.loader, self.hook = loader, hook

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader  # whoever looks at the module sees nothing of us
        self.loader.exec_module(module)
        if self.hook in sys.meta_path:
            sys.meta_path.remove(self.hook)
        self.hook.action()
