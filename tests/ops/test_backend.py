"""Which implementation runs, and what a request that cannot be met says."""

import pytest
import torch

from kansformer.errors import BackendError
from kansformer.ops import available_backends, backend, select_backend, set_backend


@pytest.fixture(autouse=True)
def no_request(monkeypatch):
    monkeypatch.delenv("KANSFORMER_BACKEND", raising=False)
    set_backend(None)
    yield
    monkeypatch.delenv("KANSFORMER_BACKEND", raising=False)
    set_backend(None)


def chosen() -> str:
    found = backend.backend_for(torch.zeros(1))
    return next(name for name, other in backend.BACKENDS.items() if other is found)


def test_auto_takes_the_fast_path_of_the_device():
    assert {"native", "cpu", "reference"} <= set(available_backends())
    assert select_backend("auto", "cpu") is backend.BACKENDS["native"]
    assert select_backend("auto", "meta") is backend.BACKENDS["reference"]
    assert chosen() == "native"


def test_the_environment_variable_overrides_auto(monkeypatch):
    monkeypatch.setenv("KANSFORMER_BACKEND", "reference")
    assert chosen() == "native"  # it is read when asked for
    set_backend(None)
    assert chosen() == "reference"
    monkeypatch.setenv("KANSFORMER_BACKEND", "")
    set_backend(None)
    assert chosen() == "native"


def test_set_backend_overrides_the_environment_variable(monkeypatch):
    monkeypatch.setenv("KANSFORMER_BACKEND", "reference")
    set_backend("cpu")
    assert chosen() == "cpu"
    set_backend("auto")
    assert chosen() == "native"
    set_backend(None)
    assert chosen() == "reference"


def test_unknown_backends_list_the_choices(monkeypatch):
    choices = "Choose one of: auto, .*cpu.*reference"
    with pytest.raises(BackendError, match=f"Unknown backend 'cuda'. {choices}"):
        set_backend("cuda")
    assert chosen() == "native"  # nothing was changed
    monkeypatch.setenv("KANSFORMER_BACKEND", "fast")
    set_backend(None)
    with pytest.raises(BackendError, match=f"Unknown backend 'fast'. {choices}"):
        chosen()


def test_a_backend_that_does_not_run_there_lists_those_that_do():
    with pytest.raises(BackendError, match="'cpu' does not run on 'meta' tensors. Choose auto, .*reference"):
        select_backend("cpu", "meta")
