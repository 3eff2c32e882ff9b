"""What happens when `from_pretrained` is given a `quantization_config` for a checkpoint that has one already."""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers.quantizers.auto import AutoHfQuantizer

from kansformer.config import QUANT_METHOD
from kansformer.errors import ConversionStateError


def merge_quantization_configs(original_merge: Callable, saved: Any, passed: Any = None) -> Any:
    """transformers' merge, which compares class names only, with an answer for the cases where one of both is ours.

    Args:
        original_merge: transformers' own.
        saved: of the checkpoint's config.
        passed: to `from_pretrained`.

    Raises:
        ConversionStateError: they contradict each other; how to combine them is in the sentence.
    """
    methods = _method(saved), _method(passed)
    if passed is None or QUANT_METHOD not in methods:
        return original_merge(saved, passed)
    if methods == (QUANT_METHOD, QUANT_METHOD):
        record = original_merge(saved, None)
        _refuse_other_settings(record.config.to_dict(), passed.to_dict())
        return record
    if methods[0] == QUANT_METHOD:
        raise ConversionStateError(
            f"The checkpoint has KAN curves, and quantization_config={type(passed).__name__} would quantise it while "
            "loading, which is one at a time. Load it without quantization_config and quantise the loaded model in "
            "place, for instance with torchao's quantize_; or revert(model), save the plain model and quantise that."
        )
    raise ConversionStateError(
        f"The checkpoint is quantised with {methods[0]!r}, so quantization_config=KANConfig(...) cannot convert it. "
        "Load it dequantised, convert(model, config), save it, and quantise the result."
    )


def install() -> None:
    """Put this merge before transformers', which would refuse all the same but cannot say what to do."""
    current = AutoHfQuantizer.merge_quantization_configs
    original = current.args[0] if isinstance(current, partial) else current  # a second import of this package
    merge = staticmethod(partial(merge_quantization_configs, original))
    AutoHfQuantizer.merge_quantization_configs = merge  # type: ignore[method-assign, assignment]


def _method(config: object | None) -> str | None:
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return getattr(method, "value", method)


def _refuse_other_settings(saved: dict, passed: dict) -> None:
    for name, value in passed.items():
        if saved.get(name) != value:
            raise ConversionStateError(
                f"The checkpoint is converted already, with {name}={saved.get(name)!r}, and quantization_config asks "
                f"for {name}={value!r}. Load it without quantization_config; for other curves revert(model) and "
                "convert(model, config)."
            )
