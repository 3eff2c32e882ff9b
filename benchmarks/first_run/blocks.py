"""Sections of the first call: whole blocks, through the harness of `python -m benchmarks --suite gpu`."""

from collections.abc import Callable

import torch
from speed.actions import conditions
from speed.blocks import Variant, edge_kan, gated_kan, prepare
from speed.sizes import SIZES, Size
from speed.suites import Options, measure_size
from speed.variants import variants_for
from torch import nn

from first_run.kernels import LIMIT
from first_run.sections import Run

# A block rounds its hidden activations between two layers.
BLOCK_LIMIT = 3 * LIMIT


def edges(run: Run) -> None:
    """A block with a curve on every edge against the MLP with as many parameters: time and memory."""
    _measure(run, "tiny" if run.toy else "edges-gpu")


def gated(run: Run) -> None:
    """A gated block with a curve per channel against SwiGLU of the same shape, and FlashKAT where it is installed."""
    _measure(run, "gated-tiny" if run.toy else "gated-gpu")


def graphs(run: Run) -> None:
    """Both blocks in a CUDA graph: the same numbers, and a few tokens' time outside and inside of it."""
    for name, build in (("edges", edge_kan), ("gated", gated_kan)):
        _graph(run, name, build)


def _graph(run: Run, name: str, build: Callable[[Size], nn.Module]) -> None:
    block, x_ND, _ = prepare(Variant(name=name, build=build), SIZES[f"{name}-gpu"], run.device)
    x_ND = x_ND.detach()[:16].contiguous()
    with torch.no_grad():
        expected = block(x_ND)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                block(x_ND)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y_ND = block(x_ND)
        graph.replay()
        error = run.check(y_ND, expected, 1e-6)
        run.add(f"{name}, 16 tokens", "eager", run.milliseconds(lambda: block(x_ND)), "ms", error=error)
        run.add(f"{name}, 16 tokens", "graph", run.milliseconds(graph.replay), "ms", error=error)


def _measure(run: Run, name: str) -> None:
    size = SIZES[name]
    kernel = next(v for v in variants_for(size, "cuda", peers=False, compiled=False) if v.name == "kansformer")
    results = {}
    for backend in ("triton", "reference"):
        variant = Variant(name=backend, build=kernel.build, backend=backend)
        block, x_ND, _ = prepare(variant, size, run.device)
        with torch.no_grad(), conditions(variant, size, run.device):
            results[backend] = block(x_ND)
        del block, x_ND
    run.add(size.name, "checked", error=run.check(results["triton"], results["reference"], BLOCK_LIMIT))
    options = Options(
        device=run.device, rounds=1 if run.toy else 5, least_seconds=0 if run.toy else 0.1, memory=run.device == "cuda"
    )
    variants = variants_for(size, run.device, peers=not run.toy, compiled=not run.toy and run.left > 120)
    run.keep(measure_size("gpu", size, variants, options))
