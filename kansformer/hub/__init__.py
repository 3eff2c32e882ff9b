"""Loading: `import kansformer` teaches transformers' `from_pretrained` to open converted checkpoints."""

from kansformer.hub.autoload import register_loader

__all__ = ["register_loader"]
