"""Rows of a language model, out of blocks that lie in memory.

Shape letters: N blocks, T tokens of a block.
"""

from torch import Tensor
from torch.utils.data import Dataset


class BlockDataset(Dataset):
    """Blocks as rows: {"input_ids": (T), "labels": (T)}, int64.

    Args:
        stored_NT: token numbers of any integer type, which is kept: uint16 needs a quarter of the memory.
        labels_NT: what is to be predicted; None for the blocks themselves, as a causal language model has it.
        labelled: False leaves the labels out: a collator masks the rows and makes them.
    """

    def __init__(self, stored_NT: Tensor, labels_NT: Tensor | None = None, *, labelled: bool = True) -> None:
        self.stored_NT = stored_NT
        self.labels_NT = labels_NT
        self.labelled = labelled

    @property
    def blocks_NT(self) -> Tensor:  # noqa: N802 (carries shape letters)
        """All token numbers, int64: a new tensor."""
        return self.stored_NT.long()

    def __len__(self) -> int:
        return len(self.stored_NT)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens_T = self.stored_NT[index].long()
        if not self.labelled:
            return {"input_ids": tokens_T}
        return {"input_ids": tokens_T, "labels": tokens_T if self.labels_NT is None else self.labels_NT[index].long()}
