"""The public surface: what others call stays as it is."""

import re
from importlib.metadata import version

import pytest
from golden.public_names import FILE, breaks, public_names

import kansformer


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


def test_every_public_name_says_what_it_does():
    for name in kansformer.__all__:
        assert re.match(r"[\w*`].+[.!]$", getattr(kansformer, name).__doc__.strip().splitlines()[0][:400]) or "\n" in (
            getattr(kansformer, name).__doc__
        ), name


def test_the_version_stands_in_one_place():
    assert version("kansformer") == kansformer.__version__
