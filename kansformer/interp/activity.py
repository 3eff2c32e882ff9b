"""How many learned curves are at work at a token: what L0 and the share alive mean for curves.

The latents of a sparse autoencoder are exactly zero at most tokens. A learned curve s_oi is zero only where it was
never trained or was pruned, so counting what is not zero would count nearly every curve. A curve is therefore *alive*
at a token where |s_oi(x_i)| exceeds a share, 1 % unless given, of the root mean square of φ over all edges of the slot
and all tokens: one number for the slot, in the units of its output, so that small curves of small edges do not count.
Edges that are computed by something else in a context (`ablate`, `replace_by_symbol`) have no curve at work there.
L0 is the mean number of curves alive at a token; the share alive is that of curves alive at one token or more. Padding
does not count, but in stacks of experts, which sort the tokens.

Shape letters: N tokens, I inputs, O outputs, T terms.
"""

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.batches import rows
from kansformer.interp.edge_features import edge_terms, num_terms, term_weights
from kansformer.interp.edits import replaced_edges
from kansformer.interp.recording import RecordedSlot
from kansformer.nn.hooks import input_of
from kansformer.sites.parts import stacks_of
from kansformer.sites.site import parent_of

ALIVE = 0.01
"""The share of the slot's root mean square from which a curve counts as alive."""

# Values of curves that are held at once, and those of a batch: of more edges fewer tokens are counted.
CHUNK, BUDGET = 2**22, 2**28


def edge_size(recorded: RecordedSlot) -> float:
    """The root mean square of φ over all edges of a slot and all recorded tokens."""
    return float((recorded.means().square() + recorded.variances()).mean().sqrt())


class Activity:
    """Counts the curves of one slot that are alive, batch by batch.

    Args:
        model: that the slot is of.
        slot: the slot.
        threshold: |s_oi| from which a curve is alive, in units of the slot's output.

    Attributes:
        tokens: number of tokens that were counted.
        mask: of the batch's padding, which is not counted.
    """

    def __init__(self, model: nn.Module, slot: CurveSlot, threshold: float) -> None:
        self.slot, self.threshold = slot, threshold
        self.tokens = self._count = 0
        self.mask: Tensor | None = None
        self._sorts_tokens = bool(stacks_of(model.get_submodule(parent_of(slot.path)[0])))
        self._ever_IO = torch.zeros(slot.module.in_features, slot.num_outputs, dtype=torch.bool)

    @property
    def l0(self) -> float:
        """Mean number of curves alive at a token; NaN before the first."""
        return self._count / self.tokens if self.tokens else float("nan")

    @property
    def num_alive(self) -> int:
        """Curves that were alive at one token or more."""
        return int(self._ever_IO.sum())

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A forward pre-hook of the slot's module."""
        x_NI = rows(input_of(args, kwargs).detach(), None if self._sorts_tokens else self.mask)
        tokens = max(1, BUDGET // self.slot.num_edges)
        if len(x_NI) > tokens:  # evenly spaced ones
            x_NI = x_NI[torch.arange(tokens, device=x_NI.device) * len(x_NI) // tokens]
        self.tokens += len(x_NI)
        used_IO = self._used().to(x_NI.device)
        if not used_IO.any():
            return
        terms = num_terms(self.slot.module)
        step = max(1, CHUNK // max(1, len(x_NI) * max(terms, self.slot.num_outputs)))
        for start in range(0, x_NI.shape[1], step):
            chunk = slice(start, min(start + step, x_NI.shape[1]))
            learned_NIT = edge_terms(self.slot.module, x_NI[:, chunk], chunk)[..., 1:]
            weights_IOT = term_weights(self.slot, chunk)[..., 1:].to(learned_NIT)
            learned_INO = learned_NIT.transpose(0, 1) @ weights_IOT.mT
            alive_INO = (learned_INO.abs() > self.threshold) & used_IO[chunk].unsqueeze(1)
            self._count += int(alive_INO.sum())
            self._ever_IO[chunk] |= alive_INO.any(dim=1).cpu()

    def _used(self) -> Tensor:
        """Whether an edge is computed by its curve now, (I, O)."""
        used_IO = torch.ones_like(self._ever_IO)
        if replaced := replaced_edges(self.slot):
            inputs_E, outputs_E = torch.tensor(sorted(replaced)).unbind(-1)
            used_IO.view(-1)[self.slot.edge_numbers(inputs_E, outputs_E)] = False
        return used_IO
