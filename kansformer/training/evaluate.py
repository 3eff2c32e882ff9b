"""The loss of a causal language model on blocks of text.

Shape letters: N blocks, T tokens of a block.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.checks import check_integer
from kansformer.errors import DataError
from kansformer.nn.eval_mode import eval_mode
from kansformer.progress import Progress, loss_and_speed
from kansformer.training.first_call import check_causal
from kansformer.wording import counted


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Args:
        loss: mean cross-entropy per predicted token, in nats.
        perplexity: e to the loss; infinite where that overflows.
        tokens: predicted tokens, N·(T-1).
        seconds: wall-clock time.

    Examples:
        >>> from kansformer.training import Evaluation
        >>> print(Evaluation(loss=3.25, perplexity=25.79, tokens=1200, seconds=0.5))
        loss 3.2500, perplexity 25.79 on 1,200 tokens
    """

    loss: float
    perplexity: float
    tokens: int
    seconds: float

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, perplexity {self.perplexity:.2f} on {counted(self.tokens, 'token')}"


def mean_loss(
    model: nn.Module, blocks_NT: Tensor, batch_size: int = 16, *, progress: Progress | None = None
) -> Evaluation:
    """Mean next-token loss over all blocks, each read on its own, in evaluation mode.

    Args:
        model: a causal language model of transformers; its mode is the same afterwards.
        blocks_NT: token numbers, int64, N >= 1 and T >= 2.
        batch_size: blocks in one forward pass. It changes the result by rounding only.
        progress: called after every batch.

    Returns:
        The mean over the N·(T-1) predicted tokens, in nats, and their number.

    Raises:
        DataError: the blocks are not two-dimensional, are empty or too short, or `batch_size` is below 1.
        ConfigError: the model sees the tokens that it predicts, as an encoder does.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from kansformer.training import mean_loss
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2))
        >>> result = mean_loss(model, torch.randint(1000, (4, 16)))
        >>> result.tokens, round(result.loss)  # nats; ln 50257 = 10.8
        (60, 11)
    """
    check_blocks(blocks_NT, batch_size)
    device = next(model.parameters()).device
    # Without the loss by which experts are balanced.
    others = {"output_router_logits": False} if hasattr(getattr(model, "config", None), "output_router_logits") else {}
    batches = blocks_NT.split(batch_size)
    begin, total, tokens = time.perf_counter(), 0.0, 0
    with eval_mode(model), torch.no_grad():
        check_causal(model, blocks_NT[:1].to(device))
        for step, batch in enumerate(batches, start=1):
            batch = batch.to(device)
            predicted = batch.shape[0] * (batch.shape[1] - 1)
            total += predicted * model(input_ids=batch, labels=batch, use_cache=False, **others).loss.item()
            tokens += predicted
            if progress is not None:
                rate = tokens / (time.perf_counter() - begin)
                progress("evaluating", step, len(batches), loss_and_speed(total / tokens, rate))
    loss = total / tokens
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Evaluation(loss=loss, perplexity=perplexity, tokens=tokens, seconds=time.perf_counter() - begin)


def check_blocks(blocks_NT: Tensor, batch_size: int) -> None:
    """Check that a loop over blocks can use them."""
    if blocks_NT.ndim != 2 or blocks_NT.shape[0] < 1 or blocks_NT.shape[1] < 2:
        raise DataError(f"Blocks must have the shape (N >= 1, T >= 2), got {tuple(blocks_NT.shape)}.")
    check_integer("batch_size", batch_size, 1, error=DataError)
