"""Which tiles the kernels of edges should have on this GPU: candidates, their times, and the file that follows.

Every candidate's numbers are compared with the definition's before it is timed. One that does not compile, does not fit
or is wrong is left out, with the reason.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from kansformer.errors import DataError
from kansformer.files import atomic_write_text
from speed.harness import Action, Clock, alternate, clock_for
from speed.suites import Options, Report
from speed.table import Environment, Row, Skip

MAX_ERROR = 6e-3
"""Relative L2 error against the definition in float32; a wrong tile is off by far more than bfloat16's rounding."""


def sixteen_bits(device: str) -> torch.dtype:
    """bfloat16, or float16 in Triton's interpreter, whose bfloat16 is wrong."""
    return torch.bfloat16 if device == "cuda" else torch.float16


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A layer with cubic B-splines of 8 coefficients on every edge."""

    tokens: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.tokens} {self.inputs}->{self.outputs}"


PROBLEMS = {
    "forward": tuple(Problem(tokens=8192, inputs=768, outputs=outputs) for outputs in (32, 64, 128, 256, 512)),
    "weight_gradient": tuple(Problem(tokens=8192, inputs=768, outputs=outputs) for outputs in (32, 128, 512)),
    "input_gradient": (Problem(tokens=8192, inputs=2048, outputs=1024),),
    "expand": (Problem(tokens=8192, inputs=2048, outputs=1024),),
}
"""By operation, the narrowest first. Where an operation has two paths, the file's rules follow from the outputs."""

TOY_PROBLEMS = {
    operation: (Problem(tokens=40, inputs=16, outputs=8), Problem(tokens=40, inputs=16, outputs=24))
    if len(problems) > 1
    else (Problem(tokens=40, inputs=16, outputs=24),)
    for operation, problems in PROBLEMS.items()
}
"""For tests: says nothing about speed."""


def candidates(operation: str) -> Iterator[dict[str, int]]:
    """Rows, columns, depth, warps and stages worth trying for 16-bit tensors, beside those of the file."""
    if operation == "forward":
        choices = product((64, 128), (32, 64, 128), (128,), (4, 8), (2, 3, 4))
    elif operation == "input_gradient":
        choices = product((64, 128, 256), (128, 256), (32, 64), (4, 8), (3, 4))
    elif operation == "weight_gradient":
        choices = product((64, 128), (64, 128), (32, 64), (4, 8), (3, 4))
    else:
        choices = product((1, 2, 4), (64, 128, 256), (16, 32, 64), (4,), (2,))
    names = ("rows", "columns", "depth", "warps", "stages")
    return (dict(zip(names, choice, strict=True)) for choice in choices)


@dataclass(frozen=True)
class Measured:
    """The fastest tile of one path for a problem, or the path without one (`expand`), and its seconds."""

    rule: Mapping[str, object]
    seconds: float


def measure_tiles(
    options: Options,
    problems: Mapping[str, Sequence[Problem]] = PROBLEMS,
    tried: Callable[[str], Iterable[dict[str, int]]] = candidates,
    clock: Clock | None = None,
    has_time: Callable[[], bool] = lambda: True,
) -> tuple[Report, dict[str, list[dict]]]:
    """Time the candidates of all operations.

    Args:
        options: rounds, seconds and device.
        problems, tried: what to measure, by operation.
        clock: see `alternate`; None is that of the device.
        has_time: asked before each candidate is compiled; without time only the tiles in use are measured.

    Returns:
        Rows whose baseline is the tile in use, and by operation the rules for 16 bits that follow.
    """
    report = Report()
    rules: dict[str, list[dict]] = {}
    for operation, sizes in problems.items():
        best = [
            (problem, _measure(operation, problem, tried(operation), options, clock, has_time, report))
            for problem in sizes
        ]
        rules[operation] = rules_from(best)
    return report, rules


def rules_from(best: Sequence[tuple[Problem, Sequence[Measured]]]) -> list[dict]:
    """Rules of a tile file for 16-bit tensors: of each problem the fastest, up to its outputs.

    Where an operation has two paths, the last rule is that of the widest problem and has no bound.
    """
    fastest = [(problem, min(measured, key=lambda m: m.seconds).rule) for problem, measured in best]
    rules: list[dict] = []
    for place, (problem, rule) in enumerate(fastest):
        bound = {} if place == len(fastest) - 1 else {"outputs_below": problem.outputs + 1}
        rules.append({"bits": 16, **bound, **rule})
    return [
        rule
        for place, rule in enumerate(rules)
        if place == len(rules) - 1 or _without_bound(rule) != _without_bound(rules[place + 1])
    ]


def write_tiles(
    out: Path,
    environment: Environment,
    options: Options,
    problems: Mapping[str, Sequence[Problem]] = PROBLEMS,
    tried: Callable[[str], Iterable[dict[str, int]]] = candidates,
    clock: Clock | None = None,
    has_time: Callable[[], bool] = lambda: True,
) -> Report:
    """Measure, and write the file that follows into a folder, named by the architecture; arguments as above."""
    from kan_kernels.tiles import architecture_of, rules_of

    gpu = architecture_of(torch.device(options.device))
    report, rules = measure_tiles(options, problems, tried, clock, has_time)
    source = (
        f"Measured on {environment.device}, {environment.date}, torch {environment.torch}, triton {environment.triton},"
        f" kansformer {environment.commit or environment.source}; `python -m benchmarks --suite tiles`."
    )
    write_tile_file(out / f"{gpu}.json", gpu, source, rules, rules_of(gpu))
    return report


def write_tile_file(path: Path, gpu: str, source: str, rules: Mapping[str, Sequence[dict]], present: dict) -> None:
    """A file for `kan_kernels/tiles`: the measured rules before those that the GPU has for other dtypes.

    Args:
        path: to write; replaced atomically.
        gpu: architecture, as `kan_kernels.tiles.architecture_of` has it.
        source: what was measured, where and when.
        rules: for 16 bits, by operation.
        present: the file in use, whose rules for other dtypes stay.

    Raises:
        DataError: an operation is not in the file in use.
    """
    merged: dict[str, object] = {"architectures": [gpu], "source": source}
    for operation, measured in rules.items():
        if operation not in present:
            raise DataError(f"No operation {operation!r} in the tile file in use. It has: {', '.join(present)}.")
        # A fused rule of 16 bits stays for `path="fused"` where the fastest is to expand.
        kept = [rule for rule in present[operation] if rule not in measured]
        if operation in ("forward", "weight_gradient"):
            merged[operation] = [*measured, *kept]
        else:
            merged[operation] = [*measured, *(rule for rule in kept if rule.get("bits", 0) != 16)]
    for operation, other in present.items():
        merged.setdefault(operation, other)
    lines = [f"  {json.dumps(name)}: {_text(value)}" for name, value in merged.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"    {json.dumps(rule)}" for rule in value) + "\n  ]"
    return json.dumps(value)


def _without_bound(rule: Mapping) -> dict:
    return {key: value for key, value in rule.items() if key != "outputs_below"}


def _measure(
    operation: str,
    problem: Problem,
    tried: Iterable[dict[str, int]],
    options: Options,
    clock: Clock | None,
    has_time: Callable[[], bool],
    report: Report,
) -> list[Measured]:
    """All tiles of one problem, timed against the one in use; appends to the report."""
    from kan_kernels.tiles import Tile, architecture_of, choose

    tensors = _Tensors(problem, options.device)
    gpu = architecture_of(tensors.x_NI.device)
    used = choose(operation, problem.outputs, tensors.x_NI.dtype, gpu, "fused")
    tiles = {_name(used): used}
    for sizes in tried:
        tile = Tile(path=used.path, programs=used.programs, workspace_mib=used.workspace_mib, **sizes)
        tiles.setdefault(_name(tile), tile)
    actions: dict[str, Action] = {}
    shape = f"{operation} {problem}"
    expected = tensors.expected(operation)
    choices = {_name(used): tensors.action(operation, used)}
    if operation in ("forward", "weight_gradient"):
        choices["expand"] = tensors.expanding(operation)
    in_use = len(choices)
    choices |= {name: tensors.action(operation, tile) for name, tile in tiles.items() if tile is not used}
    for place, (name, action) in enumerate(choices.items()):
        without_time = place >= in_use and not has_time()
        reason = "there was no time left" if without_time else _reason_to_skip(action, expected)
        if reason is None:
            actions[name] = action
        else:
            report.skips.append(Skip(shape=shape, variant=name, reason=reason))
    rounds = alternate(
        actions,
        rounds=options.rounds,
        clock=clock or clock_for(options.device),
        least_seconds=options.least_seconds,
        progress=options.progress,
    )
    baseline = next(iter(actions))
    measured = []
    for name in actions:
        ratio, seconds = rounds.ratio(name, baseline), rounds.time(name).median
        report.rows.append(
            Row(
                suite="tiles",
                shape=shape,
                variant=name,
                measure="time",
                ratio=ratio.median,
                ratio_lower=ratio.lower,
                ratio_upper=ratio.upper,
                baseline=baseline,
                rounds=options.rounds,
                calls=rounds.calls[name],
                milliseconds=1000 * seconds,
                note="the tile in use" if name == baseline else "",
            )
        )
        measured.append(Measured(_rule(tiles.get(name)), seconds))
    return measured


def _reason_to_skip(action: Action, expected: Tensor) -> str | None:
    try:
        result = action()
    except Exception as error:  # out of registers or shared memory, or a compiler's own error
        return f"it failed with {type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
    assert isinstance(result, Tensor)
    error = float((result.float() - expected).norm() / expected.norm())
    return None if error <= MAX_ERROR else f"its numbers are wrong: relative error {error:.1e}"


def _name(tile) -> str:
    return f"{tile.rows} x {tile.columns} x {tile.depth}, {tile.warps} warps, {tile.stages} stages"


def _rule(tile) -> dict[str, object]:
    """A rule of a tile file: what differs from a tile's defaults."""
    if tile is None:
        return {"path": "expand"}
    defaults = {field.name: field.default for field in fields(tile)}
    return {name: value for name, value in asdict(tile).items() if value != defaults[name]}


class _Tensors:
    """Random tensors of a problem in 16 bits, what to compute with them, and the definition's results."""

    def __init__(self, problem: Problem, device: str) -> None:
        from kan_kernels.curve import Curve

        generator = torch.Generator().manual_seed(0)
        tokens, inputs, outputs = problem.tokens, problem.inputs, problem.outputs

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator).to(device, sixteen_bits(device))

        self.curve = Curve(basis="bspline", grid_size=5, order=3)
        self.x_NI, self.a_ICO, self.dy_NO = normal(tokens, inputs), normal(inputs, 8, outputs), normal(tokens, outputs)
        self.domain_I2 = torch.tensor([[-2.0, 2.0]], device=device).repeat(inputs, 1)
        self.settings = ("bspline", 5, 3, "linear")

    def action(self, operation: str, tile) -> Action:
        """One launch with a tile, which returns the tensor that it wrote."""
        from kan_kernels import edges_backward, edges_expand, edges_forward

        x, a, dy, domain, curve = self.x_NI, self.a_ICO, self.dy_NO, self.domain_I2, self.curve
        if operation == "forward":
            return lambda: edges_forward.fused_forward(x, a, domain, None, None, curve, tile)
        if operation == "input_gradient":
            return lambda: edges_backward.input_gradient(dy, x, a, domain, None, curve, tile)[0]
        if operation == "weight_gradient":
            return lambda: edges_backward.fused_weight_gradient(dy, x, domain, None, curve, tile)
        workspace = x.new_empty(x.numel() * curve.num_coefficients)
        return lambda: edges_expand.expand(x, domain, None, curve, tile, workspace, False)

    def expanding(self, operation: str) -> Action:
        """The other path of an operation: expansion and a product of torch."""
        operations = torch.ops.kan_kernels
        x, a, dy, domain = self.x_NI, self.a_ICO, self.dy_NO, self.domain_I2
        if operation == "forward":
            return lambda: operations.sum_edges(x, a, domain, None, None, *self.settings, "expand")
        return lambda: operations.sum_edges_weight_gradient(dy, x, domain, None, *self.settings, "expand")

    def expected(self, operation: str) -> Tensor:
        """The definition in float32, a thousand tokens at a time."""
        from kan_kernels import definition

        parts = []
        for x_NI, dy_NO in zip(self.x_NI.split(1024), self.dy_NO.split(1024), strict=True):
            x = x_NI.float().requires_grad_()
            a = self.a_ICO.float().requires_grad_()
            values = definition.basis_values(x, self.domain_I2, *self.settings)
            if operation == "expand":
                parts.append(values.detach().flatten(1))
                continue
            y = values.flatten(1) @ a.flatten(0, 1)
            if operation == "forward":
                parts.append(y.detach())
            else:
                leaf = x if operation == "input_gradient" else a
                parts.append(torch.autograd.grad(y, leaf, dy_NO.float())[0])
        return sum(parts) if operation == "weight_gradient" else torch.cat(parts)
