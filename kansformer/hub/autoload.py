"""Register the loader when transformers' quantizers are imported, and not before: importing them costs a second."""

from kansformer.conversion.transformers_patches import register_when_ready


def register_loader() -> None:
    """Make `from_pretrained` recognise converted checkpoints: now, or as soon as transformers is ready for it."""

    def import_quantizer() -> None:  # registers itself; may be half imported, and have imported transformers' part
        import kansformer.hub.quantizer  # noqa: F401

    register_when_ready(import_quantizer)
