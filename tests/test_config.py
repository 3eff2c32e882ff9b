"""KANConfig checks itself and round-trips through JSON."""

import json

import pytest

from kansformer import KANConfig
from kansformer.config import select_layers
from kansformer.errors import ConfigError

BAD = {
    "basis": (dict(basis="wavelet"), "Unknown basis 'wavelet'. Choose one of: bspline"),
    "edges": (dict(edges="all"), "Unknown edges 'all'. Choose one of: full"),
    "slot": (dict(slots=("ffn",)), "Unknown slot 'ffn'. Choose any of: input, up"),
    "no slot": (dict(slots=()), "No slot was chosen"),
    "slot twice": (dict(slots=("act", "act")), "named twice"),
    "grid": (dict(grid_size=0), "grid_size must be a whole number from 1"),
    "order": (dict(order=9), "order of the basis 'bspline' must be a whole number from 1 to 5"),
    "domain upside down": (dict(domain=(1.0, -1.0)), r"domain must run from a lower to a higher.*\(1.0, -1.0\)"),
    "domain of one": (dict(domain=3.0), "domain must be two numbers"),
    "infinite domain": (dict(domain=(0.0, float("inf"))), "domain must run"),
    "rank": (dict(rank=0), "rank must be a whole number of at least 1"),
    "edges on act only": (dict(edges="full"), "edges='full' need weights, which the slot 'act' does not have"),
    "layers": (dict(layers="middle"), "Unknown layers 'middle'"),
    "layer types": (dict(layers=["a"]), "Unknown layers"),
    "extrapolation": (dict(extrapolation="mirror"), "Unknown extrapolation 'mirror'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_setting_is_an_error_that_names_the_choices(case):
    settings, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        KANConfig(**settings)


@pytest.mark.parametrize(
    "config",
    [
        KANConfig(),
        KANConfig(slots=("down", "up"), edges="low_rank", layers=slice(2, None)),
        KANConfig(layers=[0, -1], domain=(-1, 3)),
        KANConfig(slots=("act", "up"), edges="full"),
    ],
)
def test_round_trip_through_json(config):
    assert KANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_slots_without_weights_take_group_curves_beside_edges():
    config = KANConfig(slots=("up", "act"), edges="low_rank", rank=3, groups=4)
    assert config.curve_spec("up").edges == "low_rank"
    assert (config.curve_spec("act").edges, config.curve_spec("act").groups) == ("group", 4)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(ConfigError, match="Unknown setting 'grid'. Choose from: basis, grid_size"):
        KANConfig.from_dict({"grid": 5})


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [(None, 3, [0, 1, 2]), ((-1, 0), 4, [0, 3]), ("2:", 4, [2, 3]), ("last-third", 30, list(range(20, 30))),
     ("last-third", 2, [1])],
)  # fmt: skip
def test_layers_select(layers, count, expected):
    assert select_layers(layers, count) == expected
