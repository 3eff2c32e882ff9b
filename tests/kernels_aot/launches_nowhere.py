"""Calls of the learned activation on CPU tensors whose kernels compile for a GPU and launch nowhere.

What such a call costs is what the processor does before a GPU is told to work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from kan_kernels import activation_launch, activation_operators, exact_bases
from stand_in_driver import stand_in_driver

from kansformer import set_backend
from kansformer.ops import backend

_CPU = torch.device("cpu")
_KNOWN = {(name, _CPU, torch.bfloat16): True for name in ("silu", "silu_branchless", "gelu", "tanh")}


@contextmanager
def launches_nowhere(target: str = "sm_90") -> Iterator[None]:
    """Context in which kansformer's curves of bfloat16 CPU tensors take the Triton kernels. Outputs stay unwritten.

    The functions that the kernels compute count as tried and exact.
    """
    triton = replace(backend.BACKENDS["triton"], device_types=("cpu", "cuda"))
    with (
        stand_in_driver(target),
        patch.object(activation_launch, "architecture_of", lambda device: target),
        patch.object(activation_operators, "runs_on", lambda device: True),
        patch.object(activation_operators, "PLANS", {}),
        patch.object(exact_bases, "_AGREES", dict(_KNOWN)),
        patch.dict(backend.BACKENDS, triton=triton),
    ):
        backend._find.cache_clear()
        set_backend("triton")
        try:
            yield
        finally:
            set_backend(None)
            backend._find.cache_clear()
