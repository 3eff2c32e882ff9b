"""Files of every format that there ever was load, give what they gave, and are written again as they were.

`make.py` made them. Outputs are those of the reference backend, equal to the bit with the torch and on the kind of
processor that made them. Another torch adds up in another order, and on another processor its libraries choose other
instructions; there the table of tolerances holds instead.
"""

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from golden.make import KINDS, make, this_machine
from numerics import assert_close_to_float64
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import kansformer
from kansformer import KANConfig, convert, freeze_curves, is_converted, load_curves, save_curves, set_backend
from kansformer.conversion.digest import FIRST_VERSION
from kansformer.errors import CheckpointError
from kansformer.interp import Transcoder
from kansformer.kan import KAN
from kansformer.safe_io import read_metadata
from kansformer.training.recipe_file import read_recipe, write_recipe

FOLDER = Path(__file__).resolve().parent
# A whole model hands the rounding of one layer to the next, and Fourier curves make ten times as much of a last bit.
WHOLE_MODEL = 5.0
CHECKPOINTS, CURVES, FOUND, NETWORKS, RECIPES, TRANSCODERS = (sorted((FOLDER / kind).iterdir()) for kind in KINDS)
# The modules that read a format, and the files that hold its version.
READERS = {
    "kansformer.conversion.record": [(path / "config.json", "quantization_config") for path in CHECKPOINTS],
    "kansformer.conversion.found_curves": [(path / "found.safetensors", None) for path in FOUND],
    "kansformer.hub.curve_files": [(path / "curves" / "curves.json", None) for path in CURVES],
    "kansformer.kan.saving": [(path / "kan.json", None) for path in NETWORKS],
    "kansformer.nn.transcoder": [(path / "transcoder" / "config.json", None) for path in TRANSCODERS],
}


@pytest.fixture(autouse=True)
def reference():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in make.py: another number adds up in another order
    set_backend("reference")
    yield
    set_backend(None)
    torch.set_num_threads(threads)


def read(path):
    if path.suffix == ".safetensors":
        return read_metadata(path, "kansformer")
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


def assert_expected(folder, found, expected, *, looser=1.0):
    made_by = read(folder / "made_by.json")
    assert found.dtype == expected.dtype
    if this_machine().items() <= made_by.items():
        assert torch.equal(found, expected)
    else:
        assert_close_to_float64(found, expected, found.dtype, looser=looser)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_a_checkpoint(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = load_file(folder / "expected.safetensors")
    logits = logits_of(model, expected["tokens"])
    assert is_converted(model)
    assert_expected(folder, logits, expected["logits"], looser=WHOLE_MODEL)
    model.save_pretrained(tmp_path)
    old = load_file(folder / "model.safetensors")
    wide = {name: tensor.float() for name, tensor in old.items() if name.endswith("domain") and tensor.itemsize < 4}
    assert_same_tensors(load_file(tmp_path / "model.safetensors"), old | wide)  # domains were once in 16 bits
    settings, before = (read(place / "config.json")["quantization_config"] for place in (tmp_path, folder))
    before.pop("digest", None)
    assert settings.pop("digest") and settings == before | {
        "format_version": max(FIRST_VERSION, before["format_version"])
    }
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path), expected["tokens"]), logits)


@pytest.mark.parametrize("folder", CURVES, ids=lambda path: path.name)
def test_curves_without_their_model(folder, tmp_path):
    model = load_curves(AutoModelForCausalLM.from_pretrained(folder / "plain"), folder / "curves")
    expected = load_file(folder / "expected.safetensors")
    assert_expected(folder, logits_of(model, expected["tokens"]), expected["logits"], looser=WHOLE_MODEL)
    settings = read(folder / "curves" / "curves.json")
    again = save_curves(model, tmp_path / "again", also=settings["also"])
    assert settings.get("digest") or read(again / "curves.json").pop("digest")
    assert read(again / "curves.json") | {"digest": None} == settings | {"digest": None}
    assert_same_tensors(load_file(again / "curves.safetensors"), load_file(folder / "curves" / "curves.safetensors"))


@pytest.mark.parametrize("folder", FOUND, ids=lambda path: path.name)
def test_curves_in_one_file(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(CURVES[0] / "plain")
    convert(model, KANConfig(curves=folder / "found.safetensors", trainable=False))
    expected = load_file(folder / "expected.safetensors")
    assert_expected(folder, logits_of(model, expected["tokens"]), expected["logits"], looser=WHOLE_MODEL)
    freeze_curves(model, tmp_path / "found.safetensors", source=read(folder / "found.safetensors")["source"])
    assert read(tmp_path / "found.safetensors") == read(folder / "found.safetensors")
    assert_same_tensors(load_file(tmp_path / "found.safetensors"), load_file(folder / "found.safetensors"))


@pytest.mark.parametrize("folder", NETWORKS, ids=lambda path: path.name)
def test_a_network(folder, tmp_path):
    model = KAN.load(folder)
    expected, settings = load_file(folder / "expected.safetensors"), read(folder / "kan.json")
    assert_expected(folder, model.predict(expected["inputs"]), expected["outputs"])
    assert_same_tensors(model.state_dict(), load_file(folder / settings["tensors"]))
    model.save(tmp_path)
    assert read(tmp_path / "kan.json") == settings  # which names the tensors by their checksum


@pytest.mark.parametrize("folder", TRANSCODERS, ids=lambda path: path.name)
def test_a_transcoder(folder, tmp_path):
    model, expected = Transcoder.load(folder / "transcoder"), load_file(folder / "expected.safetensors")
    # Products of so few numbers end in other bits where a file lies elsewhere in memory.
    assert_close_to_float64(model(expected["inputs"]).detach(), expected["outputs"], torch.float32)
    model.save(tmp_path / "again")
    for name in ("config.json", "transcoder.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "transcoder" / name).read_bytes()


@pytest.mark.parametrize("folder", RECIPES, ids=lambda path: path.name)
def test_a_recipe(folder, tmp_path):
    """It means what it meant, also where it leaves a field to its default; fields that came later are not asked for."""
    recipe = read_recipe(folder / "recipe.yaml")
    missing = difference(read(folder / "expected.json"), json.loads(json.dumps(asdict(recipe))))
    assert not missing, missing
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == (folder / "recipe.yaml").read_text(
        encoding="utf-8"
    )


def difference(expected, found, place="recipe"):
    if isinstance(expected, dict) and isinstance(found, dict):
        return [line for name in expected for line in difference(expected[name], found.get(name), f"{place}.{name}")]
    return [] if found == expected else [f"{place} was {expected!r} and is {found!r}"]


def test_every_version_of_every_format_has_a_file():
    sources = Path(kansformer.__file__).parent.rglob("*.py")
    readers = [path for path in sources if re.search(r"^FORMAT_VERSION\b", path.read_text(encoding="utf-8"), re.M)]
    names = {".".join(path.relative_to(FOLDER.parent.parent).with_suffix("").parts) for path in readers}
    assert names == READERS.keys()
    for name, files in READERS.items():
        versions = {(read(path)[entry] if entry else read(path))["format_version"] for path, entry in files}
        assert versions == {*range(1, importlib.import_module(name).FORMAT_VERSION + 1)}, name


@pytest.mark.parametrize("reader", [name for name in READERS if name != "kansformer.conversion.found_curves"])
def test_a_newer_version_says_what_to_install(reader, tmp_path):
    path, entry = READERS[reader][0]
    newest = importlib.import_module(reader).FORMAT_VERSION
    for file in path.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = read(path)
    (settings[entry] if entry else settings)["format_version"] = newest + 1
    (tmp_path / path.name).write_text(json.dumps(settings), encoding="utf-8")
    plain = AutoModelForCausalLM.from_pretrained(CURVES[0] / "plain")
    before = [*plain.state_dict()]
    load = {
        "kansformer.conversion.record": AutoModelForCausalLM.from_pretrained,
        "kansformer.hub.curve_files": lambda folder: load_curves(plain, folder),
        "kansformer.kan.saving": KAN.load,
        "kansformer.nn.transcoder": Transcoder.load,
    }[reader]
    with pytest.raises(CheckpointError, match=rf"version {newest + 1}.*pip install --upgrade kansformer"):
        load(tmp_path)
    assert [*plain.state_dict()] == before


def test_their_code_loads_them_by_trust_alone(client, tmp_path):
    code = """
import os, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
os.environ["KANSFORMER_BACKEND"] = "reference"
torch.set_num_threads(1)
assert "kansformer" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokens = load_file(sys.argv[1] + "/expected.safetensors")["tokens"]
with torch.no_grad():
    save_file({"logits": model(input_ids=tokens).logits}, sys.argv[2])
"""
    folder = FOLDER / "checkpoints" / "channel-bspline"
    process = client(code, folder, tmp_path / "found.safetensors")
    assert process.returncode == 0, process.stderr[-3000:]
    found = load_file(tmp_path / "found.safetensors")["logits"]
    assert_expected(folder, found, load_file(folder / "expected.safetensors")["logits"], looser=WHOLE_MODEL)


def test_what_exists_is_not_made_again():
    with pytest.raises(FileExistsError):
        make(f"recipes/{RECIPES[0].name}")


# NEEDKAN
