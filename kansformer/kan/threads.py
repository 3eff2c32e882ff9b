"""How many threads small work takes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Numbers of a Jacobian from which on several threads pay.
SHARED_WORK = 2**20


@contextmanager
def few_threads(work: int) -> Iterator[None]:
    """One thread for work that is too small to share: waiting for others would take longer than doing it."""
    before = torch.get_num_threads()
    if work < SHARED_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
