"""Continual learning: five peaks come one after the other, and the network forgets none.

    python scripts/kan/five_peaks.py

Prints the RMSE on all peaks seen so far after each, and on the whole line at the end, 4e-6. Coefficients are local; a
network that starts at zero and has no biases changes nothing outside of the samples that it sees.
"""

import torch

from kansformer.kan import KAN

CENTRES = torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8], dtype=torch.float64)


def peaks(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-300 * (x - CENTRES) ** 2).sum(dim=-1, keepdim=True)


def main() -> None:
    model = KAN([1, 1], grid_size=200, base="zero", bias=False, init_scale=0.0)
    for number, centre in enumerate(CENTRES, 1):
        x = centre + torch.linspace(-0.2, 0.2, 100, dtype=torch.float64)[:, None]
        model.fit((x, peaks(x)), steps=3, grid_update_every=0, progress=False)
        seen = torch.linspace(-1, float(centre) + 0.2, 100 * number, dtype=torch.float64)[:, None]
        error = (model.predict(seen) - peaks(seen)).square().mean().sqrt()
        print(f"after {number} peaks: RMSE {error:.2g} on those seen")
    line = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None]
    print(f"RMSE on the whole line: {(model.predict(line) - peaks(line)).square().mean().sqrt():.2g}")


if __name__ == "__main__":
    main()
