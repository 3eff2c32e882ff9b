"""Estimators with their defaults on tables: R² of `KANRegressor` beside random forest, gradient boosting and ridge.

    pip install '.[bench,sklearn]'
    python benchmarks/tables.py

The median and the mean over five shuffled folds, for two seeds of the folds, on diabetes (scikit-learn), engel and
star98 (statsmodels; the share of pupils above the median by all columns). Prints `name value` lines and writes
`results/tables.csv`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import statsmodels.api
from named_values import NamedValues
from sklearn.base import RegressorMixin
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_score

from kansformer.kan import KANRegressor

OUTPUT = Path(__file__).parent / "results" / "tables.csv"
PEERS: dict[str, type[RegressorMixin]] = {
    "KANRegressor": KANRegressor,
    "RandomForestRegressor": RandomForestRegressor,
    "HistGradientBoostingRegressor": HistGradientBoostingRegressor,
    "RidgeCV": RidgeCV,
}


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets by name."""
    engel = statsmodels.api.datasets.engel.load_pandas()
    star98 = statsmodels.api.datasets.star98.load_pandas()
    above, below = star98.endog.to_numpy(float).T
    return {
        "diabetes": load_diabetes(return_X_y=True),
        "engel": (engel.exog.to_numpy(float).reshape(len(engel.endog), -1), engel.endog.to_numpy(float)),
        "star98": (star98.exog.to_numpy(float), above / (above + below)),
    }


def main() -> None:
    figure = NamedValues()
    for table, (x, y) in tables().items():
        for peer, make in PEERS.items():
            estimator = make() if peer in ("KANRegressor", "RidgeCV") else make(random_state=0)
            for seed in (0, 1):
                begin = time.perf_counter()
                folds = KFold(5, shuffle=True, random_state=seed)
                scores = cross_val_score(estimator, x, y, cv=folds, scoring="r2")
                name = f"{table}_{peer}_folds{seed}"
                figure(f"{name}_median", float(np.median(scores)))
                figure(f"{name}_mean", float(np.mean(scores)))
                figure(f"{name}_seconds_a_fit", (time.perf_counter() - begin) / 5)
    figure.write(OUTPUT)


if __name__ == "__main__":
    main()
