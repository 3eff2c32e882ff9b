"""A whole language model against itself converted: tokens per second of reading, training and writing."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from kansformer.conversion import convert
from kansformer.errors import ConfigError
from speed.blocks import bend_curves
from speed.harness import Action, alternate, clock_for
from speed.suites import Options, Report
from speed.table import Row

ORIGINAL, CONVERTED = "original", "converted"
READ, PROMPT, WRITE = 512, 32, 32


def measure_model(
    suite: str, name: str, model: nn.Module, options: Options, *, read: int | None = None, write: int = WRITE
) -> Report:
    """Time a causal language model against a copy of it that was converted with `KANConfig()`.

    The curves of the copy get random coefficients; no path of the code is shorter for straight ones.

    Args:
        suite, name: of the rows.
        model: of transformers, on the device and in the dtype to measure.
        read: tokens of a prefill and of a training step, one sequence; None is 512, or all positions of a model that
            has fewer.
        write: tokens that generation adds, greedily, to a short prompt.
        options: how to measure. Memory is not measured here.

    Raises:
        ConfigError: the model has fewer positions than asked for.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    positions = getattr(config, "max_position_embeddings", None) or READ
    read = min(READ, positions) if read is None else read
    if max(read, PROMPT + write) > positions:
        raise ConfigError(f"{name} has {positions} positions, too few for {max(read, PROMPT + write)} tokens.")
    converted = bend_curves(convert(copy.deepcopy(model)))
    models = {ORIGINAL: model.eval(), CONVERTED: converted.eval()}
    added = sum(p.numel() for p in converted.parameters()) - sum(p.numel() for p in model.parameters())
    notes = {
        ORIGINAL: "the baseline",
        CONVERTED: f"KANConfig() with curves bent at random, {added:,} parameters more",
    }
    return measure_models(suite, name, models, notes, options, read=read, write=write)


def measure_models(
    suite: str,
    name: str,
    models: Mapping[str, nn.Module],
    notes: Mapping[str, str],
    options: Options,
    *,
    read: int,
    write: int = WRITE,
    sequences: int = 1,
) -> Report:
    """Time causal language models of one vocabulary against the first of them.

    Args:
        suite, name: of the rows.
        models: by the variant's name, on the device and in evaluation mode.
        notes: what a reader has to know, for each.
        options: how to measure.
        read, sequences: tokens of a sequence, and how many sequences, in a prefill and a training step.
        write: tokens that generation adds, greedily, to a short prompt of one sequence.
    """
    baseline = next(iter(models))
    vocabulary = models[baseline].config.get_text_config().vocab_size  # type: ignore[operator, union-attr]
    tokens = torch.randint(0, vocabulary, (sequences, read), generator=torch.Generator().manual_seed(0))
    tokens_NT = tokens.to(options.device)
    sizes = f"{sequences} x {read} tokens read, {write} written after {PROMPT}"
    report = Report()
    for measure, count in (("prefill", sequences * read), ("train", sequences * read), ("generate", write)):
        actions = {key: _action(measure, each, tokens_NT, write) for key, each in models.items()}
        rounds = alternate(
            actions,
            rounds=options.rounds,
            clock=clock_for(options.device),
            least_seconds=options.least_seconds,
            warm_up=1,
            progress=options.progress,
        )
        for key, each in models.items():
            speed = rounds.ratio(baseline, key)  # a ratio of speeds is the inverse one of times
            report.rows.append(
                Row(
                    suite=suite,
                    shape=name,
                    variant=key,
                    measure=measure,
                    baseline=baseline,
                    ratio=speed.median,
                    ratio_lower=speed.lower,
                    ratio_upper=speed.upper,
                    rounds=options.rounds,
                    calls=rounds.calls[key],
                    parameters=sum(p.numel() for p in each.parameters()),
                    tokens_per_second=count / rounds.time(key).median,
                    milliseconds=1000 * rounds.time(key).median if options.device == "cuda" else None,
                    note=f"{notes[key]}; {sizes}",
                )
            )
    return report


def _action(measure: str, model, tokens_NT: torch.Tensor, write: int) -> Action:
    if measure == "prefill":
        return torch.no_grad()(lambda: model(input_ids=tokens_NT, use_cache=True))
    if measure == "train":
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

        def train():
            loss = model(input_ids=tokens_NT, labels=tokens_NT, use_cache=False).loss
            return torch.autograd.grad(loss, parameters, allow_unused=True)

        return train
    prompt_NT = tokens_NT[:1, :PROMPT]
    settings = dict(max_new_tokens=write, min_new_tokens=write, do_sample=False, temperature=None, top_p=None)
    mask_NT = torch.ones_like(prompt_NT)
    return lambda: model.generate(prompt_NT, attention_mask=mask_NT, top_k=None, pad_token_id=0, **settings)
