"""The public surface: what others call stays as it is."""

import functools
import importlib
import re
from importlib.metadata import version

import pytest
import torch
from golden.public_names import FILE, breaks, public_names

import kansformer
from kansformer.errors import ConfigError, ShapeError


def test_public_names_and_their_parameters_stay():
    old, new = FILE.read_text(encoding="utf-8").splitlines(), public_names()
    broken = breaks(old, new)
    assert not broken, "\n" + "\n".join(broken)
    assert old == new, "Names or parameters were added. Keep them from now on: python tests/golden/public_names.py"


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        ([], "a.f is gone."),
        (["a.g(x, y=, *, z=)"], "a.f is gone."),
        (["a.f(y=, x=, *, z=)"], "a.f(x, y=, *, z=) was changed to a.f(y=, x=, *, z=)."),
        (["a.f(x, *, y=, z=)"], "a.f(x, y=, *, z=) was changed to a.f(x, *, y=, z=)."),
        (["a.f(x, y, *, z=)"], "a.f(x, y=, *, z=) was changed to a.f(x, y, *, z=)."),
        (["a.f(x, y=, *, w, z=)"], "a.f(x, y=, *, z=) was changed to a.f(x, y=, *, w, z=)."),
        (["a.f(x, y=)"], "a.f(x, y=, *, z=) was changed to a.f(x, y=)."),
        (["a.e", "a.f(x=, y=, w=, *, v=, z=)"], None),
        (["a.f(x, y=, z=, **more)"], None),
    ],
)
def test_what_breaks_the_code_of_others(new, sentence):
    assert breaks(["a.f(x, y=, *, z=)"], new) == ([] if sentence is None else [sentence])


def test_properties_of_a_class_stay():
    assert breaks(["a.C(x): b: c"], ["a.C(x, y=): b: c: d"]) == []
    assert breaks(["a.C(x): b: c"], ["a.C(x): b"]) == ["a.C(x): b: c was changed to a.C(x): b."]


def test_the_root_is_small_and_about_transformers():
    assert len(kansformer.__all__) <= 18 and set(kansformer.__all__) <= set(dir(kansformer))
    from kansformer import KANTrainer
    from kansformer.training.trainer import KANTrainer as Same

    assert KANTrainer is Same
    with pytest.raises(AttributeError, match="module 'kansformer' has no attribute 'KANTransformer'"):
        kansformer.KANTransformer  # noqa: B018


MOVED = {
    "kansformer": (
        "KAN available_backends create_dataset edge_curves edge_scores find_formula fit fit_symbolic prune "
        "record_edges sparsity_penalty symbolic_formula write_report"
    ),
    "kansformer.fitting": (
        "KAN Dataset Derivatives Discovery Edge EdgeFits Equation FitHistory KANClassifier KANRegressor NodeScores "
        "PruneResult compile_formula create_dataset find_formula fit fit_symbolic fix_symbol load_kan node_scores "
        "prune prune_inputs save_kan solve_equations suggest_symbols symbolic_formula unfix_symbol"
    ),
    "kansformer.interp": "Place find_place find_places replace_edges",
    "kansformer.views": "plot_edge plot_history plot_kan",
}


@pytest.mark.parametrize("module", MOVED)
def test_old_names_work_and_say_the_new_place(module):
    package = importlib.import_module(module)
    for name in MOVED[module].split():
        with pytest.warns(DeprecationWarning, match=rf"^{module}.{name} has moved to kansformer\.") as told:
            assert callable(getattr(package, name))
        place = re.search(r"has moved to kansformer\.(\S+);", str(told[0].message))[1]
        new = functools.reduce(
            getattr, place.split(".")[1:], importlib.import_module(f"kansformer.{place.split('.')[0]}")
        )
        assert callable(new)


@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
def test_old_functions_take_their_old_arguments(tmp_path):
    import kansformer.fitting as old

    data = old.create_dataset(lambda x: x[:, [0]] ** 2 + x[:, [1]], num_inputs=2, num_train=60, num_test=0)
    x, y = data.train_input, data.train_target
    model, edge = old.KAN([2, 1]), old.Edge(0, 0, 0)
    assert len(old.fit(model, data, optimizer="adam", steps=2, learning_rate=1e-3, progress=False)) == 2
    assert old.prune(model, x, y, threshold=0.0).removed == 0 and old.prune_inputs(model, x=x, threshold=0.0) == [0, 1]
    assert old.node_scores(model, x=x).nodes[-1].sum() == 1
    assert old.load_kan(old.save_kan(model, tmp_path / "kan")).width == model.width
    assert old.fix_symbol(model, edge, "x^2", x=x) <= 1
    old.unfix_symbol(model, edge, x=x)
    assert len(old.suggest_symbols(model, edge, x=x, top=2)) == 2
    assert len(old.fit_symbolic(model, x, noise=1e-3)) == 2 and len(old.symbolic_formula(model, digits=3)) == 1
    assert old.fit_symbolic(x.T.sort().values[:1], x.T.sort().values[:1]).names == ["x"]
    assert old.find_formula(data, networks=1, first_seed=1, sparsity=1e-3, progress=False).seed == 1
    with pytest.raises(ConfigError, match=r"For a converted model use kansformer\.interp\.prune"):
        kansformer.prune(torch.nn.Linear(1, 1), x)
    with pytest.raises(ShapeError, match="takes a KAN, or two tables"):
        kansformer.fit_symbolic(x)


def test_every_public_name_says_what_it_does():
    for name in kansformer.__all__:
        assert re.match(r"[\w*`].+[.!]$", getattr(kansformer, name).__doc__.strip().splitlines()[0][:400]) or "\n" in (
            getattr(kansformer, name).__doc__
        ), name


def test_the_version_stands_in_one_place():
    assert version("kansformer") == kansformer.__version__
