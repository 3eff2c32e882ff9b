"""Stand-alone networks have moved to `kansformer.kan`; the names of this package work for one release."""

from kansformer._moved import moved_names

NAMES = (
    "KAN", "Dataset", "Derivatives", "Discovery", "Edge", "EdgeFits", "Equation", "FitHistory", "KANClassifier",
    "KANRegressor", "NodeScores", "PruneResult", "create_dataset", "find_formula", "fit", "fit_symbolic", "fix_symbol",
    "load_kan", "node_scores", "prune", "prune_inputs", "save_kan", "solve_equations", "suggest_symbols",
    "symbolic_formula", "unfix_symbol",
)  # fmt: skip

__getattr__ = moved_names(
    __name__,
    {**{name: f"kansformer.kan.{name}" for name in NAMES}, "compile_formula": "kansformer.kan.kan_from_formula"},
)
