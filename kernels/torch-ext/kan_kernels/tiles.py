"""Tile sizes and paths, as data: one JSON file per kind of GPU in `tiles/`, and one pure function that reads them.

A file lists the architectures it is for, and per operation a list of rules. The first rule wins whose `bits` (if any)
are the dtype's and whose `outputs_below` (if any) is above O. What a tile's numbers mean, per operation:

| operation | rows | columns | depth | one program owns |
|---|---|---|---|---|
| forward | tokens | outputs | (input, c) pairs per step | a tile of y |
| expand | tokens per step | inputs | tokens per program | the C basis values of each |
| input_gradient | tokens | coefficients, (input, c) pairs | outputs per step | a tile of dE, reduced to dx |
| weight_gradient | inputs | outputs | tokens per step | a tile of dA for one c, over one split of the tokens |
| activation_forward, activation_backward | tokens | channels | – | a block of tokens, `turns` tiles at a time |
"""

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from .curve import Curve

OPERATIONS = ("forward", "expand", "input_gradient", "weight_gradient")
ACTIVATION_OPERATIONS = ("activation_forward", "activation_backward")
PATHS = ("fused", "expand", "sparse")

_FOLDER = Path(__file__).with_suffix("")
# With more inputs in a tile of the input gradient, their sums over c no longer fit beside the tile of dE.
_MAX_INPUTS = 32

# With more coefficients in a step, all held in registers, the forward product spills.
_MAX_WIDTH = 32

# With fewer channels in a tile, its threads read scattered words.
_MIN_CHANNELS = 32

_TWO_PATHS = ("forward", "weight_gradient")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What one launch looks like; the table above says what rows, columns and depth count.

    Args:
        path: `fused`, `expand` (basis values to a workspace, then a plain matrix product) or `sparse` (forward only).
        rows: elements per tile, a power of two.
        columns: elements per tile, a power of two.
        depth: elements per step of the reduction, a power of two.
        warps: per program.
        stages: of the software pipeline.
        programs: the launch splits its tokens until it has about this many programs; 0 never splits.
        workspace_mib: most memory that a chunk of the expanded activation takes, in MiB, unless 128 tokens need more.
        turns: tiles per step of an activation, all of whose loads come first.
        waves: how often an activation's programs fill the GPU.
    """

    path: str
    rows: int = 1
    columns: int = 1
    depth: int = 1
    warps: int = 4
    stages: int = 2
    programs: int = 0
    workspace_mib: int = 256
    turns: int = 1
    waves: int = 1

    def options(self) -> dict[str, object]:
        """Compiler options of the launch. Fusing multiply and add is the default that triton 3.10 gives up."""
        return dict(num_warps=self.warps, num_stages=self.stages, enable_fp_fusion=True)


def choose(
    operation: str,
    outputs: int,
    dtype: torch.dtype,
    gpu: str,
    path: str | None = None,
) -> Tile:
    """The tile for a launch.

    Args:
        operation: one of `OPERATIONS`.
        outputs: O.
        dtype: of x.
        gpu: architecture as `architecture_of` names it: `sm_90`, `gfx942`, `interpreter`. One without a file takes
            the conservative default.
        path: `fused` or `expand` instead of the file's choice, where the operation has both; None is the file's.
            `sparse` is a path of `forward`, whose weight gradient expands.

    Raises:
        ValueError: the operation or the path does not exist.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"Unknown operation {operation!r}. Choose one of: {', '.join(OPERATIONS)}.")
    check_path(path)
    if path == "sparse" and operation == "forward":
        return Tile(path="sparse")
    if path in ("expand", "sparse") and operation in _TWO_PATHS:
        return Tile(path="expand")
    bits = torch.finfo(dtype).bits
    rules = [rule for rule in _rules(gpu)[operation] if rule.get("bits", bits) == bits]
    if path == "fused" and operation in _TWO_PATHS:
        rules = [rule for rule in rules if rule["path"] == "fused"]
        rule = next((rule for rule in rules if outputs < rule.get("outputs_below", math.inf)), rules[-1])
    else:
        rule = next(rule for rule in rules if outputs < rule.get("outputs_below", math.inf))
    return Tile(**{key: value for key, value in rule.items() if key not in ("bits", "outputs_below")})


def rules_of(gpu: str) -> dict[str, list[dict]]:
    """What `choose` reads for an architecture: its file on top of the default."""
    return _rules(gpu)


def activation_tile(operation: str, channels: int, dtype: torch.dtype, gpu: str) -> Tile:
    """The tile of a learned activation; where the channels do not fill its columns, it has more rows instead.

    Args:
        operation: one of `ACTIVATION_OPERATIONS`.
        channels: I.
        dtype: of x.
        gpu: as in `choose`.

    Raises:
        ValueError: the operation does not exist.
    """
    if operation not in ACTIVATION_OPERATIONS:
        raise ValueError(f"Unknown operation {operation!r}. Choose one of: {', '.join(ACTIVATION_OPERATIONS)}.")
    bits = torch.finfo(dtype).bits
    rule = next(rule for rule in _rules(gpu)[operation] if rule.get("bits", bits) == bits)
    tile = Tile(path="fused", **{key: value for key, value in rule.items() if key != "bits"})
    columns = min(tile.columns, max(_MIN_CHANNELS, 1 << (channels - 1).bit_length()))
    return replace(tile, columns=columns, rows=tile.rows * tile.columns // columns)


def check_path(path: str | None) -> None:
    """Raises ValueError for a path that no operation has."""
    if path is not None and path not in PATHS:
        raise ValueError(f"Unknown path {path!r}. Choose one of: {', '.join(PATHS)}, or None.")


def architecture_of(device: torch.device) -> str:
    """`sm_90` or `gfx942`-like name of a GPU; `interpreter` for tensors on the CPU."""
    return "interpreter" if device.type == "cpu" else _gpu_architecture(device.index)


def input_gradient_columns(curve: Curve, columns: int) -> tuple[int, int]:
    """Columns of a tile of the input gradient, at most `columns`, and how many of them, a power of two, an input has.

    The width that wastes least of the tensor cores on c ≥ C; of equals the largest, which reads dy least often. All c
    where there is a denominator, whose gradient needs them together.
    """
    coefficients = curve.num_coefficients
    widths = [2**power for power in range(1, columns.bit_length())]
    if curve.num_denominator:
        width = min(width for width in widths if width >= coefficients)
    else:
        width = min(widths, key=lambda width: (-(-coefficients // width) * width, -width))
    return min(columns, _MAX_INPUTS * width), width


def forward_step(curve: Curve, depth: int) -> tuple[int, int]:
    """Inputs in a step of the fused forward, and coefficients of each, both powers of two whose product is `depth`."""
    width = min(1 << (curve.num_coefficients - 1).bit_length(), _MAX_WIDTH, depth)
    return depth // width, width


def tokens_per_program(tile: Tile, tokens: int, inputs: int) -> int:
    """Tokens that a program of the expansion walks over: few where there are few, so that all processors work."""
    tokens_for_all = -(-tokens * -(-inputs // tile.columns) // max(1, tile.programs))
    return min(tile.depth, -(-tokens_for_all // tile.rows) * tile.rows)


def splits_of_tokens(tile: Tile, tokens: int, inputs: int, outputs: int, coefficients: int) -> int:
    """Into how many parts the weight gradient cuts the tokens, so that a narrow layer fills the GPU too."""
    programs = -(-inputs // tile.rows) * -(-outputs // tile.columns) * coefficients
    longest = -(-tokens // (4 * tile.depth))  # at least four steps each
    return max(1, min(tile.programs // programs, longest))


def processors_of(device: torch.device) -> int:
    """Streaming multiprocessors or compute units of a GPU; 1 for the CPU."""
    return 1 if device.type == "cpu" else _num_processors(device.index)


@cache
def _num_processors(index: int | None) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


@cache
def _gpu_architecture(index: int | None) -> str:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def _rules(gpu: str) -> dict[str, list[dict]]:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.json"))]
    default = next(file for file in files if not file["architectures"])
    return {**default, **next((file for file in files if gpu in file["architectures"]), {})}
