"""Distil feed-forward networks layer by layer, from the inputs and outputs of the originals.

Shape letters: N blocks, T tokens of a block, B blocks of a batch, d model width.
"""

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from kansformer.checks import check_integer, check_number, check_seed
from kansformer.conversion.record import narrowed_paths, record_of
from kansformer.errors import ConfigError, DataError
from kansformer.nn import optimizer_groups
from kansformer.nn.eval_mode import ForwardEnded, eval_mode
from kansformer.nn.hooks import input_of, run_eagerly
from kansformer.nn.optim import curve_parameters
from kansformer.progress import Progress
from kansformer.training.callbacks import Reporter
from kansformer.training.evaluate import check_blocks
from kansformer.training.trainer import KANTrainer, distillation_loss

__all__ = ["DistillResult", "SiteFit", "distill_feed_forwards", "distillation_loss"]

MEASURED_BLOCKS = 8
"""Maximum number of training blocks, and of held-out ones, for the errors before and after."""

Recording = dict[str, tuple[Tensor, Tensor]]
"""Input and output (B, T, d) of feed-forward networks, by path."""


@dataclass(frozen=True)
class SiteFit:
    """How well one feed-forward network follows its teacher: ‖student - teacher‖ / ‖teacher‖, 1 for an output of zero.

    On training tokens, and on tokens that were not trained on.
    """

    path: str
    before: float
    after: float
    held_out_before: float
    held_out_after: float


@dataclass(frozen=True)
class DistillResult:
    """What a run of `distill_feed_forwards` did. `str(result)` is a table.

    A step's loss is the mean over the networks of their squared relative error; `tokens` is over all steps, and
    `seconds` has the teacher's time.
    """

    sites: tuple[SiteFit, ...]
    losses: tuple[float, ...]
    tokens: int
    seconds: float
    parameters: int

    def __str__(self) -> str:
        width = max(len(site.path) for site in self.sites)
        lines = [f"{'relative error':{width}}  before -> after   on held-out tokens"]
        lines += [
            f"{s.path:{width}}  {s.before:6.3f} -> {s.after:.3f}   {s.held_out_before:6.3f} -> {s.held_out_after:.3f}"
            for s in self.sites
        ]
        return "\n".join(lines)


def distill_feed_forwards(
    model: nn.Module,
    teacher: nn.Module,
    blocks_NT: Tensor,
    *,
    steps: int,
    batch_size: int = 4,
    lr: float = 1e-3,
    curve_lr_multiplier: float | None = None,
    paths: Sequence[str] | None = None,
    held_out: float = 0.1,
    warm_up: float = 0.1,
    cache_bytes: int = 2**31,
    seed: int = 0,
    progress: Progress | None = None,
) -> DistillResult:
    """Train feed-forward networks to compute what those of a teacher compute on the teacher's own inputs, in place.

    The networks are independent of each other, so an error in one is not passed on to the next, and none of the rest of
    the model runs backwards. AdamW on all their parameters, curves with a learning rate of their own, a linear warm-up
    and half a cosine down to zero. No global random state is read or set.

    Args:
        model: with replaced feed-forward networks, as made by `kansformer.conversion.replace_feed_forwards`.
        teacher: the original model; another object, with networks at the same paths.
        blocks_NT: token numbers, int64. Every epoch reads the training blocks in a new order, in full batches.
        steps: optimizer steps.
        batch_size: B.
        lr: learning rate of base weights; curves get a multiple of it.
        curve_lr_multiplier: that multiple; None takes the measured one, as `optimizer_groups` does.
        paths: of the networks; None takes those that were replaced.
        held_out: share of the blocks, the last ones, that are only measured on, in (0, 1); at least one block.
        warm_up: share of the steps with a rising learning rate, in [0, 1].
        cache_bytes: the teacher's inputs and outputs are kept in memory up to this size, and computed again for blocks
            beyond it; 0 keeps nothing. A block needs 2·T·d numbers for each network.
        seed: of the order of the blocks.
        progress: called after every step.

    Returns:
        A `DistillResult`.

    Raises:
        ConfigError: no network was replaced, a path leads nowhere, model and teacher are one object, a setting is out
            of range, or the loss became infinite or NaN: then the networks are put back as they were.
        DataError: the blocks are misshapen, or fewer than one batch and one held-out block.

    Examples:
        >>> from copy import deepcopy
        >>> from transformers import GPT2Config, GPT2Model
        >>> from kansformer import KANConfig
        >>> from kansformer.conversion import replace_feed_forwards
        >>> from kansformer.training import distill_feed_forwards
        >>> teacher = GPT2Model(GPT2Config(n_embd=8, n_layer=2, n_head=2))
        >>> model = replace_feed_forwards(deepcopy(teacher), KANConfig(), hidden=16)
        >>> result = distill_feed_forwards(model, teacher, torch.randint(1000, (9, 16)), steps=1)
        >>> [site.path for site in result.sites], result.tokens
        (['h.0.mlp', 'h.1.mlp'], 64)
    """
    check_blocks(blocks_NT, batch_size)
    check_integer("steps", steps, 1)
    check_number("lr", lr, above=0)
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out must be above 0 and below 1, got {held_out!r}.")
    check_number("warm_up", warm_up, 0, 1)
    check_integer("cache_bytes", cache_bytes, 0)
    students, originals = _pairs(model, teacher, paths)
    spared = max(1, round(held_out * len(blocks_NT)))
    trained = len(blocks_NT) - spared
    if trained < batch_size:
        raise DataError(
            f"{len(blocks_NT)} blocks, {spared} of them held out, leave fewer than one batch of {batch_size}."
        )
    begin = time.perf_counter()
    errors = _LayerErrors(students.values(), _Recorder(originals, teacher, blocks_NT, cache_bytes))
    parameters = list(errors.parameters())
    samples = [range(first, first + min(count, MEASURED_BLOCKS)) for first, count in ((0, trained), (trained, spared))]
    record = record_of(model)
    fixed = [p for _, p in curve_parameters(model)] if record is not None and record.is_fixed else []
    with _ready_to_train(errors, fixed), tempfile.TemporaryDirectory() as folder:
        before = [errors.relative(sample) for sample in samples]
        groups = optimizer_groups(errors, lr, weight_decay=0.0, curve_lr_multiplier=curve_lr_multiplier)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_and_cosine(step, steps, warm_up))
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=batch_size, max_grad_norm=0.0, logging_steps=1,
            logging_nan_inf_filter=False, train_sampling_strategy="sequential", save_strategy="no", report_to="none",
            disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False, learning_rate=lr,
            use_cpu=parameters[0].device.type == "cpu",
        )  # fmt: skip
        batches = islice(draw_batches(torch.arange(trained), batch_size, seed), steps * arguments.world_size)
        rows = [{"numbers": number} for number in torch.cat([*batches]).tolist()]
        trainer = _LayerTrainer(errors, arguments, train_dataset=rows, optimizers=(optimizer, scheduler))  # type: ignore[arg-type]
        trainer.args._n_gpu = 1  # several GPUs of one process would share the recorder
        tokens_per_step = batch_size * arguments.world_size * blocks_NT.shape[1]
        reporter = Reporter(None, tokens_per_step, progress, "distilling")
        reporter.attach(trainer)
        start = [parameter.detach().clone() for parameter in parameters]
        try:
            trainer.train()
        except ConfigError:
            with torch.no_grad():
                for parameter, value in zip(parameters, start, strict=True):
                    parameter.copy_(value)
            raise ConfigError(
                f"The loss or a gradient became infinite or NaN at step {trainer.state.global_step + 1} of {steps}. "
                f"The networks are as before; choose a lr below {lr:g}."
            ) from None
        after = [errors.relative(sample) for sample in samples]
    columns = zip(students, before[0], after[0], before[1], after[1], strict=True)
    return DistillResult(
        sites=tuple(SiteFit(*column) for column in columns),
        losses=tuple(loss for _, loss in reporter.losses),
        tokens=steps * tokens_per_step,
        seconds=time.perf_counter() - begin,
        parameters=sum(parameter.numel() for parameter in parameters),
    )


def draw_batches(blocks_NT: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Full batches without end: every epoch in a new order, which depends on the seed only."""
    generator = torch.Generator().manual_seed(check_seed(seed))
    while True:
        order_N = torch.randperm(len(blocks_NT), generator=generator, device="cpu")
        for start in range(0, len(order_N) - batch_size + 1, batch_size):
            yield blocks_NT[order_N[start : start + batch_size]]


def warm_up_and_cosine(step: int, steps: int, warm_up: float) -> float:
    """A linear rise over a share of the steps, then half a cosine down to zero."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@contextmanager
def _ready_to_train(errors: "_LayerErrors", fixed: Iterable[nn.Parameter]) -> Iterator[None]:
    """All parameters but the fixed ones require a gradient; flags, gradients, modes and global random states are
    restored afterwards."""
    kept = [(parameter, parameter.requires_grad, parameter.grad) for parameter in errors.parameters()]
    python, numpy = random.getstate(), np.random.get_state()
    with eval_mode(errors), torch.random.fork_rng():
        try:
            errors.requires_grad_(True).zero_grad()
            for parameter in fixed:
                parameter.requires_grad_(False)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for parameter, flag, gradient in kept:
                parameter.requires_grad_(flag)
                parameter.grad = gradient


class _LayerErrors(nn.Module):
    """The sum of the networks' squared relative errors on recorded inputs: each network has its own's gradient."""

    def __init__(self, students: Iterable[nn.Module], record: "_Recorder") -> None:
        super().__init__()
        self.students, self.record = nn.ModuleList(students), record

    def train(self, mode: bool = True) -> "_LayerErrors":
        """Dropout stays off."""
        return super().train(False)

    def forward(self, numbers: Tensor) -> dict[str, Tensor]:
        """Of numbered blocks (B)."""
        pairs = zip(self.students, self.record(numbers.tolist()).values(), strict=True)
        errors = [(network(x) - y).float().square().sum() / y.float().square().sum() for network, (x, y) in pairs]
        return {"loss": torch.stack(errors).sum()}

    @torch.no_grad()
    def relative(self, numbers: Sequence[int]) -> list[float]:
        """The relative error of each network."""
        pairs = zip(self.students, self.record(numbers).values(), strict=True)
        return [((network(x) - y).norm() / y.norm()).item() for network, (x, y) in pairs]


class _LayerTrainer(KANTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        """The mean over the networks is logged."""
        assert isinstance(self.model, _LayerErrors)
        return super().training_step(model, inputs, num_items_in_batch) / len(self.model.students)


class _Recorder:
    """Inputs and outputs of the teacher's networks for numbered blocks: from memory, or by running the teacher."""

    def __init__(
        self, originals: Mapping[str, nn.Module], teacher: nn.Module, blocks_NT: Tensor, cache_bytes: int
    ) -> None:
        self.originals, self.teacher, self.blocks_NT = originals, teacher, blocks_NT
        self.free_bytes, self.kept = cache_bytes, dict[int, Recording]()

    def __call__(self, numbers: Sequence[int]) -> Recording:
        rows = {number: self.kept[number] for number in numbers if number in self.kept}
        if absent := [number for number in numbers if number not in rows]:
            fresh = self._run(absent)
            for row, number in enumerate(absent):
                rows[number] = {path: (x[row : row + 1], y[row : row + 1]) for path, (x, y) in fresh.items()}
                size = sum(tensor.nbytes for pair in rows[number].values() for tensor in pair)
                if size <= self.free_bytes:
                    self.free_bytes -= size
                    self.kept[number] = {path: (x.clone(), y.clone()) for path, (x, y) in rows[number].items()}
        columns = {path: zip(*(rows[number][path] for number in numbers), strict=True) for path in self.originals}
        return {path: (torch.cat(x), torch.cat(y)) for path, (x, y) in columns.items()}

    @torch.no_grad()
    def _run(self, numbers: Sequence[int]) -> Recording:
        """Run the teacher, no further than its last recorded network."""
        recording: Recording = {}

        inputs: dict[str, Tensor] = {}

        def see(path: str) -> Callable:
            def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                inputs[path] = input_of(args, kwargs)

            return hook

        def record(path: str) -> Callable:
            def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
                recording[path] = (inputs[path], output.clone())  # what follows may work in place
                if len(recording) == len(self.originals):
                    raise ForwardEnded

            return hook

        handles = [m.register_forward_hook(record(p)) for p, m in self.originals.items()]
        for path, module in self.originals.items():  # before a curve on the input, which is a hook as well, bends it
            handles.append(module.register_forward_pre_hook(see(path), prepend=True, with_kwargs=True))
        device = next(self.teacher.parameters()).device
        try:
            with run_eagerly(), eval_mode(self.teacher):
                self.teacher(input_ids=self.blocks_NT[list(numbers)].to(device), use_cache=False)
        except ForwardEnded:
            return recording
        finally:
            for handle in handles:
                handle.remove()
        missing = next(path for path in self.originals if path not in recording)
        raise ConfigError(f"The teacher's forward does not call {missing}, so there is nothing to learn from it.")


def _pairs(
    model: nn.Module, teacher: nn.Module, paths: Sequence[str] | None
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The networks of the model and of its teacher at the same paths."""
    if model is teacher:
        raise ConfigError(
            "model and teacher are one object, so there is nothing to learn. Replace the layers of a copy."
        )
    chosen = narrowed_paths(model) if paths is None else paths
    if not chosen:
        raise ConfigError(
            f"{type(model).__name__} has no replaced feed-forward networks. Call replace_feed_forwards first, or name "
            "the networks by paths=[...]."
        )
    students, originals = dict[str, nn.Module](), dict[str, nn.Module]()
    for name, owner, networks in (("model", model, students), ("teacher", teacher, originals)):
        for path in chosen:
            try:
                networks[path] = owner.get_submodule(path)
            except AttributeError:
                raise ConfigError(f"The {name} has no module {path!r} to distil.") from None
    return students, originals
