"""The Hamiltonian of a pendulum from its motion, with its formula, from any seed.

    python scripts/kan/pendulum.py [--seed 0]

Knows only angles, momenta and their rates at random points, and Hamilton's equations: dq/dt = ∂H/∂p, dp/dt = -∂H/∂q.
Prints the formula of H, which is p²/2 - cos(q), and how far the energy drifts along a simulated swing.
"""

import argparse

import torch

from kansformer.kan import KAN, Derivatives, Equation, solve_equations

SETTINGS = {"steps": 60, "progress": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    points = 2.5 * (2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
    rates = torch.stack([points[:, 1], -torch.sin(points[:, 0])], dim=1)  # measured: dq/dt and dp/dt

    def hamilton(u: Derivatives) -> torch.Tensor:
        slopes = u.first[:, 0]
        return torch.stack([slopes[:, 1] - rates[:, 0], slopes[:, 0] + rates[:, 1]], dim=1)

    equations = [Equation(points, hamilton), Equation(points[:1] * 0, lambda u: u.value[:, 0] + 1)]
    model = KAN([2, 1], grid_size=10, base="zero", domain=(-2.5, 2.5), seed=options.seed)
    history = solve_equations(model, equations, starts=3, **SETTINGS)
    print(f"curves: error of the rates {history.train_error[-1]:.2g}")
    model.fit_symbolic(points, library=["x", "x^2", "x^3", "exp", "cos", "tanh"])
    history = solve_equations(model, equations, grid_update_every=0, **SETTINGS)
    print("H =", model.formula(variables=["q", "p"], digits=4)[0])
    print(f"formula: error of the rates {history.train_error[-1]:.2g}")

    state, step, energies = torch.tensor([[2.0, 0.0]], dtype=torch.float64), 0.01, []
    for _ in range(1000):  # leapfrog with the slopes of the formula
        state[0, 1] -= step / 2 * model.derivatives(state)[0, 0, 0]
        state[0, 0] += step * model.derivatives(state)[0, 0, 1]
        state[0, 1] -= step / 2 * model.derivatives(state)[0, 0, 0]
        energies.append(float(state[0, 1] ** 2 / 2 - torch.cos(state[0, 0])))
    print(f"true energy along 10 s of a simulated swing: {min(energies):.5f} to {max(energies):.5f}")


if __name__ == "__main__":
    main()
