"""Short by default; `python -m pytest tests/load --thorough -s` tries every step and many rounds, and prints counts."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="a failure at every single step, many rounds of threads")


@pytest.fixture
def thorough(request):
    return request.config.getoption("--thorough")
