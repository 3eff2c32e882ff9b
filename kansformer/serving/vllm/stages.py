"""Pipeline parallelism: which layers of a model another process has."""

from torch import nn
from vllm.model_executor.models.utils import PPMissingLayer


def is_elsewhere(model: nn.Module, path: str) -> bool:
    """Whether a path leads into layers that another pipeline stage has."""
    module: nn.Module | None = model
    for name in path.split("."):
        module = module._modules.get(name) if module is not None else None
        if isinstance(module, PPMissingLayer):
            return True
    return False
