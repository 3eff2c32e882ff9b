"""Mark a model as converted, so that plain `save_pretrained` and `push_to_hub` write a checkpoint that loads again."""

from torch import nn

from kansformer.conversion.record import ConversionRecord

TRIPWIRE = (
    "kansformer (this checkpoint has KAN layers: pip install kansformer, then import kansformer before from_pretrained)"
)
"""Key of an entry in `config.fusion_config`. A transformers without kansformer refuses unknown fusions by name, and so
says this sentence instead of loading the feed-forward networks with random weights and a warning."""


def attach_record(model: nn.Module, record: ConversionRecord) -> None:
    """Write the record and the tripwire into the model's config."""
    config = getattr(model, "config", None)
    if config is None:
        object.__setattr__(model, "conversion_record", record)
        return
    config.quantization_config = record
    config.fusion_config = {**(getattr(config, "fusion_config", None) or {}), TRIPWIRE: False}


def detach_record(model: nn.Module) -> None:
    """Take away all that `attach_record` wrote."""
    config = getattr(model, "config", None)
    if config is None:
        del model.conversion_record
        return
    del config.quantization_config
    remove_tripwire(config)


def remove_tripwire(config: object) -> None:
    """Take the tripwire out of a transformers config; other fusions stay."""
    fusions = {k: v for k, v in (getattr(config, "fusion_config", None) or {}).items() if k != TRIPWIRE}
    if fusions:
        config.fusion_config = fusions
    elif hasattr(config, "fusion_config"):
        del config.fusion_config


def record_of(model: nn.Module) -> ConversionRecord | None:
    """The record of a converted model, None of any other."""
    holder = getattr(model, "config", None)
    record = getattr(model, "conversion_record", None) if holder is None else getattr(holder, "quantization_config", None)
    return record if isinstance(record, ConversionRecord) else None
