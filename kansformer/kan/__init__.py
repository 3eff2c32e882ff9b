"""Stand-alone Kolmogorov-Arnold networks: fit, prune, refine, read the formula.

from kansformer.kan import KAN, create_dataset

data = create_dataset(function, num_inputs=2)
model = KAN([2, 5, 1])
model.fit(data, sparsity=0.01)
model.prune(data)
model.fit_symbolic(data)
model.fit(data)
print(model.formula(digits=4))
"""

from typing import TYPE_CHECKING

from kansformer._moved import lazy_names
from kansformer.kan.data import Dataset, create_dataset
from kansformer.kan.discover import Discovery, find_formula
from kansformer.kan.edges import Edge
from kansformer.kan.equations import Derivatives, Equation, solve_equations
from kansformer.kan.history import FitHistory
from kansformer.kan.network import KAN
from kansformer.kan.pruning import NodeScores, PruneReport
from kansformer.kan.sparse import SearchSettings
from kansformer.kan.symbolic import EdgeFits

if TYPE_CHECKING:
    from kansformer.kan.estimators import KANClassifier, KANRegressor
    from kansformer.kan.from_formula import kan_from_formula

__all__ = [
    "KAN",
    "Dataset",
    "Derivatives",
    "Discovery",
    "Edge",
    "EdgeFits",
    "Equation",
    "FitHistory",
    "KANClassifier",
    "KANRegressor",
    "NodeScores",
    "PruneReport",
    "SearchSettings",
    "create_dataset",
    "find_formula",
    "kan_from_formula",
    "solve_equations",
]

# Imported once they are asked for: scikit-learn is optional, and sympy takes a while to import.
LATER = {"KANClassifier": "estimators", "KANRegressor": "estimators", "kan_from_formula": "from_formula"}
_import_later = lazy_names(__name__, {name: f"{__name__}.{module}.{name}" for name, module in LATER.items()})


def __getattr__(name: str) -> object:
    try:
        return _import_later(name)
    except ImportError as error:
        if LATER.get(name) != "estimators":
            raise
        raise ImportError(
            f"{name} needs scikit-learn 1.6 or newer. Install it: pip install 'kansformer[sklearn]'."
        ) from error
