"""Sections of the first call: the tests, exactness, and each kernel by itself, its numbers checked before its time.

Shape letters: N tokens, I inputs or channels, O outputs, C coefficients.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from kan_kernels import definition, learned_activation, sum_edges
from kan_kernels.base_functions import VARIANTS
from kan_kernels.bases import num_coefficients, num_denominator
from kan_kernels.curve import Curve
from kan_kernels.edges_sparse import expand_sparse, grouped_rows
from speed.suites import Options
from speed.tile_search import PROBLEMS, TOY_PROBLEMS, candidates, sixteen_bits, write_tiles
from torch import Tensor
from torch.nn import functional as F

from first_run.sections import Run, UnavailableError

ROOT = Path(__file__).resolve().parents[2]

LIMIT = 6e-3
"""Relative L2 error that bfloat16 results may have, twice the tests' bound for gradients."""

CURVES = {
    "B-spline G5": dict(basis="bspline", grid_size=5, order=3),
    "B-spline G8": dict(basis="bspline", grid_size=8, order=3),
    "Chebyshev 3": dict(basis="chebyshev", grid_size=1, order=3),
    "rational 5": dict(basis="rational", grid_size=1, order=5),
}

# Of a layer of a 1B Llama: four sequences of 2048.
ACTIVATION_SIZE, EDGE_SIZES = (8192, 8192), ((8192, 2048, 1024), (8192, 1024, 2048), (8192, 768, 128))
TOY_ACTIVATION_SIZE, TOY_EDGE_SIZES = (24, 32), ((24, 16, 8),)

CHECKED_TOKENS = 512
"""The definition computes only the first tokens of the large sizes, this number of them."""


def environment(run: Run) -> None:
    """The GPU, and the rates of a copy and of a matrix product, to which all else is to be compared."""
    run.add(
        "torch", "version", note=f"{torch.__version__}, triton {triton.__version__}, python {sys.version.split()[0]}"
    )
    if run.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        run.add("GPU", "processors", properties.multi_processor_count, "", note=properties.name)
    numbers, size = (2**10, 64) if run.toy else (2**30, 8192)
    source = torch.empty(numbers, dtype=torch.bfloat16, device=run.device)
    target = torch.empty_like(source)
    run.add("copy", "rate", 4 * numbers / run.milliseconds(lambda: target.copy_(source)) / 1e6, "GB/s")
    left, right = (_normal(run, size, size) for _ in range(2))
    run.add("product", "rate", 2 * size**3 / run.milliseconds(lambda: left @ right) / 1e9, "TFLOP/s")


def compiled_tests(run: Run) -> None:
    """`tests/kernels` compiled for this GPU, in 14 processes where pytest-xdist is there."""
    if importlib.util.find_spec("pytest") is None:
        raise UnavailableError("pytest is not installed")
    parallel = ["-n", "14"] if importlib.util.find_spec("xdist") else ["-p", "no:cacheprovider"]
    seconds = max(30.0, run.left - 300)
    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels", *parallel, "-o", "filterwarnings=default"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        note = ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 15)
        output, _ = process.communicate()
        note = f"stopped after {seconds:.0f} s"
    (run.out / "kernel_tests.txt").write_text(output, encoding="utf-8")
    for word in ("passed", "failed", "error"):
        counts = re.findall(rf"(\d+) {word}", output)
        if counts:
            run.add("tests/kernels", word, int(counts[-1]), "tests", note=note)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} ended with {process.returncode}; see kernel_tests.txt. {note}")


def exactness(run: Run) -> None:
    """Of all 65,536 numbers of 16 bits, for how many the kernel's σ(x) is not PyTorch's, bit for bit."""
    channels = 64
    for dtype in (torch.float16,) if run.toy else (torch.bfloat16, torch.float16):
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=run.device).to(torch.int16)
        x = bits.view(dtype).reshape(-1, channels)
        coefficients = torch.zeros(channels, 8, device=run.device)
        domain = torch.tensor([[-4.0, 4.0]], device=run.device).repeat(channels, 1)
        for name, function in definition.BASE_FUNCTIONS.items():
            expected = function(x)
            for base in (name, *VARIANTS.get(name, ())):
                result = learned_activation(x, coefficients, domain, **CURVES["B-spline G5"], base=base)
                # Zero coefficients add +0, which makes -0 to +0.
                same = (result == expected) | (result.isnan() & (expected.isnan() | x.isnan()))
                run.add(f"{base} {dtype}", "different numbers", int((~same).sum()), "of 65536")


def activations(run: Run) -> None:
    """Learned activations with their gate product, in bytes of the tensors, each counted once, per second."""
    tokens, channels = TOY_ACTIVATION_SIZE if run.toy else ACTIVATION_SIZE
    x, factor, dy = (_normal(run, tokens, channels) for _ in range(3))
    gigabytes = {"forward": 6 * x.numel() / 1e9, "backward": 10 * x.numel() / 1e9}

    def measure(case: str, function: Callable[[Tensor, Tensor], Tensor], error: float = float("nan")) -> None:
        run.add(
            case,
            "forward",
            1000 * gigabytes["forward"] / run.milliseconds(lambda: function(x, factor)),
            "GB/s",
            error=error,
        )
        leaves = [x.detach().requires_grad_(), factor.detach().requires_grad_()]
        y = function(*leaves)
        backward = run.milliseconds(lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True))
        run.add(case, "backward, by autograd", 1000 * gigabytes["backward"] / backward, "GB/s", error=error)

    measure("eager silu(x) * f", lambda a, b: F.silu(a) * b)
    for name, settings in CURVES.items():
        coefficients, domain, denominator = _activation_curves(run, channels, settings)

        def ours(a, b, coefficients=coefficients, domain=domain, denominator=denominator, settings=settings):
            return learned_activation(
                a, coefficients, domain, denominator=denominator, base="silu", factor=b, **settings
            )

        few = slice(0, CHECKED_TOKENS)
        expected = definition.learned_activation(
            x[few], coefficients, domain, denominator=denominator, base="silu", factor=factor[few], **settings
        )
        measure(name, ours, run.check(ours(x, factor)[few], expected, LIMIT))
    _activation_peers(run, measure, x, factor)


def _activation_peers(run: Run, measure, x: Tensor, factor: Tensor) -> None:
    expected = F.silu(x.float()) * factor.float()
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        run.add("Liger silu(x) * f", "left out", note="liger-kernel is not installed")
    else:
        liger = LigerSiLUMulFunction.apply
        # Its backward overwrites what it saved, so that repeated backward passes are of other numbers.
        measure("Liger silu(x) * f", liger, run.check(liger(x, factor), expected, LIMIT))
    try:
        from rational_kat import FlashKAT_Group
    except ImportError:
        run.add("FlashKAT rational(x)", "left out", note="rational_kat is not installed")
    else:
        flash = FlashKAT_Group(x.shape[1], num_groups=1, den_groups=8, m=6, n=4, mode="swish").to(x.device)
        measure("FlashKAT rational(x) * f", lambda a, b: flash(a[None])[0] * b)


def edge_kernels(run: Run) -> None:
    """Each part of a per-edge layer, beside the products of torch with as many weights."""
    for size in TOY_EDGE_SIZES if run.toy else EDGE_SIZES:
        _edge_kernels(run, *size)


def _edge_kernels(run: Run, tokens: int, inputs: int, outputs: int) -> None:
    settings = CURVES["B-spline G5"]
    names = (*settings.values(), "linear")
    operations = torch.ops.kan_kernels
    x, dy, base = _normal(run, tokens, inputs), _normal(run, tokens, outputs), _normal(run, tokens, outputs)
    a = _normal(run, inputs, 8, outputs)
    domain = torch.tensor([[-2.0, 2.0]], device=run.device).repeat(inputs, 1)
    case = f"{tokens} {inputs}->{outputs}"
    few = slice(0, CHECKED_TOKENS)
    leaf = x[few].float().requires_grad_()
    expected = definition.sum_edges(leaf, a.float(), domain, **settings) + base[few].float()
    (dx,) = torch.autograd.grad(expected, leaf, dy[few].float())
    for path in ("expand", "fused"):

        def forward(path=path):
            return sum_edges(x, a, domain, base=base, path=path, **settings)

        error = run.check(forward()[few], expected.detach(), LIMIT)
        run.add(case, f"forward, {path}", run.milliseconds(forward), "ms", error=error)

        def weights(path=path, rows=slice(None)):
            return operations.sum_edges_weight_gradient(dy[rows], x[rows], domain, None, *names, path)

        values = definition.basis_values(x[few].float(), domain, *names).flatten(1)
        da = (values.t() @ dy[few].float()).view_as(a)
        error = run.check(weights(rows=few), da, LIMIT)
        run.add(case, f"weight gradient, {path}", run.milliseconds(weights), "ms", error=error)

    def inputs_gradient():
        return operations.sum_edges_input_gradient(dy, x, a, domain, None, *names)[0]

    error = run.check(inputs_gradient()[few], dx, LIMIT)
    run.add(case, "input gradient", run.milliseconds(inputs_gradient), "ms", error=error)
    dense, weight = _normal(run, tokens, 8 * inputs), a.view(-1, outputs)
    run.add(case, "dense product with as many weights", run.milliseconds(lambda: dense @ weight), "ms")
    run.add(case, "its weight gradient", run.milliseconds(lambda: dense.t() @ dy), "ms")
    run.add(case, "its input gradient", run.milliseconds(lambda: dy @ weight.t()), "ms")


def tiles(run: Run) -> None:
    """The suite `tiles`: a file for `kan_kernels/tiles`, with a few candidates of each operation."""
    options = Options(device=run.device, rounds=1 if run.toy else 3, least_seconds=0 if run.toy else 0.005)
    problems = {key: TOY_PROBLEMS[key] for key in ("forward", "expand")} if run.toy else PROBLEMS
    run.keep(
        write_tiles(
            run.out / "tiles",
            run.environment,
            options,
            problems,
            candidates,
            run.clock,
            has_time=lambda: not run.toy and run.left > 30,
        )
    )


def two_four(run: Run) -> None:
    """The compressed form beside cuSPARSELt's own, its product beside the dense one."""
    if not torch.backends.cusparselt.is_available():
        raise UnavailableError("torch has no cuSPARSELt here")
    for size in ((8192, 2048, 1024), (8192, 1024, 2048)):
        _two_four(run, *size)


def _two_four(run: Run, tokens: int, inputs: int, outputs: int) -> None:
    settings = CURVES["B-spline G5"]
    case = f"{tokens} {inputs}->{outputs}"
    x, a = _normal(run, tokens, inputs), _normal(run, inputs, 8, outputs)
    domain = torch.tensor([[-2.0, 2.0]], device=run.device).repeat(inputs, 1)
    values = definition.basis_values(x.float(), domain, *settings.values()).bfloat16()
    dense, weight = values.unflatten(2, (4, 2)).transpose(2, 3).reshape(tokens, -1), grouped_rows(a)
    curve = Curve(**settings)
    own, theirs = expand_sparse(x, domain, curve), torch._cslt_compress(dense)
    same = float((own.view(torch.int16) == theirs.view(torch.int16)).float().mean()) if len(own) == len(theirs) else 0
    run.add(case, "words equal to cuSPARSELt's", same, note="values may be stored in another order of equal worth")
    expected = dense.float() @ weight.float()
    fastest = (float("inf"), -1)
    for algorithm in range(12):
        try:
            result = torch._cslt_sparse_mm(own, weight, alg_id=algorithm)
        except RuntimeError:  # there are no more algorithms
            if algorithm == 0:
                raise
            break
        error = run.check(result, expected, LIMIT)
        taken = run.milliseconds(lambda algorithm=algorithm: torch._cslt_sparse_mm(own, weight, alg_id=algorithm))
        fastest = min(fastest, (taken, algorithm))
    run.add(case, "sparse product", fastest[0], "ms", error=error, note=f"the fastest algorithm, {fastest[1]}")
    run.add(case, "dense product", run.milliseconds(lambda: dense @ weight), "ms")
    run.add(case, "expansion, compressed", run.milliseconds(lambda: expand_sparse(x, domain, curve)), "ms")
    for path in ("sparse", "expand"):
        forward = run.milliseconds(lambda path=path: sum_edges(x, a, domain, path=path, **settings))
        run.add(case, f"forward, {path}", forward, "ms")


def _normal(run: Run, *size: int) -> Tensor:
    generator = torch.Generator(run.device).manual_seed(len(size) + size[-1])
    return torch.randn(*size, generator=generator, device=run.device).to(sixteen_bits(run.device))


def _activation_curves(run: Run, channels: int, settings: dict) -> tuple[Tensor, Tensor, Tensor | None]:
    basis, grid_size, order = settings.values()
    generator = torch.Generator(run.device).manual_seed(0)
    coefficients = 0.3 * torch.randn(
        channels, num_coefficients(basis, grid_size, order), generator=generator, device=run.device
    )
    denominator = None
    if basis == "rational":
        denominator = torch.rand(channels, num_denominator(basis, order), generator=generator, device=run.device)
    return coefficients, torch.tensor([[-4.0, 4.0]], device=run.device).repeat(channels, 1), denominator
