"""Register the loader when transformers' quantizers are imported, and not before: importing them costs a second."""

from kansformer.import_hooks import after_import


def register_loader() -> None:
    """Make `from_pretrained` recognise converted checkpoints: now, or as soon as transformers is ready for it."""
    after_import("transformers.quantizers.auto", register_now)


def register_now() -> None:
    """Register the loader with transformers; again after a reload."""
    from kansformer.hub.quantizer import register

    register()
