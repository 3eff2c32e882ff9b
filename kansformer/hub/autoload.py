"""Register the loader, and what `from_config`, `save_pretrained` and adapters need, when transformers and PEFT are
imported.

Not before: importing them costs seconds.
"""

from kansformer.conversion.saving import save_with_curves
from kansformer.conversion.transformers_patches import (
    patch_from_config,
    patch_save_pretrained,
    register_when_ready,
)
from kansformer.hub.from_config import from_config_with_curves
from kansformer.hub.peft_adapters import prepare_adapters


def register_loader() -> None:
    """Make `from_pretrained` and `from_config` read converted checkpoints, `save_pretrained` write them, and PEFT's
    adapters know the bent inputs of layers: now, or as soon as these packages are imported."""

    def import_quantizer() -> None:  # registers itself; may be half imported, and have imported transformers' part
        import kansformer.hub.quantizer  # noqa: F401

    register_when_ready(import_quantizer)
    patch_from_config(from_config_with_curves)
    patch_save_pretrained(save_with_curves)
    prepare_adapters()
