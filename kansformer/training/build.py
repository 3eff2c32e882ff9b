"""Make the model that a recipe asks for: loaded or fresh, with its curves, and only the chosen parameters trainable."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kansformer.conversion import convert, is_converted, replace_feed_forwards
from kansformer.errors import ConfigError, ConversionStateError, KansformerError
from kansformer.nn.curves import curved_modules
from kansformer.nn.init import spread_curves
from kansformer.nn.optim import curve_parameters
from kansformer.training.data.spec import LANGUAGE_TASKS
from kansformer.training.recipe import CurveRecipe, ModelRecipe, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUTO_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}

COMMON_FIELDS = {"num_labels", "attn_implementation", "rope_theta", "rope_scaling"}
"""Fields that configs of transformers take without naming them."""


def build_model(
    recipe: Recipe,
    *,
    vocabulary: int | None = None,
    label_names: tuple[str, ...] | None = None,
    pad_token: int | None = None,
    inputs: list[dict[str, Tensor]] | None = None,
) -> Any:
    """The model of a recipe, ready to train.

    Args:
        recipe: what is asked for. Fresh weights are drawn from torch's global random state.
        vocabulary: size of the tokenizer; a fresh model gets it where its config does not say otherwise.
        label_names: of a classification task.
        pad_token: number of the tokenizer's padding token, which classifiers of text look for.
        inputs: batches that show which channels of replaced networks matter; None goes by their weights.

    Returns:
        A transformers model, whose frozen parameters do not require a gradient.

    Raises:
        ConfigError: the config is no config of that model type, or the vocabulary does not fit the model.
        KansformerError: whatever the swap refuses.
    """
    model, fresh = _source_model(recipe.model, recipe.task, vocabulary, label_names)
    if vocabulary is not None:
        _check_vocabulary(model, vocabulary)
    if recipe.task in LANGUAGE_TASKS:
        _check_block(model, recipe.data.block)
    if recipe.task == "sequence-classification" and pad_token is not None:
        model.config.pad_token_id = pad_token
    if recipe.kan is not None:
        if is_converted(model):
            raise ConversionStateError(
                f"model.path {recipe.model.path!r} has curves already. Take the section kan out to train those, or "
                "give the plain model."
            )
        if recipe.kan.hidden is not None:
            hidden = recipe.kan.hidden
            replace_feed_forwards(model, recipe.kan.config, hidden=hidden, inputs=inputs, seed=recipe.seed)
        else:
            convert(model, recipe.kan.config)
        if recipe.curves.spread is not None:
            spread_curves(model, recipe.curves.spread)
    elif next(curved_modules(model), None) is None and (recipe.curves != CurveRecipe() or "curves" in recipe.trainable):
        raise ConfigError(
            f"The recipe trains curves, and model.path {recipe.model.path!r} has none. Add a section kan: {{}}."
        )
    _choose_trainable(model, recipe, fresh)
    return model


def plain_model(source: ModelRecipe, task: str) -> PreTrainedModel:
    """The model as it comes from its source: without curves, unless it is a converted one.

    Raises:
        ConfigError: there is no such model, or it is none for this task.
    """
    return _source_model(source, task, None, None)[0]


def _source_model(
    source: ModelRecipe, task: str, vocabulary: int | None, label_names: tuple[str, ...] | None
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the parameters that its checkpoint did not have, such as a new classifier's."""
    import transformers

    auto = getattr(transformers, AUTO_CLASSES[task])
    settings: dict[str, Any] = {"dtype": getattr(torch, source.dtype)}
    labels: dict[str, Any] = {}
    if label_names is not None:
        labels = {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: number for number, name in enumerate(label_names)},
        }
    if source.path is not None:
        path = source.path
        if path == "embedded":
            from kansformer.embedded import embedded_model_path

            path = str(embedded_model_path())
        if path.lower().endswith(".gguf"):
            folder, _, file = path.rpartition("/")
            settings |= {"gguf_file": file, "quantization_config": transformers.GgufConfig(dequantize=True)}
            path = folder or "."
        if labels:  # a head with another number of labels is drawn anew
            settings["ignore_mismatched_sizes"] = True
        try:
            model, info = auto.from_pretrained(path, output_loading_info=True, **settings, **labels)
        except KansformerError:
            raise
        except (OSError, ImportError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(f"model.path {source.path!r} cannot be loaded for {task}: {error}") from error
        return model, set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    assert source.config is not None
    config_fields = {**labels, **source.config}
    model_type = config_fields.pop("model_type")
    if vocabulary is not None:
        config_fields.setdefault("vocab_size", vocabulary)
    if model_type not in transformers.CONFIG_MAPPING:
        raise ConfigError(f"model.config has the model_type {model_type!r}, which transformers does not know.")
    config = transformers.AutoConfig.for_model(model_type, **config_fields)
    known = {*type(config)().to_dict(), *inspect.signature(type(config).__init__).parameters, *config.attribute_map}
    if unknown := sorted(set(config_fields) - known - COMMON_FIELDS):
        raise ConfigError(f"Unknown field 'model.config.{unknown[0]}': {type(config).__name__} has none of that name.")
    try:
        model = auto.from_config(config, **settings)
    except ValueError as error:
        raise ConfigError(
            f"model.config has the model_type {model_type!r}, which is none for {task}: {error}"
        ) from error
    return model.to(settings["dtype"]), set()  # some activations bring parameters in a dtype of their own


def merge_lora(model: nn.Module) -> None:
    """Add LoRA's products to the weights they belong to, in place, and take the adapters out.

    Modules that were trained beside them (`modules_to_save`) take the places of their originals.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for path, module in list(model.named_modules()):
        owner, _, name = path.rpartition(".")
        if isinstance(module, BaseTunerLayer):
            module.merge()
            setattr(model.get_submodule(owner), name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            setattr(model.get_submodule(owner), name, module.modules_to_save[module.active_adapters[0]])


def _choose_trainable(model: nn.Module, recipe: Recipe, fresh: set[str]) -> None:
    """Freeze what is not trained; what has just been drawn is trained in any case."""
    if "all" in recipe.trainable:
        return
    model.requires_grad_(False)
    new = [parameter for name, parameter in model.named_parameters() if name in fresh]
    if "lora" in recipe.trainable:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise ConfigError("trainable has lora, which needs peft: pip install 'kansformer[lora]'.") from None
        try:
            adapter = LoraConfig(**(recipe.lora or {}))
            inject_adapter_in_model(adapter, model)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"lora: {error}") from error
        _refuse_bent_inputs(model)
    if "curves" in recipe.trainable:
        new += [parameter for _, parameter in curve_parameters(model)]
    for parameter in new:
        parameter.requires_grad_(True)


def _refuse_bent_inputs(model: nn.Module) -> None:
    """LoRA's product sees a layer's input before curves of the layer's own bend it, and its weight sees it after."""
    for path, module in curved_modules(model):
        if path.endswith(".base_layer") and module.curves.is_per_channel:
            raise ConfigError(
                f"lora reaches {path.removesuffix('.base_layer')}, whose {module.curves.edges} curves bend its input, "
                "so its product could not be added to the weight. Take other target_modules, edges full or low_rank, "
                "or the slots input and act."
            )


def _check_vocabulary(model: PreTrainedModel, vocabulary: int) -> None:
    embeddings = model.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)
    if rows is not None and vocabulary > rows:
        raise ConfigError(
            f"data.tokenizer has {vocabulary:,} tokens, and {type(model).__name__} has embeddings for {rows:,}. Take "
            "the model's own tokenizer, or set model.config.vocab_size."
        )


def _check_block(model: PreTrainedModel, block: int) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(longest, int) and 0 < longest < block:
        raise ConfigError(
            f"data.block is {block}, and {type(model).__name__} has {longest} positions. Take shorter blocks."
        )
