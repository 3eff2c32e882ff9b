"""The public surface: one list, pinned here."""

import re
import subprocess
import sys
from importlib.metadata import version

import kansformer

PUBLIC = [
    "KAN",
    "GatedKANFeedForward",
    "KANConfig",
    "KANFeedForward",
    "KANLinear",
    "LearnedActivation",
    "available_backends",
    "convert",
    "create_dataset",
    "edge_curves",
    "edge_scores",
    "find_formula",
    "fit",
    "fit_symbolic",
    "is_converted",
    "load_curves",
    "optimizer_groups",
    "plan_conversion",
    "prune",
    "record_edges",
    "refine_grid",
    "revert",
    "save_curves",
    "set_backend",
    "sparsity_penalty",
    "summarize",
    "symbolic_formula",
    "update_grid",
    "write_report",
]


def test_the_public_names_are_these():
    assert kansformer.__all__ == PUBLIC
    assert all(hasattr(kansformer, name) for name in PUBLIC)


def test_every_public_name_says_what_it_does():
    for name in PUBLIC:
        assert re.match(r"[\w*`].+[.!]$", getattr(kansformer, name).__doc__.strip().splitlines()[0][:400]) or "\n" in (
            getattr(kansformer, name).__doc__
        ), name


def test_the_version_stands_in_one_place():
    assert version("kansformer") == kansformer.__version__


def test_import_is_cheap_and_leaves_the_random_state_alone():
    code = """
import sys, torch
state = torch.get_rng_state()
import kansformer
assert torch.equal(state, torch.get_rng_state())
heavy = {"datasets", "accelerate", "triton", "matplotlib", "sympy", "sklearn", "rich", "typer"} & set(sys.modules)
assert not heavy, heavy
assert "transformers.modeling_utils" not in sys.modules, "importing a model class takes seconds"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
