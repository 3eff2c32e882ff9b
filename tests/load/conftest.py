"""Short by default; `python -m pytest tests/load --every-step -s` fails at every single step, and prints the counts."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--every-step", action="store_true", help="inject a failure at every step, not at a few of them")


@pytest.fixture
def every_step(request):
    return request.config.getoption("--every-step")
