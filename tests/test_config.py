"""KANConfig checks itself and round-trips through JSON."""

import json
from types import SimpleNamespace

import pytest
from peft.tuners.tuners_utils import check_target_module_exists

from kansformer import KANConfig
from kansformer.config import matches_module, select_layers
from kansformer.errors import CheckpointError, ConfigError

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
    "module names": (dict(target_modules=[]), "target_modules must be a list of names such as"),
    "module types": (dict(exclude_modules=["mlp", 3]), r"exclude_modules must be a list .* got \['mlp', 3\]"),
    "module number": (dict(target_modules=3), "target_modules must be a list .* got 3"),
    "module expression": (dict(target_modules="(mlp"), r"target_modules='\(mlp' is not a regular expression: missing"),
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
        KANConfig(target_modules=["mlp"], exclude_modules=r".*\.3\.mlp"),
    ],
)
def test_round_trip_through_json(config):
    assert KANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("layers", [slice(None, None, 0), slice(1.5, None)])
def test_an_impossible_slice_is_refused_at_once(layers):
    with pytest.raises(ConfigError):
        KANConfig(layers=layers)


def test_filters_are_written_where_there_are_any():
    assert "target_modules" not in KANConfig().to_dict()
    assert KANConfig(exclude_modules={"b", "a"}).to_dict()["exclude_modules"] == ["a", "b"]


@pytest.mark.parametrize(
    ("modules", "path", "expected"),
    [
        (("act_fn",), "model.layers.0.mlp.act_fn", True),
        (("act_fn",), "act_fn", True),
        (("0.mlp",), "model.layers.0.mlp", True),
        (("0.mlp",), "model.layers.10.mlp", False),
        (("fn",), "model.layers.0.mlp.act_fn", False),
        (("mlp",), "model.layers.0.mlp.act_fn", False),
        (r".*\.[02]\.mlp", "model.layers.2.mlp", True),
        (r"\.[02]\.mlp", "model.layers.2.mlp", False),
        ("mlp", "model.layers.2.mlp", False),
    ],
)
def test_modules_are_matched_as_peft_matches_them(modules, path, expected):
    assert matches_module(modules, path) is expected
    target = modules if isinstance(modules, str) else set(modules)
    assert bool(check_target_module_exists(SimpleNamespace(target_modules=target), path)) is expected


def test_a_config_is_saved_and_read_again(tmp_path):
    config = KANConfig(slots=("up", "act"), grid_size=7, target_modules=["mlp"])
    assert config.save_pretrained(tmp_path / "new") == tmp_path / "new" / "kan_config.json"
    assert KANConfig.from_pretrained(tmp_path / "new") == config
    assert KANConfig.from_pretrained(str(tmp_path / "new")) == config
    with pytest.raises(CheckpointError, match=r"kan_config.json' is a file"):
        config.save_pretrained(tmp_path / "new" / "kan_config.json")


@pytest.mark.parametrize(
    ("name", "text", "error", "sentence"),
    [
        ("kan_config.json", "{", CheckpointError, "is not JSON"),
        ("kan_config.json", "[]", CheckpointError, "holds no settings of kansformer"),
        ("kan_config.json", '{"splines": 3}', ConfigError, "Unknown setting 'splines'"),
        ("kan_config.json", '{"order": 9}', ConfigError, "order of the basis"),
        ("config.json", "{}", CheckpointError, "holds no settings of kansformer: there is none of kan_config.json, c"),
        ("config.json", '{"quantization_config": {"quant_method": "gptq"}}', CheckpointError, "holds no settings"),
    ],
)
def test_files_without_usable_settings_are_refused(name, text, error, sentence, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=sentence):
        KANConfig.from_pretrained(tmp_path)


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
