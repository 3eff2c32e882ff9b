"""A training recipe: everything that decides what a run does, in frozen dataclasses whose fields pydantic checks.

A recipe is written as YAML; `recipe_file.py` reads it. Its sections are the classes below and `DataRecipe`.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import BeforeValidator, Field, InstanceOf, JsonValue, TypeAdapter

from kansformer.config import KANConfig
from kansformer.embedded import embedded_model_path
from kansformer.errors import ConfigError
from kansformer.training.data.spec import DataRecipe
from kansformer.training.field_errors import Count, Number, PositiveInteger, PositiveNumber, section
from kansformer.training.transcoder_recipe import TranscoderRecipe

Table = dict[str, JsonValue]


@section
class ModelRecipe:
    """Where the model comes from: `path` for a pretrained one, `config` to train from scratch.

    Args:
        path: a Hub id, a folder or a GGUF file; `embedded` is the model that comes with the package.
        config: the fields of a transformers config, with its `model_type`.
        dtype: of the weights, `float32`, `bfloat16` or `float16`.

    Raises:
        ConfigError: both or neither of `path` and `config`, or a value is not among the choices.
    """

    path: str | None = None
    config: Table | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        if (self.path is None) == (self.config is None):
            raise ConfigError("model needs exactly one of: path (a pretrained model), config (train from scratch).")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ConfigError("model.config needs a model_type, such as llama, gpt2 or vit.")

    @property
    def source(self) -> str | None:
        """The Hub id, folder or GGUF file to read the model from; None to train from scratch."""
        return str(embedded_model_path()) if self.path == "embedded" else self.path


@section
class KANRecipe:
    """The swap: in a recipe the fields of `KANConfig`, and for a replacement the new hidden width.

    Args:
        config: which curves go where. What a recipe leaves out is as in training from scratch, or as in its `curves`.
        hidden: None keeps all base weights, so that the swap is exact. A number replaces the feed-forward networks of
            the config's layers by fresh ones of that hidden width, to be distilled.
    """

    config: InstanceOf[KANConfig] = Field(default_factory=KANConfig.from_scratch)
    hidden: PositiveInteger | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: object) -> object:
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            return values
        settings = {name: value for name, value in values.items() if name != "hidden"}
        start = {} if settings.get("curves") else KANConfig.from_scratch().to_dict()  # else the file of curves rules
        try:
            config = KANConfig.from_dict({**start, **settings})
        except ConfigError as error:
            raise ConfigError(f"kan: {error}") from error
        return {"config": config, "hidden": values.get("hidden")}


@section
class Penalty:
    """A penalty's weight over time.

    Args:
        weight: at full strength, in nats per unit of the penalty.
        begin: optimizer step at which it sets in.
        ramp: steps over which it grows from 0 to `weight`.
    """

    weight: Number
    begin: Count = 0
    ramp: Count = 0

    def at(self, step: int) -> float:
        """The weight at an optimizer step, counted from 0."""
        return self.weight * min(1.0, max(0, step - self.begin + 1) / (self.ramp + 1))


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str | int) else value


def _as_penalty(value: object) -> object:
    return {"weight": value} if isinstance(value, int | float) else value


OptionalPenalty = Annotated[Penalty | None, BeforeValidator(_as_penalty)]


@section
class CurveRecipe:
    """How the curves are trained.

    Args:
        lr_multiplier: the curves' learning rate over that of the base weights; None takes the measured one
            (`CURVE_LR_MULTIPLIER` of the basis, `EDGE_LR_MULTIPLIER` for curves per edge).
        warm_up: optimizer steps over which the curves' learning rate rises from 0, beside the scheduler's own warm-up.
            With straight curves at the start this fades the curves in.
        domain: `config`: the grids cover `kan.domain`. `data`: each grid covers the range of its inputs, read from the
            first training batches before the first step (`update_grid`). For pretrained models, whose inputs vary.
        quantile: share of the inputs that a grid set from data covers on each side.
        update_grid_at: optimizer steps after which the grids move to where their inputs have gone. For training from
            scratch with a narrow domain; the inputs of a normalised block hardly move.
        refine_grid_at: {optimizer step: new grid size}; multiples of the old size keep B-splines exact.
        spread: None starts with straight curves. A number spreads them (`spread_curves`): standard deviation of what
            the curves of a layer add. For curves per edge that are trained from scratch.
        sparsity, smoothness: penalties on the curves, or their weights; None for no penalty.
    """

    lr_multiplier: PositiveNumber | None = None
    warm_up: Count = 0
    domain: Literal["config", "data"] = "config"
    quantile: Annotated[float, Field(strict=True, gt=0.5, le=1)] = 0.99
    update_grid_at: Annotated[tuple[PositiveInteger, ...], BeforeValidator(_as_tuple)] = ()
    refine_grid_at: dict[PositiveInteger, PositiveInteger] = Field(default_factory=dict)
    spread: PositiveNumber | None = None
    sparsity: OptionalPenalty = None
    smoothness: OptionalPenalty = None


@section
class DistillRecipe:
    """Learning from the original model, which is loaded a second time and never changes.

    Args:
        logits: share of the loss that is the divergence from the teacher's predictions, 0 to 1; the rest is the
            ordinary loss.
        temperature: that both predictions are softened with (Hinton et al., 2015).
        ffn_steps: optimizer steps of layer-wise distillation before the first ordinary step: every replaced
            feed-forward network learns the outputs of its original on that one's inputs.
        ffn_lr: learning rate of these steps.
    """

    logits: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    temperature: PositiveNumber = 1.0
    ffn_steps: Count = 0
    ffn_lr: PositiveNumber = 1e-3


@section
class Recipe:
    """One run of `train`.

    Args:
        task: `causal-lm`, `masked-lm`, `sequence-classification`, `image-classification` or `transcoder`.
        model: what is trained.
        data: on what.
        kan: the swap; None trains the model as it comes, plain or with the curves that it has already.
        curves: how the curves are trained.
        trainable: any of `all`, `curves`, `lora`. `(curves,)` freezes every base weight; `(curves, lora)` trains both.
        lora: fields of peft's `LoraConfig`, where `lora` is trainable.
        distill: learning from the original model; None for none.
        transcoder: of the task `transcoder`, which reads a causal language model and trains none of it. With it go
            `model`, `data` and `seed` only.
        shard: spread the parameters over all processes by FSDP2, through transformers; for CPUs, where accelerate does
            not. On GPUs launch with an accelerate config of FSDP instead.
        rows_per_step: rows of an optimizer step in all processes together, from which the steps of accumulation follow:
            a run so begun can be resumed by another number of processes. None leaves them to `training`.
        early_stop: evaluations without progress after which training ends and the best model is taken; None never.
        non_finite: what is done about a step whose loss or gradient is infinite or NaN: `stop` the run, or `skip` the
            step. Its batch is written to the run's folder.
        training: fields of transformers' `TrainingArguments`; `output_dir` and `seed` are set by `train`.
        seed: of the weights, of the order of the data and of dropout.

    Raises:
        ConfigError: a value is not among the choices, or two fields contradict each other.

    Examples:
        >>> from kansformer.training import Recipe
        >>> values = {"task": "causal-lm", "model": {"path": "embedded"}, "data": {"corpus": "standard-library"}}
        >>> recipe = Recipe.from_dict({**values, "kan": {"slots": ["act"]}, "trainable": "curves"})
        >>> recipe.kan.config.slots, recipe.trainable
        (('act',), ('curves',))
    """

    task: Literal["causal-lm", "masked-lm", "sequence-classification", "image-classification", "transcoder"]
    model: ModelRecipe
    data: DataRecipe
    kan: KANRecipe | None = None
    curves: CurveRecipe = Field(default_factory=CurveRecipe)
    trainable: Annotated[tuple[Literal["all", "curves", "lora"], ...], BeforeValidator(_as_tuple)] = ("all",)
    lora: Table | None = None
    distill: DistillRecipe | None = None
    transcoder: TranscoderRecipe | None = None
    shard: Annotated[bool, Field(strict=True)] = False
    rows_per_step: PositiveInteger | None = None
    early_stop: PositiveInteger | None = None
    non_finite: Literal["stop", "skip"] = "stop"
    training: Table = Field(default_factory=dict)
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0  # numpy's limit

    def __post_init__(self) -> None:
        scratch, steps = self.model.path is None, 0 if self.distill is None else self.distill.ffn_steps
        replaces = self.kan is not None and self.kan.hidden is not None
        trains_curves = self.curves != CurveRecipe() or "curves" in self.trainable
        penalty = self.curves.sparsity or self.curves.smoothness
        unused = self.to_dict().keys() - {"task", "model", "data", "transcoder", "seed"} if self.transcoder else set()
        own = [name for name in ("output_dir", "seed", "data_seed") if name in self.training]
        contradictions = {
            "task=transcoder and the section transcoder belong together. Give both or neither.": (
                (self.task == "transcoder") != (self.transcoder is not None)
            ),
            "A transcoder needs model.path: a model to read.": self.transcoder and scratch,
            f"{', '.join(sorted(unused))} does not go with the section transcoder, which says how it is trained. Leave "
            "it out.": unused,
            "training.resume_from_checkpoint is not read. Go on with --resume, or begin with model.path.": (
                "resume_from_checkpoint" in self.training
            ),
            "trainable is empty. Choose any of: all, curves, lora.": not self.trainable,
            "trainable has 'all' beside others. Choose all, or them.": (
                "all" in self.trainable and len(self.trainable) > 1
            ),
            "The recipe trains curves but has no kan section. Add kan: {}.": (
                trains_curves and self.kan is None and scratch
            ),
            "curves.spread draws curves, and kan.curves gives them. Leave one out.": (
                self.curves.spread is not None and self.kan is not None and self.kan.config.curves is not None
            ),
            "curves.sparsity and smoothness need trainable curves: add curves to trainable.": (
                penalty and not {"all", "curves"} & set(self.trainable)
            ),
            "lora must be among trainable and have a section lora, or neither, e.g. lora: {r: 8}.": (
                ("lora" in self.trainable) != (self.lora is not None)
            ),
            "shard=true needs curves of its own in every layer, and kan.share is 'model'. Choose kan.share=slot or "
            "shard=false.": self.shard and self.kan is not None and self.kan.config.share == "model",
            "distill needs model.path: a model trained from scratch has no original.": self.distill and scratch,
            f"distill works for causal-lm, not for {self.task}.": self.distill and self.task != "causal-lm",
            "distill.ffn_steps trains replaced networks, and none is: set kan.hidden.": steps and not replaces,
            "kan.hidden replaces pretrained layers. From scratch set the width in model.config.": replaces and scratch,
            f"training.{', '.join(own)} is set by train itself: seed is a field of the recipe, the folder an "
            "argument. Leave it out.": own,
            "training.gradient_accumulation_steps follows from rows_per_step. Give one of them.": (
                self.rows_per_step is not None and "gradient_accumulation_steps" in self.training
            ),
        }
        for sentence, holds in contradictions.items():
            if holds:
                raise ConfigError(sentence)
        if self.kan is not None and not self.kan.config.trainable:
            check_fixed_curves(self, "kan.trainable is false")

    def to_dict(self) -> dict[str, JsonValue]:
        """Ready for YAML and JSON, without the fields that have their default; `from_dict` is the inverse."""
        values = TypeAdapter(Recipe).dump_python(self, exclude_defaults=True)
        if self.kan is not None:
            values["kan"] = self.kan.config.to_dict() | ({"hidden": self.kan.hidden} if self.kan.hidden else {})
        return values

    @classmethod
    def from_dict(cls, values: dict[str, JsonValue]) -> "Recipe":
        """From the table that a YAML file holds.

        Raises:
            ConfigError: a field is unknown, missing, or has an impossible value; the sentence names it.
        """
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise ConfigError(f"The recipe must be a table of named fields, got {values!r:.80}.")
        without_curves = "kan" in values and values["kan"] is None  # the twin of a recipe with curves
        left_out = {name for name, value in values.items() if value is None} | ({"curves"} if without_curves else set())
        return cls(**{name: value for name, value in values.items() if name not in left_out})  # type: ignore[arg-type]


def check_fixed_curves(recipe: Recipe, reason: str) -> None:
    """Check that the recipe trains no curves, where they are a fixed function.

    Args:
        recipe: of a model with such curves.
        reason: why they are, the end of a sentence.

    Raises:
        ConfigError: a field of `curves` is not at its default, or `trainable` has curves.
    """
    default = CurveRecipe()
    changed = [name for name, value in vars(recipe.curves).items() if value != getattr(default, name)]
    if changed:
        field, value = f"curves.{changed[0]}", getattr(recipe.curves, changed[0])
        instead = f"Leave {field} out"
    elif "curves" in recipe.trainable:
        field, value, instead = "trainable", list(recipe.trainable), "Choose all or lora"
    else:
        return
    raise ConfigError(
        f"{field} is {getattr(value, 'weight', value)!r}, which is about curves that are trained, and these are a "
        f"fixed function: {reason}. {instead}, or give the plain model these curves with kan.trainable=true."
    )
