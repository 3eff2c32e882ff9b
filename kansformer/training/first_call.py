"""One call of a model before a run: that it takes the data, that it does not see what it predicts, and what its loss is
divided by.

Shape letters: N blocks, T tokens of a block.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError
from kansformer.nn.eval_mode import eval_mode

TOKENS_SEEN = 16
# Of what the last token changes in the logits at its own place. Rounding is far below, and fresh encoders above 3e-4.
LEAK, LEAK_16_BITS = 5e-5, 2e-2


def call_once(model: nn.Module, row: Mapping[str, Tensor], task: str) -> bool:
    """Call a model in evaluation mode on a batch of one row with its labels.

    Returns:
        Whether the loss is divided by `num_items_in_batch`, as transformers' Trainer expects of each model that takes
        any keywords; the losses of many pass it over, and Trainer then scales their gradients by accumulation and
        processes.

    Raises:
        ConfigError: the call fails, or a causal language model sees the tokens that it predicts.
    """
    device = next(model.parameters()).device
    row = {name: value.to(device) for name, value in row.items()}
    with eval_mode(model), torch.no_grad():
        try:
            losses = [model(**row).loss]
        except Exception as error:  # whatever its layers say of this row
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in row.items())
            raise ConfigError(
                f"{type(model).__name__} cannot be called with a row of the data ({shapes}): {type(error).__name__}: "
                f"{' '.join(str(error).split()):.400}"
            ) from error
        if task == "causal-lm":
            check_causal(model, row["input_ids"])
        try:
            losses += [model(**row, num_items_in_batch=torch.tensor(count, device=device)).loss for count in (1, 2)]
        except TypeError:  # its forward has no such keyword
            return False
    return not torch.equal(losses[1], losses[2])


@torch.no_grad()
def check_causal(model: nn.Module, blocks_NT: Tensor) -> None:
    """Check that a causal language model, in evaluation mode, does not see later tokens.

    Args:
        blocks_NT: the first one is read, as far as 16 tokens.

    Raises:
        ConfigError: the last token changes what the model says of earlier ones.
    """
    tokens_1T = blocks_NT[:1, :TOKENS_SEEN]
    changed_1T = tokens_1T.clone()
    changed_1T[:, -1] = tokens_1T[:, 0] if tokens_1T[0, 0] != tokens_1T[0, -1] else (tokens_1T[:, -1] == 0).long()
    outputs = [model(input_ids=tokens) for tokens in (tokens_1T, changed_1T)]
    if any(getattr(output, "logits", None) is None for output in outputs):
        return
    difference_T = (outputs[0].logits[0] - outputs[1].logits[0]).float().abs().amax(dim=-1)
    leak = LEAK_16_BITS if next(model.parameters()).element_size() < 4 else LEAK
    is_seen = difference_T[:-1].max() > leak * difference_T[-1]
    if is_seen and torch.equal(model(input_ids=tokens_1T).logits, outputs[0].logits):  # some draw numbers in each call
        config = getattr(model, "config", None)
        advice = "Set model.config.is_decoder=true, or take" if hasattr(config, "is_decoder") else "Take"
        raise ConfigError(
            f"{type(model).__name__} sees the tokens that it predicts: another last token of a text changes its logits "
            f"for earlier ones, so its loss would mean nothing. {advice} a decoder, or the task masked-lm."
        )
