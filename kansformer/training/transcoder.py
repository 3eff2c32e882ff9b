"""Train a transcoder on the recorded inputs and outputs of one feed-forward network.

The error is FVU = Σ(ŷ - y)² / Σ(y - ȳ)², 1 for the mean output, where training begins. Inputs and outputs are divided
by their sizes while it trains, and the weights are put back into the network's units at the end, so that one learning
rate suits all layers.

Shape letters: N tokens, B tokens of a batch, I input width, O output width, M latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.checks import check_integer, check_number, check_seed
from kansformer.errors import ConfigError, DataError
from kansformer.nn import optimizer_groups
from kansformer.nn.eval_mode import ForwardEnded, eval_mode
from kansformer.nn.transcoder import Transcoder
from kansformer.progress import Progress, loss_and_speed
from kansformer.sites.intercept import intercept, site_of_layer
from kansformer.training.distill import draw_batches, warm_up_and_cosine
from kansformer.training.evaluate import check_blocks

WARM_UP = 0.05
# Tokens that the domains of curves are set from, and the part beyond their largest value.
DOMAIN_TOKENS, DOMAIN_MARGIN = 4096, 1.25
# The mean square of a decoder that counts as zero.
TINY = 1e-12
# Tokens that are evaluated at once.
CHUNK = 4096


@dataclass(frozen=True)
class RecordedNetwork:
    """The inputs and outputs of a feed-forward network on a text, without the first token of every block.

    It has nothing before it to attend to, and its activations may be many times those of all others.

    Args:
        x: inputs, (N, I), float32.
        y: outputs, (N, O), float32.

    Examples:
        >>> from kansformer.training import RecordedNetwork
        >>> len(RecordedNetwork(torch.randn(10, 4), torch.randn(10, 4)))
        10
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class TranscoderFit:
    """What training a transcoder did.

    Args:
        losses: mean FVU of the training batches, and with an L1 penalty the penalty, of every tenth of the steps.
        fvu: on all training tokens, afterwards.
        steps, tokens: that were trained on; tokens that were read several times count each time.
        seconds: wall-clock time.

    Examples:
        >>> from kansformer.training import TranscoderFit
        >>> TranscoderFit(losses=(0.9, 0.6), fvu=0.5, steps=100, tokens=51200, seconds=3.0).fvu
        0.5
    """

    losses: tuple[float, ...]
    fvu: float
    steps: int
    tokens: int
    seconds: float


@torch.no_grad()
def record_network(
    model: nn.Module, layer: int, blocks_NT: Tensor, *, batch_size: int = 8, progress: Progress | None = None
) -> RecordedNetwork:
    """Run a causal language model up to a feed-forward network, and keep the network's inputs and outputs in memory.

    Args:
        model: of transformers; in evaluation mode while it runs.
        layer: number of the layer.
        blocks_NT: token numbers, int64.
        batch_size: blocks in a forward pass.
        progress: called after every batch.

    Returns:
        Inputs and outputs; a token needs 2·d numbers of float32.

    Raises:
        SlotError: the layer has no feed-forward network whose input and output can be read.
        DataError: the blocks are misshapen, or the network does not run on each of their tokens.

    Examples:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from kansformer.training import record_network
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> recorded = record_network(LlamaForCausalLM(LlamaConfig(**sizes)), 0, torch.randint(50, (40, 16)))
        >>> recorded.x.shape, recorded.y.shape
        (torch.Size([600, 8]), torch.Size([600, 8]))
    """
    check_blocks(blocks_NT, batch_size)
    site = site_of_layer(model, layer)
    device = next(model.parameters()).device
    parts: list[tuple[Tensor, Tensor]] = []
    tokens = blocks_NT.shape[1]

    def keep(x: Tensor, y: Tensor) -> Tensor | None:
        if x.numel() != batch.numel() * x.shape[-1]:
            raise DataError(f"{site.name} ran on {tuple(x.shape)} for {tuple(batch.shape)} tokens.")
        rows = [part.reshape(-1, tokens, part.shape[-1])[:, 1:].flatten(0, 1).float().cpu() for part in (x, y)]
        parts.append((rows[0], rows[1]))
        raise ForwardEnded

    batches = blocks_NT.split(batch_size)
    begin = time.perf_counter()
    with eval_mode(model), intercept(model, site, keep):
        for number, batch in enumerate(batches, start=1):
            try:
                model(input_ids=batch.to(device), use_cache=False)
                raise DataError(f"The model's forward does not run {site.name}, so there is nothing to record.")
            except ForwardEnded:
                pass
            if progress is not None:
                rate = number * batch_size * tokens / (time.perf_counter() - begin)
                progress("recording", number, len(batches), f"{rate:,.0f} tokens/s")
    return RecordedNetwork(*map(torch.cat, zip(*parts, strict=True)))


@torch.enable_grad()
def train_transcoder(
    transcoder: Transcoder,
    recorded: RecordedNetwork,
    *,
    steps: int,
    batch_tokens: int = 512,
    lr: float = 8e-3,
    curve_lr_multiplier: float = 5.0,
    curves_begin: float = 0.5,
    l1: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> TranscoderFit:
    """Train a transcoder to compute what a network computed, in place. No global random state is read or set.

    Encoders of two transcoders of one width and seed begin with the same weights, decoders with zero and the mean
    output. Before `curves_begin` the curves are the identity and not trained, so that a transcoder with curves is the
    plain one until then.

    Args:
        transcoder: its weights are drawn anew; trained in its dtype and on its device.
        recorded: by `record_network`.
        steps: optimizer steps of Adam.
        batch_tokens: B. Every epoch reads the tokens in a new order, in full batches.
        lr: learning rate of the weights.
        curve_lr_multiplier: of the curves, over that.
        curves_begin: share of the steps before the curves get their domains and are trained, from 0 to 1.
        l1: weight of Σ_m |a_m|·r_m, with r_m the root mean square of W_dec,m in units of the output's.
        seed: of the weights and of the order of the tokens.
        progress: called after every step.

    Returns:
        A `TranscoderFit`.

    Raises:
        ConfigError: a setting is out of range, or the loss became infinite or NaN: then the transcoder is as before.
        DataError: there are fewer tokens than one batch, widths differ, or the outputs do not vary.

    Examples:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from kansformer.interp import Transcoder
        >>> from kansformer.training import record_network, train_transcoder
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> recorded = record_network(LlamaForCausalLM(LlamaConfig(**sizes)), 0, torch.randint(50, (40, 16)))
        >>> fit = train_transcoder(Transcoder(8, latents=32, k=4), recorded, steps=20, batch_tokens=64)
        >>> len(recorded), fit.fvu < fit.losses[0] < 1.2
        (600, True)
    """
    check_integer("steps", steps, 1)
    check_integer("batch_tokens", batch_tokens, 1)
    check_number("lr", lr, above=0)
    check_number("curves_begin", curves_begin, 0, 1)
    check_number("l1", l1, 0)
    check_seed(seed)
    x_NI, y_NO = recorded.x, recorded.y
    widths = (transcoder.encoder.in_features, transcoder.decoder.out_features)
    if (x_NI.shape[1], y_NO.shape[1]) != widths:
        raise DataError(f"The transcoder is {widths}, and the network was recorded as {x_NI.shape[1], y_NO.shape[1]}.")
    if len(recorded) < batch_tokens:
        raise DataError(f"{len(recorded)} recorded tokens are fewer than one batch of {batch_tokens}.")
    before = {name: tensor.clone() for name, tensor in transcoder.state_dict().items()}
    mean_I, mean_O = x_NI.mean(0), y_NO.mean(0)
    size_x, size_y = ((spread(v, mean) / len(mean)) ** 0.5 for v, mean in ((x_NI, mean_I), (y_NO, mean_O)))
    if not (size_x > 0 and size_y > 0):
        raise DataError("The recorded inputs or outputs do not vary, or are not finite.")
    begin = time.perf_counter()
    _draw_weights(transcoder, mean_I / size_x, mean_O / size_y, seed)
    groups = optimizer_groups(transcoder, lr, weight_decay=0.0, curve_lr_multiplier=curve_lr_multiplier)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_and_cosine(step, steps, WARM_UP))
    bending, weight = round(curves_begin * steps), transcoder.encoder.weight
    losses: list[float] = []
    for step, rows_B in zip(range(steps), draw_batches(torch.arange(len(recorded)), batch_tokens, seed), strict=False):
        x_BI, y_BO = x_NI[rows_B].to(weight) / size_x, y_NO[rows_B].to(weight) / size_y
        if transcoder.act is not None and step == bending:
            set_domains(transcoder, x_NI[draw_rows(len(recorded), seed)] / size_x)
        z_BM = transcoder.select(x_BI)
        a_BM = transcoder.bend(z_BM) if step >= bending else z_BM
        loss = (transcoder.decode(a_BM, x_BI) - y_BO).square().mean()
        if l1:
            size_M = transcoder.decoder.weight.square().mean(0).clamp(min=TINY).sqrt()  # whose slope at 0 is infinite
            loss = loss + l1 * (a_BM.abs() @ size_M).mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            transcoder.load_state_dict(before)
            raise ConfigError(
                f"The loss became infinite or NaN at step {step + 1} of {steps}. The transcoder is as before; choose a "
                f"lr below {lr:g}."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            rate = (step + 1) * batch_tokens / (time.perf_counter() - begin)
            progress("training", step + 1, steps, loss_and_speed(losses[-1], rate))
    _rescale(transcoder, size_x, size_y)
    tenth = max(1, steps // 10)
    means = tuple(sum(part) / len(part) for part in _parts(losses, tenth))
    fvu = mean_fvu(transcoder, recorded)
    return TranscoderFit(means, fvu, steps, steps * batch_tokens, time.perf_counter() - begin)


@torch.no_grad()
def mean_fvu(transcoder: Transcoder, recorded: RecordedNetwork) -> float:
    """FVU of a transcoder on recorded tokens."""
    pairs, weight = zip(recorded.x.split(CHUNK), recorded.y.split(CHUNK), strict=True), transcoder.encoder.weight
    error = sum(float((transcoder(x_BI.to(weight)) - y_BO.to(weight)).double().square().sum()) for x_BI, y_BO in pairs)
    return error / (spread(recorded.y, recorded.y.mean(0)) * len(recorded))


def spread(values_NO: Tensor, mean_O: Tensor) -> float:
    """The mean of ‖y - ȳ‖² over tokens."""
    total = sum(float((part - mean_O).double().square().sum()) for part in values_NO.split(CHUNK))
    return total / len(values_NO)


@torch.no_grad()
def set_domains(transcoder: Transcoder, x_NI: Tensor) -> None:
    """Let the grid of every curve cover the positive pre-activations of its latents on these inputs.

    A curve whose latents are never active gets the mean domain of the others. Curves must be zero, as at the start.
    """
    assert transcoder.act is not None
    domain = transcoder.act.domain
    parts = x_NI.to(transcoder.encoder.weight).split(CHUNK)
    upper_M = torch.stack([transcoder.select(part).amax(0) for part in parts]).amax(0)
    upper_P = upper_M.view(len(domain), -1).amax(1)
    alive = upper_P > 0
    usual = upper_P[alive].mean() if alive.any() else torch.ones(())
    domain[:, 0], domain[:, 1] = 0.0, DOMAIN_MARGIN * upper_P.where(alive, usual)


def draw_rows(count: int, seed: int) -> Tensor:
    """Numbers of the tokens that domains are set from."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed), device="cpu")[:DOMAIN_TOKENS]


@torch.no_grad()
def _draw_weights(transcoder: Transcoder, mean_I: Tensor, mean_O: Tensor, seed: int) -> None:
    """Random directions around the mean input, and the mean output from zero decoders."""
    generator = torch.Generator().manual_seed(seed)
    weight_MI = torch.randn(transcoder.encoder.weight.shape, generator=generator, device="cpu")
    weight_MI /= weight_MI.norm(dim=1, keepdim=True)  # so that pre-activations have a standard deviation near 1
    transcoder.encoder.weight.copy_(weight_MI)
    transcoder.encoder.bias.copy_(-weight_MI @ mean_I)
    transcoder.decoder.weight.zero_()
    transcoder.decoder.bias.copy_(mean_O)
    if transcoder.act is not None:
        transcoder.act.reset_parameters()
    if transcoder.skip is not None:
        transcoder.skip.weight.zero_()


@torch.no_grad()
def _rescale(transcoder: Transcoder, size_x: float, size_y: float) -> None:
    """From inputs and outputs that were divided by their sizes to the network's own; latents stay as they are."""
    transcoder.encoder.weight.div_(size_x)
    transcoder.decoder.weight.mul_(size_y)
    transcoder.decoder.bias.mul_(size_y)
    if transcoder.skip is not None:
        transcoder.skip.weight.mul_(size_y / size_x)


def _parts(values: list[float], size: int) -> Iterator[list[float]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
