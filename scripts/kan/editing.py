"""A network edited by hand, with a picture of every step as a video.

    python scripts/kan/editing.py --out pictures

Needs matplotlib, and Pillow for the video. Writes a picture of the network after every step of the sparse fit and
`fit.gif` of them. Then removes weak nodes, freezes a known edge, names the others, and prints the formula
sin(πx) + y², with a test RMSE near 1e-16.
"""

import argparse
import math
from pathlib import Path

import torch

from kansformer.kan import KAN, FitHistory, create_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=20, help="steps of the sparse fit")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = create_dataset(lambda x: torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2, num_inputs=2)

    def draw(step: int, model: KAN, history: FitHistory) -> None:
        figure = model.plot(data, variables=["$x$", "$y$"], outputs=[f"step {step}: {history.train_error[-1]:.1e}"])
        figure.savefig(options.out / f"{step:03}.png", dpi=80)

    model = KAN([2, 3, 1], seed=options.seed)
    model.fit(data, steps=options.pictures, sparsity=0.01, callback=draw, progress=False)
    print("written:", write_video(options.out))
    while model.width[1] != (1, 0):
        scores = model.node_scores(data).nodes[1]
        model.remove_node(1, int(scores.argmin()), data)
    model.fit(data, steps=20, progress=False)
    print(model.edge(1, 0, 0, data))
    model.fix_symbol((1, 0, 0), "x", data, affine=(1, 0, 1, 0), trainable=False)
    model.fit(data, steps=20, progress=False)
    model.fix_symbol((0, 0, 0), "sin", data)
    model.fix_symbol((0, 1, 0), "x^2", data)
    history = model.fit(data, steps=50, progress=False)
    print("formula:", model.formula(variables=["x", "y"], digits=4)[0])
    print(f"test RMSE {history.test_error[-1]:.2g}")


def write_video(folder: Path) -> Path | str:
    try:
        from PIL import Image
    except ImportError:
        return f"{folder}; the video needs Pillow"
    first, *others = (Image.open(path) for path in sorted(folder.glob("*.png")))
    first.save(folder / "fit.gif", save_all=True, append_images=others, duration=200, loop=0)
    return folder / "fit.gif"


if __name__ == "__main__":
    main()
