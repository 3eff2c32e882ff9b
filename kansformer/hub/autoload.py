"""Register the loader and what adapters need when transformers and PEFT are imported, and not before: importing them
costs seconds."""

from kansformer.conversion.transformers_patches import register_when_ready
from kansformer.hub.peft_adapters import prepare_adapters


def register_loader() -> None:
    """Make `from_pretrained` recognise converted checkpoints, and PEFT's adapters see what the weights of a layer with
    curves see: now, or as soon as these packages are imported."""

    def import_quantizer() -> None:  # registers itself; may be half imported, and have imported transformers' part
        import kansformer.hub.quantizer  # noqa: F401

    register_when_ready(import_quantizer)
    prepare_adapters()
