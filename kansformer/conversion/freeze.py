"""Make a model's learned curves a fixed function, and write them into a file for other models."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from kansformer.checks import check_choice
from kansformer.config import SHARES
from kansformer.conversion.found_curves import SUFFIX, FoundCurves
from kansformer.conversion.plan import check_model
from kansformer.conversion.record import IN_PLACE, ConversionRecord, config_of, get_setting
from kansformer.conversion.saving import update_record
from kansformer.conversion.slots import check_equal_copies, check_no_adapters, recorded_modules, tie_and_freeze
from kansformer.conversion.transformers_patches import attach_record
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.files import check_file
from kansformer.nn.optim import curve_parameters
from kansformer.nn.transaction import transaction
from kansformer.safe_io import LINE, check_json_value
from kansformer.wording import counted


@dataclass(frozen=True)
class FrozenCurves:
    """What `freeze_curves` did. `str()` is a short text.

    Args:
        slots: number of layers by slot.
        numbers: parameters of the curves, those that layers share once.
        path: of the file; None where none was written.
        written: numbers in the file, domains included.
        mean_of: number of layers of which the file has the mean; None where it has all that was learned.
        digest: SHA-256 of the file's settings and values.
    """

    slots: Mapping[str, int]
    numbers: int
    path: Path | None = None
    written: int = 0
    mean_of: int | None = None
    digest: str | None = None

    def __str__(self) -> str:
        slots = ", ".join(f"{name} of {counted(count, 'layer')}" for name, count in self.slots.items())
        lines = [f"frozen: {counted(self.numbers, 'curve coefficient')} in {slots}"]
        if self.path is not None and self.digest is not None:
            mean = f", the mean of {counted(self.mean_of, 'layer')}" if self.mean_of is not None else ""
            lines.append(f"{self.path}: {counted(self.written, 'number')}{mean}, SHA-256 {self.digest[:16]}")
        return "\n".join(lines)


def freeze_curves(
    model: nn.Module,
    path: str | Path | None = None,
    *,
    share: str | None = None,
    source: str | None = None,
    figures: Mapping[str, Any] | None = None,
) -> FrozenCurves:
    """Make the curves of a converted model a fixed function without gradients, and write them into a file.

    The model computes what it did. Its curves have no gradients any more, also after it was saved and loaded; make the
    optimizer anew. `KANConfig(curves=path, trainable=False)` gives them to other models.

    Args:
        model: converted, in place.
        path: of one `.safetensors` file, which is replaced if it is there; None writes none. Only `channel` and `group`
            curves can be written.
        share: what the file has: `slot` the curves of every layer, for models with as many layers; `model` the mean of
            the layers' curves in each slot, for any number of layers. The model keeps its own. None is `model` for a
            model whose layers share their curves, and else `slot`.
        source: one line of text for the file, on where the curves come from, such as data and steps.
        figures: what was measured with them, a table for JSON, for the file.

    Returns:
        What was frozen and written.

    Raises:
        ConversionStateError: the model is not converted, or has adapters.
        ConfigError: an argument is not among its choices, or the curves cannot be written into a file or averaged.
        CheckpointError: curves are not what the model's config says, or not finite, or no file can be written at the
            path. The model is left as it was after any error.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import KANConfig, convert, freeze_curves
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> frozen = freeze_curves(model, "curves.safetensors")
        >>> frozen.slots["act"], model[1].coefficients.requires_grad
        (1, False)
        >>> other = Sequential(Linear(4, 8), SiLU(), Linear(8, 4))
        >>> other = convert(other, KANConfig(curves="curves.safetensors", trainable=False))
    """
    check_model(model)
    check_no_adapters(model)
    record = update_record(model)
    if record is None:
        raise ConversionStateError("The model is not converted, so there are no curves to freeze.")
    check_equal_copies(model, record)
    curves = None
    if path is not None:
        curves = _curves_for_file(model, record, Path(path), share, source, figures)
        curves.write(Path(path))
    elif not (share is source is figures is None):
        raise ConfigError("share, source and figures are about the file. Give its path, or leave them out.")
    if not record.is_fixed:
        label = IN_PLACE if curves is None or curves.mean_of is not None else curves.label
        record = replace(record, config=replace(record.config, curves=label, trainable=False))
        with transaction(model):
            attach_record(model, record)
            tie_and_freeze(model, record)
    return _result(model, record, curves, None if path is None else Path(path))


def _curves_for_file(
    model: nn.Module,
    record: ConversionRecord,
    path: Path,
    share: str | None,
    source: str | None,
    figures: Mapping[str, Any] | None,
) -> FoundCurves:
    """What `freeze_curves` writes, once its arguments are checked."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"The file must end in {SUFFIX}, got {str(path)!r:.200}.")
    check_file(path)
    if share is not None:
        check_choice("share", share, SHARES)
    if source is not None and not LINE.check(source):
        raise ConfigError(f"source must be {LINE.description}, got {source!r:.80}.")
    table = {} if figures is None else figures
    if not isinstance(table, Mapping):
        raise ConfigError(f"figures must be a table, such as {{'loss': 1.5}}, got {figures!r:.80}.")
    check_json_value(dict(table), "figures", ConfigError)
    is_shared = record.config.share == "model"
    curves = FoundCurves.of(
        record.config,
        recorded_modules(model, record),
        one_set=is_shared and share != "slot",
        name=path.stem,
        model_type=get_setting(config_of(model), "model_type"),
        source=source,
        figures=dict(table),
    )
    return curves.mean() if share == "model" and not is_shared else curves


def _result(model: nn.Module, record: ConversionRecord, curves: FoundCurves | None, path: Path | None) -> FrozenCurves:
    return FrozenCurves(
        slots=Counter(slot.name for slot in record.slots),
        numbers=sum(parameter.numel() for _, parameter in curve_parameters(model)),
        path=path,
        written=0 if curves is None else sum(tensor.numel() for tensor in curves.tensors.values()),
        mean_of=None if curves is None else curves.mean_of,
        digest=None if curves is None else curves.digest,
    )
