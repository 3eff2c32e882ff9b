"""A training recipe: everything that decides what a run does, as one frozen table that checks itself.

A recipe is written as YAML; `recipe_file.py` reads it. Its sections are the classes below and `DataRecipe`.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from kansformer.config import KANConfig
from kansformer.errors import ConfigError
from kansformer.training.data.spec import TASKS, DataRecipe

TRAINABLE = ("all", "curves", "lora")
DOMAINS = ("config", "data")
NON_FINITE = ("stop", "skip")


@dataclass(frozen=True, kw_only=True)
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
    config: dict[str, Any] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if (self.path is None) == (self.config is None):
            raise ConfigError("model needs exactly one of: path (a pretrained model), config (train from scratch).")
        if self.config is not None and "model_type" not in self.config:
            raise ConfigError("model.config needs a model_type, such as llama, gpt2 or vit.")
        _choose("model.dtype", self.dtype, ("float32", "bfloat16", "float16"))


@dataclass(frozen=True, kw_only=True)
class KANRecipe:
    """The swap: the fields of `KANConfig`, and for a replacement the new hidden width.

    Args:
        config: which curves go where.
        hidden: None keeps all base weights, so that the swap is exact. A number replaces the feed-forward networks of
            the config's layers by fresh ones of that hidden width, to be distilled.
    """

    config: KANConfig = field(default_factory=KANConfig.from_scratch)
    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.hidden is not None:
            _whole("kan.hidden", self.hidden, 1)


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A penalty's weight over time.

    Args:
        weight: at full strength, in nats per unit of the penalty.
        begin: optimizer step at which it sets in.
        ramp: steps over which it grows from 0 to `weight`.
    """

    weight: float
    begin: int = 0
    ramp: int = 0

    def __post_init__(self) -> None:
        _number("weight", self.weight, 0.0)
        _whole("begin", self.begin, 0)
        _whole("ramp", self.ramp, 0)

    def at(self, step: int) -> float:
        """The weight at an optimizer step, counted from 0."""
        if step < self.begin:
            return 0.0
        return self.weight * min(1.0, (step - self.begin + 1) / (self.ramp + 1))


@dataclass(frozen=True, kw_only=True)
class CurveRecipe:
    """How the curves are trained.

    Args:
        lr_multiplier: the curves' learning rate over that of the base weights; None takes the measured one
            (`CURVE_LR_MULTIPLIER` of the basis, `EDGE_LR_MULTIPLIER` for curves per edge).
        warm_up: optimizer steps over which the curves' learning rate rises from 0, beside the scheduler's own warm-up.
            With straight curves at the start this fades the curves in.
        domain: `config`: the grids cover `kan.domain`. `data`: each grid covers the range of its inputs, read from the
            first training batches before the first step (`update_grid`). For pretrained models, whose inputs are wild.
        quantile: share of the inputs that a grid set from data covers on each side.
        update_grid_at: optimizer steps after which the grids move to where their inputs have gone. For training from
            scratch with a narrow domain; the inputs of a normalised block hardly move.
        refine_grid_at: {optimizer step: new grid size}; multiples of the old size keep B-splines exact.
        spread: None starts with straight curves. A number spreads them (`spread_curves`): standard deviation of what
            the curves of a layer add. For curves per edge that are trained from scratch.
        sparsity, smoothness: penalties on the curves; None is none.
    """

    lr_multiplier: float | None = None
    warm_up: int = 0
    domain: str = "config"
    quantile: float = 0.99
    update_grid_at: tuple[int, ...] = ()
    refine_grid_at: dict[int, int] = field(default_factory=dict)
    spread: float | None = None
    sparsity: Penalty | None = None
    smoothness: Penalty | None = None

    def __post_init__(self) -> None:
        _choose("curves.domain", self.domain, DOMAINS)
        _whole("curves.warm_up", self.warm_up, 0)
        if not 0.5 < self.quantile <= 1:
            raise ConfigError(f"curves.quantile must be above 0.5 and at most 1, got {self.quantile!r}.")
        for name in ("lr_multiplier", "spread"):
            if getattr(self, name) is not None:
                _number(f"curves.{name}", getattr(self, name), 0.0, above=True)
        steps = (self.update_grid_at,) if isinstance(self.update_grid_at, int) else tuple(self.update_grid_at)
        for step in (*steps, *self.refine_grid_at):
            _whole("a step of curves.update_grid_at or refine_grid_at", step, 1)
        for size in self.refine_grid_at.values():
            _whole("a grid size of curves.refine_grid_at", size, 1)
        object.__setattr__(self, "update_grid_at", steps)


@dataclass(frozen=True, kw_only=True)
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

    logits: float = 0.5
    temperature: float = 1.0
    ffn_steps: int = 0
    ffn_lr: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.logits <= 1:
            raise ConfigError(f"distill.logits must be a share from 0 to 1, got {self.logits!r}.")
        _number("distill.temperature", self.temperature, 0.0, above=True)
        _whole("distill.ffn_steps", self.ffn_steps, 0)
        _number("distill.ffn_lr", self.ffn_lr, 0.0, above=True)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of `train`.

    Args:
        task: `causal-lm`, `masked-lm`, `sequence-classification` or `image-classification`.
        model: what is trained.
        data: on what.
        kan: the swap; None trains the model as it comes, plain or with the curves that it has already.
        curves: how the curves are trained.
        trainable: any of `all`, `curves`, `lora`. `(curves,)` freezes every base weight; `(curves, lora)` trains both.
        lora: fields of peft's `LoraConfig`, where `lora` is trainable.
        distill: learning from the original model; None is none.
        shard: spread the parameters over all processes by FSDP2, through transformers; for CPUs, where accelerate does
            not. On GPUs launch with an accelerate config of FSDP instead.
        early_stop: evaluations without progress after which training ends and the best model is taken; None never.
        non_finite: what is done about a step whose loss or gradient is infinite or NaN: `stop` the run, or `skip` the
            step. Its batch is written to the run's folder.
        training: fields of transformers' `TrainingArguments`; `output_dir` and `seed` are set by `train`.
        seed: of the weights, of the order of the data and of dropout.

    Raises:
        ConfigError: a value is not among the choices, or two fields contradict each other.
    """

    task: str
    model: ModelRecipe
    data: DataRecipe
    kan: KANRecipe | None = None
    curves: CurveRecipe = field(default_factory=CurveRecipe)
    trainable: tuple[str, ...] = ("all",)
    lora: dict[str, Any] | None = None
    distill: DistillRecipe | None = None
    shard: bool = False
    early_stop: int | None = None
    non_finite: str = "stop"
    training: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("task", self.task, TASKS)
        chosen = (self.trainable,) if isinstance(self.trainable, str) else tuple(self.trainable)
        if not chosen:
            raise ConfigError(f"trainable is empty. Choose any of: {', '.join(TRAINABLE)}.")
        for name in chosen:
            _choose("trainable", name, TRAINABLE)
        if "all" in chosen and len(chosen) > 1:
            raise ConfigError(f"trainable has 'all' beside others: {', '.join(chosen)}. Choose all, or among the rest.")
        object.__setattr__(self, "trainable", chosen)
        _whole("seed", self.seed, 0)
        if self.early_stop is not None:
            _whole("early_stop", self.early_stop, 1)
        _choose("non_finite", self.non_finite, NON_FINITE)
        about_curves = self.curves != CurveRecipe() or "curves" in chosen
        if about_curves and self.kan is None and self.model.path is None:
            raise ConfigError("The recipe trains curves but has no kan section. Add kan: {} for the default ones.")
        if (self.curves.sparsity or self.curves.smoothness) and not {"all", "curves"} & set(chosen):
            raise ConfigError("curves.sparsity and smoothness need trainable curves: add curves to trainable.")
        if ("lora" in chosen) != (self.lora is not None):
            raise ConfigError("lora must be among trainable and have a section lora, or neither, e.g. lora: {r: 8}.")
        if self.distill is not None and self.model.path is None:
            raise ConfigError("distill needs model.path: a model that is trained from scratch has no original.")
        if self.distill is not None and self.task != "causal-lm":
            raise ConfigError(f"distill works for causal-lm, not for {self.task}.")
        if self.distill is not None and self.distill.ffn_steps and (self.kan is None or self.kan.hidden is None):
            raise ConfigError(
                "distill.ffn_steps trains replaced networks, and none is: set kan.hidden, or leave it out."
            )
        if self.kan is not None and self.kan.hidden is not None and self.model.path is None:
            raise ConfigError("kan.hidden replaces pretrained layers. From scratch set the width in model.config.")
        for name in ("output_dir", "seed", "data_seed"):
            if name in self.training:
                raise ConfigError(f"training.{name} is set by train itself. Leave it out.")

    def to_dict(self) -> dict[str, Any]:
        """Ready for YAML and JSON, without the fields that have their default; `from_dict` is the inverse."""
        values = _plain(self)
        if self.kan is not None:
            hidden = {} if self.kan.hidden is None else {"hidden": self.kan.hidden}
            values["kan"] = {**self.kan.config.to_dict(), **hidden}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """From the table that a YAML file holds.

        Raises:
            ConfigError: a field is unknown, missing, or has an impossible value; the sentence names it.
        """
        table = dict(_table("the recipe", values))
        if "kan" in table and table["kan"] is None:  # taken out: the twin of a recipe with curves
            table.pop("curves", None)
        sections: dict[str, Any] = {"model": ModelRecipe, "data": DataRecipe, "distill": DistillRecipe}
        for name, section in sections.items():
            if table.get(name) is not None:
                table[name] = _build(section, table[name], name)
        if isinstance(table.get("kan"), dict):
            kan = dict(table["kan"])
            hidden = kan.pop("hidden", None)
            table["kan"] = KANRecipe(config=_kan_config(kan), hidden=hidden)
        if table.get("curves") is not None:
            curves = dict(_table("curves", table["curves"]))
            for name in ("sparsity", "smoothness"):
                if isinstance(curves.get(name), (int, float)):
                    curves[name] = {"weight": curves[name]}
                if curves.get(name) is not None:
                    curves[name] = _build(Penalty, curves[name], f"curves.{name}")
            table["curves"] = _build(CurveRecipe, curves, "curves")
        return _build(cls, {name: value for name, value in table.items() if value is not None}, "")


def _kan_config(values: dict[str, Any]) -> KANConfig:
    """The settings that a recipe leaves out are those of training from scratch."""
    try:
        return KANConfig.from_dict({**KANConfig.from_scratch().to_dict(), **values})
    except ConfigError as error:
        raise ConfigError(f"kan: {error}") from error


def _build(section: Any, values: Any, place: str) -> Any:
    values = _table(place or "the recipe", values)
    fields = dataclasses.fields(section)
    known = [f.name for f in fields]
    dot = f"{place}." if place else ""
    for name in values:
        if name not in known:
            raise ConfigError(f"Unknown field '{dot}{name}'. Choose from: {', '.join(known)}.")
    required = (f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
    for name in required:
        if name not in values:
            raise ConfigError(f"The field '{dot}{name}' is missing.")
    try:
        return section(**values)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{place or 'The recipe'} has a value of the wrong type: {error}.") from None


def _plain(value: Any) -> Any:
    """Dataclasses as tables without default values, tuples as lists."""
    if isinstance(value, KANConfig):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        table = {}
        for f in dataclasses.fields(value):
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if getattr(value, f.name) != default:
                table[f.name] = _plain(getattr(value, f.name))
        return table
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _table(place: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{place} must be a table of named fields, got {values!r:.80}.")
    return values


def _choose(place: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{place} is {value!r}. Choose one of: {', '.join(choices)}.")


def _whole(place: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{place} must be a whole number of at least {least}, got {value!r}.")


def _number(place: str, value: object, least: float, *, above: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (value > least if above else value >= least):  # type: ignore[operator]
        raise ConfigError(f"{place} must be a number {'above' if above else 'of at least'} {least:g}, got {value!r}.")
