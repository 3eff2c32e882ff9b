"""Processor time of calls of the learned activation by the Triton kernels, whose launches go nowhere; no GPU is needed.

    pip install '.[bench]'
    python benchmarks/launch_times.py [--rounds 400]

Kernels are compiled for sm_90 and launched by a driver that does nothing, so that what remains is what the processor
does before a GPU works: it bounds small batches and decoding. `call` and `step` are one `LearnedActivation` with its
factor, forward, and forward and backward; `token` is a decoded token of a tiny Llama of 16 layers, converted. Each has
PyTorch's own operations on the same tensors beside it. Shortest time of all rounds, since other work only adds; tokens
in processor time, by turns. Rows go to `results/launch_times.csv`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernels_aot"), str(ROOT / "kernels" / "torch-ext")]

import torch  # noqa: E402
import triton  # noqa: E402
from dataclass_csv import append_row  # noqa: E402
from launches_nowhere import launches_nowhere  # noqa: E402
from provenance import commit, processor  # noqa: E402
from speed.blocks import bend_curves  # noqa: E402
from torch.nn.functional import silu  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from kansformer import LearnedActivation, convert  # noqa: E402

FILE = Path(__file__).parent / "results" / "launch_times.csv"
CHANNELS, LAYERS, TOKENS = 64, 16, 40


@dataclass(frozen=True)
class Row:
    """Microseconds; `ratio` is the original's speed over ours, above 1 where we are faster."""

    measure: str
    microseconds: float
    original: float
    ratio: float
    processor: str
    commit: str
    triton: str
    torch: str


def measure_calls(rounds: int) -> list[tuple[str, float, float]]:
    """Measure, ours, PyTorch's."""
    x, factor = (torch.randn(1, CHANNELS, dtype=torch.bfloat16) for _ in range(2))
    module = LearnedActivation(CHANNELS, base="silu", domain=(-4.0, 4.0), dtype=torch.bfloat16)
    x_leaf, factor_leaf = x.clone().requires_grad_(), factor.clone().requires_grad_()
    gradient = torch.ones_like(x)

    def step() -> None:
        inputs = (x_leaf, module.coefficients, factor_leaf)
        torch.autograd.grad(module.gated(x_leaf, factor_leaf), inputs, gradient)

    def original_step() -> None:
        torch.autograd.grad(silu(x_leaf) * factor_leaf, (x_leaf, factor_leaf), gradient)

    with launches_nowhere():
        with torch.no_grad():
            call = shortest(lambda: module.gated(x, factor), rounds), shortest(lambda: silu(x) * factor, rounds)
        return [("call", *call), ("step", shortest(step, rounds), shortest(original_step, rounds))]


def measure_token(rounds: int) -> tuple[str, float, float]:
    """Measure, the converted model's, the original's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=CHANNELS,
        intermediate_size=2 * CHANNELS,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
    )
    original = LlamaForCausalLM(config).bfloat16().eval()
    converted = bend_curves(convert(copy.deepcopy(original)))
    with launches_nowhere():
        decode(converted)  # compiles
        times = [(decode(converted), decode(original)) for _ in range(max(3, rounds // 20))]
    return "token", *(min(column) for column in zip(*times, strict=True))


@torch.no_grad()
def decode(model: LlamaForCausalLM) -> float:
    """Microseconds of processor time per token."""
    ids = torch.randint(0, 256, (1, 8))
    cache = model(input_ids=ids, use_cache=True).past_key_values
    start = time.process_time()
    for _ in range(TOKENS):
        cache = model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).past_key_values
    return 1e6 * (time.process_time() - start) / TOKENS


def shortest(function: Callable[[], object], rounds: int, calls: int = 20) -> float:
    """Microseconds of a call: the shortest mean of a few."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls)
    return 1e6 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # outputs are not written: what lies there must not slow the original's operations
    measured = [*measure_calls(options.rounds), measure_token(options.rounds)]
    for measure, ours, original in measured:
        ratio = round(original / ours, 3)
        provenance = (processor(), commit(), triton.__version__, torch.__version__)
        append_row(options.out, Row(measure, round(ours, 1), round(original, 1), ratio, *provenance))
        print(f"{measure}: {ours:.1f} µs, PyTorch's own {original:.1f} µs, {ratio:.2f} of its speed", flush=True)
    print(f"{len(measured)} rows written to {options.out}")


if __name__ == "__main__":
    main()
