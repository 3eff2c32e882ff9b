"""Register the loader when transformers' quantizers are imported, and not before: importing them costs a second."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

TARGET = "transformers.quantizers.auto"


def register_loader() -> None:
    """Make `from_pretrained` recognise converted checkpoints: now, or as soon as transformers is ready for it."""
    if TARGET in sys.modules:
        register_now()
        return
    # By name, since a reloaded kansformer finds the hook of its predecessor.
    predecessors = [finder for finder in sys.meta_path if type(finder).__name__ == KansformerLoaderHook.__name__]
    for finder in predecessors:
        sys.meta_path.remove(finder)
    sys.meta_path.insert(0, KansformerLoaderHook())


def register_now() -> None:
    """Register the loader with transformers; again after a reload."""
    from kansformer.hub.quantizer import register

    register()


class KansformerLoaderHook(importlib.abc.MetaPathFinder):
    """Leaves finding `transformers.quantizers.auto` to the other finders, and registers the loader once it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != TARGET:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _RegisteringLoader(spec.loader, self)
                return spec
        return None


class _RegisteringLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, hook: KansformerLoaderHook) -> None:
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
        register_now()
