"""Distil feed-forward networks: layer by layer from what the originals compute, and whole models from their logits.

Shape letters: `...` any, N blocks, T tokens of a block, B blocks of a batch, d model width, V words.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kansformer.conversion.record import narrowed_paths
from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.nn import optimizer_groups
from kansformer.progress import Progress, loss_and_speed
from kansformer.training.evaluate import check_blocks
from kansformer.training.tune import draw_batches, only_trained, put_back, warm_up_and_cosine

IGNORED = -100
"""The label of a token that no loss counts, as in torch and transformers."""

MEASURED_BLOCKS = 8
"""So many training blocks, and at most so many held-out ones, give the errors before and after."""

Recording = dict[str, tuple[Tensor, Tensor]]
"""Input and output (B, T, d) of feed-forward networks, by path."""


@dataclass(frozen=True)
class SiteFit:
    """How well one feed-forward network follows its teacher: relative L2 errors, where 1 is no better than zero.

    Args:
        path: of the network.
        before, after: ‖student - teacher‖ / ‖teacher‖ on training tokens.
        held_out_before, held_out_after: the same on tokens that were not trained on.
    """

    path: str
    before: float
    after: float
    held_out_before: float
    held_out_after: float


@dataclass(frozen=True)
class DistillResult:
    """What a run of `distill_feed_forwards` did. `str(result)` is a table.

    Args:
        sites: the error of every network, before and after.
        losses: training loss of every step: the mean over the networks of their squared relative error.
        tokens: tokens trained on, over all steps.
        seconds: wall-clock time, the teacher's included.
        parameters: numbers that were trained.
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
        cache_bytes: the teacher's inputs and outputs are kept in memory up to so many bytes, and computed again for
            blocks beyond that; 0 keeps nothing. A block needs 2·T·d numbers for each network.
        seed: of the order of the blocks.
        progress: called after every step.

    Returns:
        A `DistillResult`.

    Raises:
        ConfigError: no network was replaced, a path leads nowhere, model and teacher are one object, a setting is out
            of range, or the loss became infinite or NaN: then the networks are put back as they were.
        DataError: the blocks are misshapen, or fewer than one batch and one held-out block.
    """
    check_blocks(blocks_NT, batch_size)
    _check_settings(steps, lr, held_out, warm_up, cache_bytes)
    students, originals = _pairs(model, teacher, paths)
    spared = max(1, round(held_out * len(blocks_NT)))
    trained = len(blocks_NT) - spared
    if trained < batch_size:
        raise DataError(
            f"{len(blocks_NT)} blocks, {spared} of them held out, leave fewer than one batch of {batch_size}."
        )
    begin = time.perf_counter()
    record = _Recorder(originals, teacher, blocks_NT, cache_bytes)
    networks = nn.ModuleList(students.values())
    parameters = list(networks.parameters())
    samples = [
        list(range(first, first + min(count, MEASURED_BLOCKS))) for first, count in ((0, trained), (trained, spared))
    ]
    losses = []
    with only_trained(model, parameters):
        before = [_relative_errors(students, record(sample)) for sample in samples]
        groups = optimizer_groups(networks, lr, weight_decay=0.0, curve_lr_multiplier=curve_lr_multiplier)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_and_cosine(step, steps, warm_up))
        start = [parameter.detach().clone() for parameter in parameters]
        batches = draw_batches(torch.arange(trained), batch_size, seed)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            losses.append(_backward(students, record(next(batches).tolist())))
            if not math.isfinite(losses[-1]):
                put_back(parameters, start)
                raise ConfigError(
                    f"The loss became {losses[-1]} at step {step} of {steps}. The networks are as before; choose a lr "
                    f"below {lr:g}."
                )
            optimizer.step()
            scheduler.step()
            if progress is not None:
                rate = step * batch_size * blocks_NT.shape[1] / (time.perf_counter() - begin)
                progress("distilling", step, steps, loss_and_speed(losses[-1], rate))
        after = [_relative_errors(students, record(sample)) for sample in samples]
    columns = (before[0], after[0], before[1], after[1])
    return DistillResult(
        sites=tuple(SiteFit(path, *(column[path] for column in columns)) for path in students),
        losses=tuple(losses),
        tokens=steps * batch_size * blocks_NT.shape[1],
        seconds=time.perf_counter() - begin,
        parameters=sum(parameter.numel() for parameter in parameters),
    )


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0, alpha: float = 0.5
) -> Tensor:
    """α·t²·KL(teacher ‖ student) + (1 - α)·cross-entropy, for next-token prediction (Hinton et al., 2015).

    Both are means over the tokens that have a label, in nats, computed in float32 or better. As in transformers, the
    logits at one token predict the label of the next, and t² keeps the size of gradients at every temperature t.

    Args:
        student_logits: (B, T, V).
        teacher_logits: (B, T, V); no gradient goes into them.
        labels: (B, T), token numbers; -100 is not counted.
        temperature: t > 0, by which both logits are divided in the divergence.
        alpha: share of the divergence, in [0, 1].

    Returns:
        A scalar; 0 where no token has a label.

    Raises:
        ConfigError: a setting is out of range.
        ShapeError: the shapes do not belong together.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature={temperature} must be a number above 0.")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha={alpha} must be a share of the loss, from 0 to 1.")
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:-1] != labels.shape or labels.ndim != 2:
        raise ShapeError(
            f"Logits must be (B, T, V) for student and teacher and labels (B, T), got {tuple(student_logits.shape)}, "
            f"{tuple(teacher_logits.shape)} and {tuple(labels.shape)}."
        )
    targets_BT = labels[:, 1:].to(student_logits.device)
    counted = targets_BT != IGNORED
    precise = torch.promote_types(student_logits.dtype, torch.float32)
    student_NV = student_logits[:, :-1][counted].to(precise)
    teacher_NV = teacher_logits.detach()[:, :-1].to(student_logits.device)[counted].to(precise)
    tokens = max(1, len(student_NV))
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student_NV, teacher_NV))
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) / tokens
    cross_entropy = F.cross_entropy(student_NV, targets_BT[counted], reduction="sum") / tokens
    return alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy


class _AllRecorded(Exception):  # noqa: N818 - no error: it ends a forward pass whose rest nobody needs
    pass


class _Recorder:
    """What the teacher's networks receive and return for numbered blocks: from memory, or by running the teacher."""

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
                self._keep(number, rows[number])
        pairs = {path: [rows[number][path] for number in numbers] for path in self.originals}
        return {
            path: (torch.cat([x for x, _ in pair]), torch.cat([y for _, y in pair])) for path, pair in pairs.items()
        }

    def _keep(self, number: int, recording: Recording) -> None:
        size = sum(tensor.numel() * tensor.element_size() for pair in recording.values() for tensor in pair)
        if size <= self.free_bytes:
            self.free_bytes -= size
            self.kept[number] = {path: (x.clone(), y.clone()) for path, (x, y) in recording.items()}

    @torch.no_grad()
    def _run(self, numbers: Sequence[int]) -> Recording:
        """Run the teacher on these blocks, no further than its last network that is recorded."""
        recording: Recording = {}

        def hook(path: str) -> Callable:
            def record(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
                x = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
                recording[path] = (x, output)
                if len(recording) == len(self.originals):
                    raise _AllRecorded

            return record

        handles = [m.register_forward_hook(hook(p), with_kwargs=True) for p, m in self.originals.items()]
        training = self.teacher.training
        try:
            self.teacher.eval()
            device = next(self.teacher.parameters()).device
            self.teacher(input_ids=self.blocks_NT[list(numbers)].to(device), use_cache=False)
        except _AllRecorded:
            return recording
        finally:
            self.teacher.train(training)
            for handle in handles:
                handle.remove()
        missing = next(path for path in self.originals if path not in recording)
        raise ConfigError(f"The teacher's forward does not call {missing}, so there is nothing to learn from it.")


def _backward(students: Mapping[str, nn.Module], recording: Recording) -> float:
    """Gradients of every network's squared relative error; their mean is returned."""
    total = 0.0
    for path, student in students.items():
        x, y = recording[path]
        loss = (student(x) - y).float().square().sum() / y.float().square().sum()
        loss.backward()
        total += loss.item()
    return total / len(students)


@torch.no_grad()
def _relative_errors(students: Mapping[str, nn.Module], recording: Recording) -> dict[str, float]:
    errors = {}
    for path, student in students.items():
        x, y = recording[path]
        errors[path] = ((student(x) - y).norm() / y.norm()).item()
    return errors


def _pairs(
    model: nn.Module, teacher: nn.Module, paths: Sequence[str] | None
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The networks of the model and of its teacher at the same paths."""
    if model is teacher:
        raise ConfigError(
            "model and teacher are one object, so there is nothing to learn. Replace the layers of a copy."
        )
    chosen = narrowed_paths(model) if paths is None else list(paths)
    if not chosen:
        raise ConfigError(
            f"{type(model).__name__} has no replaced feed-forward networks. Call replace_feed_forwards first, or name "
            "the networks by paths=[...]."
        )
    found: list[dict[str, nn.Module]] = [{}, {}]
    for networks, owner, name in zip(found, (model, teacher), ("model", "teacher"), strict=True):
        for path in chosen:
            try:
                networks[path] = owner.get_submodule(path)
            except AttributeError:
                raise ConfigError(f"The {name} has no module {path!r} to distil.") from None
    return found[0], found[1]


def _check_settings(steps: int, lr: float, held_out: float, warm_up: float, cache_bytes: int) -> None:
    if steps < 1:
        raise ConfigError(f"steps={steps} must be 1 or more.")
    if not (math.isfinite(lr) and lr > 0):
        raise ConfigError(f"lr={lr} must be a number above 0.")
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out={held_out} must be a share of the blocks, above 0 and below 1.")
    if not 0 <= warm_up <= 1:
        raise ConfigError(f"warm_up={warm_up} must be a share of the steps, from 0 to 1.")
    if cache_bytes < 0:
        raise ConfigError(f"cache_bytes={cache_bytes} must be 0 or more.")
