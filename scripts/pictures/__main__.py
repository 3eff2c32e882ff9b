"""Draw the pictures of the README and the documentation, each for light and for dark pages.

    pip install '.[plot]'
    python -m scripts.pictures                  # all of them, about a minute
    python -m scripts.pictures swap kan         # these
    python -m scripts.pictures --out FOLDER     # elsewhere than docs/pictures

From the repository's root; offline. Every picture is made of the package's own objects, of the files in `model_cards`
and of the rows in `benchmarks/results`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.pictures import bspline, curves, edges, fading, found, grid_extension, kan, quality, speed, swap
from scripts.pictures.svg import write_svg
from scripts.pictures.theme import THEMES, drawing_in

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {
    "swap": swap.draw,
    "curves": curves.draw,
    "bspline": bspline.draw,
    "grid-extension": grid_extension.draw,
    "edges": edges.draw,
    "kan": kan.draw,
    "speed": speed.draw,
    "quality": quality.draw,
    "fading": fading.draw,
    "found": found.draw,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default, of: {', '.join(PICTURES)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="folder of the files")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in PICTURES:
            parser.error(f"unknown picture {name!r}; choose from: {', '.join(PICTURES)}")
    torch.set_num_threads(1)
    for name in options.names or PICTURES:
        for theme in THEMES:
            path = options.out / f"{name}-{theme.name}.svg"
            with drawing_in(theme):
                write_svg(PICTURES[name](theme), path)
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
