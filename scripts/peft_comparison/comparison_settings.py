"""Settings of one experiment. The defaults are those of PEFT's comparison; an experiment's file says what differs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from kansformer import KANConfig
from kansformer.errors import ConfigError
from kansformer.training.field_errors import PositiveInteger, PositiveNumber, section


@section
class Data:
    """Where the rows come from: names on the Hub, or folders with a file for each split, such as `train.jsonl`.

    Args:
        train: rows with `query` and `response`, as MetaMathQA has them; the split `train`.
        judge: rows with `question` and `answer`, as GSM8K has them; the splits `train` (to validate) and `test`.
        unrelated: rows with `text`, whose loss before and after tells what was forgotten; the split `train`.
    """

    train: str = "meta-math/MetaMathQA"
    judge: str = "openai/gsm8k"
    unrelated: str = "HuggingFaceFW/finewiki"


@section
class Curves:
    """How the curves' grids are set from data, and how fast the curves learn.

    Args:
        calibration_batches: of the training data, that the range of each curve's inputs is read from.
        quantile: share of these inputs that a grid covers on each side.
        lr_multiplier: the curves' learning rate divided by `training.lr`; None is that of `optimizer_groups`.
    """

    calibration_batches: PositiveInteger = 32
    quantile: Annotated[float, Field(strict=True, gt=0.5, le=1)] = 0.99
    lr_multiplier: PositiveNumber | None = None


@section
class Training:
    """What PEFT's `default_training_params.json` sets, with its values.

    Args:
        dtype: of the frozen weights. Curves are float32, as PEFT's adapters are.
        max_seq_length: tokens of a training row or prompt; longer ones are cut.
        batch_size, batch_size_eval: rows of a training step, prompts generated from at once.
        max_steps, eval_steps: optimizer steps, and those between two validations.
        seed: of torch, Python and numpy, which only sampled generation reads.
        grad_norm_clip: norm that the gradient of a step is clipped to.
        lr: peak learning rate, before the curves' multiplier; cosine with a tenth of the steps as warm-up.
        max_length, max_new_tokens: of a generated text; whichever is reached first.
        query_template: the prompt, with `{query}` for the question.
        attn_implementation: as in transformers; None is its choice.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_seq_length: PositiveInteger = 768
    batch_size: PositiveInteger = 4
    batch_size_eval: PositiveInteger = 50
    max_steps: PositiveInteger = 5000
    eval_steps: PositiveInteger = 250
    seed: int = 0
    grad_norm_clip: PositiveNumber = 1.0
    lr: PositiveNumber = 1e-4
    max_length: PositiveInteger = 800
    max_new_tokens: PositiveInteger = 300
    query_template: str = "Question: {query} Think step by step.\nAnswer:"
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if "{query}" not in self.query_template:
            raise ConfigError(f"query_template has no {{query}} to put the question in: {self.query_template!r:.200}.")
        if self.eval_steps > self.max_steps:
            raise ConfigError(f"eval_steps is {self.eval_steps}, above max_steps, which is {self.max_steps}.")


@section
class Settings:
    """One experiment.

    Args:
        experiment: "method/name", as PEFT's results call it.
        kan: fields of `KANConfig`.
        model: a name on the Hub, or a folder.
    """

    experiment: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    kan: dict[str, Any]
    model: str = "meta-llama/Llama-3.2-3B"
    data: Data = Field(default_factory=Data)
    curves: Curves = Field(default_factory=Curves)
    training: Training = Field(default_factory=Training)

    @property
    def kan_config(self) -> KANConfig:
        """The curves.

        Raises:
            ConfigError: a field of `kan` is unknown or impossible.
        """
        return KANConfig.from_dict(self.kan)

    @property
    def result_name(self) -> str:
        """The experiment's name as PEFT's result files have it."""
        return self.experiment.replace("/", "--")


def read_settings(path: Path) -> Settings:
    """Read the settings of an experiment.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or a field is unknown, missing or impossible.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{str(path)!r} must hold a table of named fields.")
    try:
        return Settings(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
