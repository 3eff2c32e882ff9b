"""Make the model of a recipe: read or fresh, with its curves, and its trainable parameters chosen."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from kansformer.conversion import convert, is_converted, plan_conversion, replace_feed_forwards
from kansformer.conversion.record import get_setting, record_of
from kansformer.conversion.sources import is_gguf, read_model_and_keys, source_arguments, unknown_activation
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError
from kansformer.nn.curves import curved_modules
from kansformer.nn.init import spread_curves
from kansformer.nn.optim import curve_parameters
from kansformer.training.data.spec import LANGUAGE_TASKS
from kansformer.training.recipe import CurveRecipe, ModelRecipe, Recipe, check_fixed_curves

AUTO_CLASSES = {
    "causal-lm": transformers.AutoModelForCausalLM,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "image-classification": transformers.AutoModelForImageClassification,
}

COMMON_FIELDS = {"num_labels", "attn_implementation", "rope_theta", "rope_scaling"}
"""Fields that configs of transformers take without naming them."""


def build_model(
    recipe: Recipe,
    *,
    vocabulary: int | None = None,
    label_names: Sequence[str] | None = None,
    special_tokens: Mapping[str, int | None] | None = None,
    inputs: list[dict[str, Tensor]] | None = None,
) -> PreTrainedModel:
    """The model of a recipe, ready to train; its frozen parameters do not require a gradient.

    Args:
        recipe: fresh weights are drawn from torch's global random state.
        vocabulary: size of the tokenizer; a fresh model gets it where its config does not say otherwise.
        label_names: of a classification task.
        special_tokens: bos_token_id, eos_token_id and pad_token_id of the tokenizer. A fresh language model gets those
            that its config does not give; classifiers of text look for the last.
        inputs: batches that show which channels of replaced networks matter; None goes by their weights.
    """
    special_tokens = special_tokens or {}
    model, fresh = _plain_model(recipe.model, recipe.task, vocabulary, label_names, special_tokens)
    _check_sizes(model, recipe, vocabulary)
    _equip(model, recipe, fresh, special_tokens.get("pad_token_id"), inputs)
    return model


def check_model(recipe: Recipe) -> None:
    """Build the model of a recipe without memory for its weights, to see that the recipe's numbers go together.

    A model that is read from somewhere is built by its config alone, and left to `build_model` where that cannot be.

    Raises:
        ConfigError, SlotError: a field of `model.config`, `kan` or `lora` is impossible.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the model itself warns again
        if recipe.model.source is None:
            model = _fresh_model(recipe.model, recipe.task, {}, None, {})
            empty = [name for name, parameter in model.named_parameters() if not parameter.numel()]
            if empty:
                raise ConfigError(f"model.config gives a weight without numbers, {empty[0]}: one of its sizes is 0.")
        else:
            try:
                config = transformers.AutoConfig.from_pretrained(**source_arguments(recipe.model.source))
                if is_gguf(recipe.model.source) or get_setting(config, "quantization_config") is not None:
                    return
                model = AUTO_CLASSES[recipe.task].from_config(config)
            except Exception:  # reading the model says what is wrong, or finds it right
                return
        _check_sizes(model, recipe, None)
        _equip(model, recipe, set(), None, None)


def _equip(
    model: PreTrainedModel,
    recipe: Recipe,
    fresh: set[str],
    pad_token: int | None,
    inputs: list[dict[str, Tensor]] | None,
) -> None:
    """Give a model its curves and adapters, and freeze what is not trained; `build_model` explains the arguments."""
    if recipe.task == "sequence-classification" and pad_token is not None:
        model.config.pad_token_id = pad_token
    if recipe.kan is not None:
        if is_converted(model):
            raise ConversionStateError(
                f"model.path {recipe.model.path!r} has curves already. Take the section kan out to train those, or "
                "give the plain model."
            )
        is_meta = model.device.type == "meta"
        if recipe.kan.hidden is None:
            convert(model, recipe.kan.config, verify=not is_meta)
        elif is_meta:
            plan_conversion(model, recipe.kan.config, hidden=recipe.kan.hidden)
            return
        else:
            replace_feed_forwards(model, recipe.kan.config, hidden=recipe.kan.hidden, inputs=inputs, seed=recipe.seed)
        if recipe.curves.spread is not None:
            spread_curves(model, recipe.curves.spread)
    elif next(curved_modules(model), None) is None and (recipe.curves != CurveRecipe() or "curves" in recipe.trainable):
        raise ConfigError(
            f"The recipe trains curves, and model.path {recipe.model.path!r} has none. Add a section kan: {{}}."
        )
    if (record := record_of(model)) is not None and record.is_fixed:
        check_fixed_curves(recipe, f"those of model.path {recipe.model.path!r} are frozen")
    if "all" not in recipe.trainable:
        _freeze(model, recipe, fresh)


def plain_model(source: ModelRecipe, task: str) -> PreTrainedModel:
    """The model as it comes from its source: without curves, unless it is a converted one."""
    return _plain_model(source, task)[0]


def _plain_model(
    recipe: ModelRecipe,
    task: str,
    vocabulary: int | None = None,
    label_names: Sequence[str] | None = None,
    special_tokens: Mapping[str, int | None] | None = None,
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the parameters that its checkpoint did not have, such as a new classifier's."""
    auto_class, dtype = AUTO_CLASSES[task], getattr(torch, recipe.dtype)
    labels: dict[str, object] = {}
    if label_names is not None:
        labels = {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: number for number, name in enumerate(label_names)},
            "problem_type": "single_label_classification",  # also where a head for regression was before
        }
    if recipe.source is not None:
        try:
            return read_model_and_keys(recipe.source, auto_class, dtype=dtype, labels=labels)
        except CheckpointError as error:
            raise ConfigError(f"model.path {recipe.path!r} cannot be loaded for {task}: {error}") from error
    model = _fresh_model(recipe, task, labels, vocabulary, special_tokens or {})
    return model.to(dtype), set()  # some activations bring parameters in a dtype of their own


def _fresh_model(
    recipe: ModelRecipe,
    task: str,
    labels: dict[str, object],
    vocabulary: int | None,
    special_tokens: Mapping[str, int | None],
) -> PreTrainedModel:
    """A model from the fields of a config, with random weights.

    Raises:
        ConfigError: transformers cannot build one from these fields.
    """
    assert recipe.config is not None
    fields = {**labels, **recipe.config}
    if labels and fields["problem_type"] != labels["problem_type"]:
        raise ConfigError(
            f"model.config.problem_type is {fields['problem_type']!r}, and in {task} a row has one label. Leave it out."
        )
    model_type = str(fields.pop("model_type"))
    if vocabulary is not None:
        fields.setdefault("vocab_size", vocabulary)
    if model_type not in transformers.CONFIG_MAPPING:
        raise ConfigError(f"model.config has the model_type {model_type!r}, which transformers does not know.")
    try:
        config = transformers.AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # each config checks its fields in its own way
        raise ConfigError(f"model.config: {' '.join(str(error).split()):.600}") from error
    known = {*type(config)().to_dict(), *inspect.signature(type(config).__init__).parameters, *config.attribute_map}
    if unknown := sorted(set(fields) - known - COMMON_FIELDS):
        raise ConfigError(f"Unknown field 'model.config.{unknown[0]}': {type(config).__name__} has none of that name.")
    if task in LANGUAGE_TASKS:
        boundaries = (special_tokens.get("bos_token_id"), special_tokens.get("eos_token_id"))
        for name, number in special_tokens.items():
            if task == "causal-lm" and name == "pad_token_id" and number in boundaries:
                number = None  # or the embedding of the token between documents would not be learnt
            if name not in recipe.config and hasattr(config, name):
                setattr(config, name, number)
    try:
        return AUTO_CLASSES[task].from_config(config, dtype=getattr(torch, recipe.dtype))
    except Exception as error:  # whatever the layers say of their sizes
        sentence = f"model.config: {type(error).__name__}: {' '.join(str(error).split()):.600}"
        if (advice := unknown_activation(error)) is not None:
            sentence = f"model.config: {advice}"
        if "Unrecognized configuration class" in str(error):
            sentence = f"model.config has the model_type {model_type!r}, which does not suit {task}: {error}"
        raise ConfigError(sentence) from error


def merge_lora(model: nn.Module) -> None:
    """Add LoRA's products to the weights they belong to, in place, and take the adapters out.

    Modules and tokens that were trained beside them (`modules_to_save`, `trainable_token_indices`) replace their
    originals.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    merged: list[str] = []
    for path, module in list(model.named_modules()):
        if path.startswith(tuple(f"{outer}." for outer in merged)):  # one adapter inside another
            continue
        if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            continue
        if hasattr(module, "unload_and_optionally_merge_module"):
            plain = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        else:
            module.merge()
            plain = module.get_base_layer()
        model.set_submodule(path, plain)
        merged.append(path)


def _freeze(model: nn.Module, recipe: Recipe, fresh: set[str]) -> None:
    """Freeze what is not trained; parameters that have just been drawn are trained in any case."""
    model.requires_grad_(False)
    trained = [parameter for name, parameter in model.named_parameters() if name in fresh]
    if "lora" in recipe.trainable:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise ConfigError("trainable has lora, which needs peft: pip install 'kansformer[lora]'.") from None
        try:
            settings = LoraConfig(**(recipe.lora or {}))  # type: ignore[arg-type]
            if model.device.type == "meta" and not isinstance(settings.init_lora_weights, bool):
                return  # such a start is computed from the weights
            inject_adapter_in_model(settings, model)
        except Exception as error:  # peft checks its fields in many ways
            raise ConfigError(f"lora: {error}") from error
    if "curves" in recipe.trainable:
        trained += [parameter for _, parameter in curve_parameters(model)]
    for parameter in trained:
        parameter.requires_grad_(True)


def _check_sizes(model: PreTrainedModel, recipe: Recipe, vocabulary: int | None) -> None:
    embeddings = None if vocabulary is None else model.get_input_embeddings()  # which not all models of images have
    if vocabulary is not None and isinstance(embeddings, nn.Embedding) and vocabulary > embeddings.num_embeddings:
        raise ConfigError(
            f"data.tokenizer has {vocabulary:,} tokens, and {type(model).__name__} has embeddings for "
            f"{embeddings.num_embeddings:,}. Take the model's own tokenizer, or set model.config.vocab_size."
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if recipe.task not in LANGUAGE_TASKS or not isinstance(positions, int):
        return
    for name, module in model.named_modules():  # RoBERTa's first positions stand for padding
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            positions -= module.padding_idx + 1
    if 0 < positions < recipe.data.block:
        raise ConfigError(
            f"data.block is {recipe.data.block}, and {type(model).__name__} has {positions} positions. Take shorter "
            "blocks."
        )
