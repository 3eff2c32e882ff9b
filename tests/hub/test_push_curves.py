"""Curves alone on the Hub: pushed with their card, loaded by id and revision beside others, and saved again."""

import json

import pytest
import torch
from hub.clients import PROGRAM
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny_models import randomize_curves
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from kansformer import KANConfig, convert, load_curves, save_curves
from kansformer.cli import app
from kansformer.embedded import embedded_model_path
from kansformer.errors import CheckpointError, HubError
from kansformer.hub import write_card

SETS = ("style", "law", "code")
BASE = "kansformer/tiny-base"
MIXTURE = {"style": 0.5, "law": 0.25, "code": -0.25}

USE = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from kansformer import load_curves, save_curves
from kansformer.errors import HubError
from kansformer.hub import disable_curves, list_curves, set_curves

base, folder, cache = sys.argv[1:]
logits = {}

def keep(name):
    with torch.no_grad():
        logits[name] = model(torch.arange(12).reshape(2, 6)).logits

model = AutoModelForCausalLM.from_pretrained(base)
keep("plain")
for name in ("style", "law"):
    load_curves(model, f"me/{name}", name=name)
load_curves(model, "me/style", name="code", revision="code", cache_dir=cache, token="hf_loopback")
for name in ("style", "law", "code"):
    set_curves(model, name)
    keep(name)
set_curves(model, {"style": 0.5, "law": 0.25, "code": -0.25})
keep("mixture")
with disable_curves(model):
    keep("disabled")
save_curves(model, folder)
for wrong, options in (
    ("me/nothing", {}),
    ("me/style", {"revision": "never"}),
    ("me/style", {"token": False, "cache_dir": f"{cache}/2"}),
):
    try:
        load_curves(model, wrong, name="style", **options)
    except HubError as error:
        print(error)
again = load_curves(AutoModelForCausalLM.from_pretrained(base), "me/law", local_files_only=True)
print(json.dumps(list_curves(model)), json.dumps(list_curves(again)))
save_file(logits, folder + "/logits.safetensors")
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The folders of three sets of curves for the embedded model, which says that it comes from a repository."""
    folders = {}
    for seed, name in enumerate(SETS):
        model = AutoModelForCausalLM.from_pretrained(embedded_model_path())
        model.config._name_or_path = BASE
        randomize_curves(convert(model, KANConfig(slots=("input", "act"))), std=0.05 * (seed + 1))
        folders[name] = save_curves(model, tmp_path_factory.mktemp("sets") / name)
    return folders


@pytest.fixture(scope="module")
def pushed(client, sets):
    process = client(
        PROGRAM,
        f"push {sets['style']} style --private",
        f"push {sets['law']} me/law --message Law",
        f"push {sets['code']} me/style --revision code",
    )
    assert process.stderr.count("exit code 0") == 3, process.stderr
    return process


def logits_of(model):
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6)).logits


def test_curves_alone_are_pushed_with_their_card(hub, pushed, sets):
    assert hub.repositories["me/style"].private and hub.repositories["me/law"].messages[-1] == "Law"
    files = hub.repositories["me/law"].files("main")
    assert files.keys() == {"README.md", "curves.json", "curves.safetensors", "kansformer.json"}
    assert sum(map(len, files.values())) < 120_000 and "Pushed 4 files" in pushed.stdout
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict() == {
        "base_model": BASE,
        "base_model_relation": "adapter",
        "library_name": "kansformer",
        "pipeline_tag": "text-generation",
        "tags": ["kansformer", "kan"],
    }
    for line in (
        f"Learned curves for the feed-forward networks of [{BASE}](https://huggingface.co/{BASE}) (a Kolmogorov-Arnold "
        "network), without",
        f'model = AutoModelForCausalLM.from_pretrained("{BASE}")',
        'load_curves(model, "me/law")',
        "| slots | input (4), act (4) |",
        f"- Whatever limits {BASE} has, this model has too.",
    ):
        assert line in card.text.splitlines(), card.text
    assert "{{" not in card.text and "\n\n\n" not in card.text and "trust_remote_code" not in card.text


def test_sets_are_loaded_by_id_mixed_disabled_and_saved(pushed, client, sets, tmp_path):
    (tmp_path / "cache").mkdir()
    process = client(USE, embedded_model_path(), tmp_path / "mixed", tmp_path / "cache")
    assert process.returncode == 0, process.stderr[-3000:]
    logits = load_file(tmp_path / "mixed" / "logits.safetensors")
    for name, folder in sets.items():
        alone = load_curves(AutoModelForCausalLM.from_pretrained(embedded_model_path()), folder)
        assert torch.equal(logits[name], logits_of(alone))
    assert torch.equal(logits["disabled"], logits["plain"]) and not torch.equal(logits["law"], logits["plain"])
    (tmp_path / "mixed" / "logits.safetensors").unlink()
    mixed = load_curves(AutoModelForCausalLM.from_pretrained(embedded_model_path()), tmp_path / "mixed")
    assert torch.equal(logits["mixture"], logits_of(mixed))
    *sentences, listed = process.stdout.splitlines()
    expected = (
        "'me/nothing', and the Hub did not give a repository of that name",
        "'me/style', and",
        "'me/style', and",
    )
    for sentence, words in zip(sentences, expected, strict=True):
        assert sentence.startswith("There is no folder " + words), process.stdout
    assert listed == json.dumps(MIXTURE) + ' {"default": 1.0}'
    assert any((tmp_path / "cache").rglob("curves.safetensors"))


def test_curves_are_saved_again_beside_their_card(sets, tmp_path):
    model = load_curves(AutoModelForCausalLM.from_pretrained(embedded_model_path()), sets["law"])
    folder = save_curves(model, tmp_path / "x")
    assert write_card(folder, origin="someone/base")
    assert json.loads((folder / "kansformer.json").read_text()) == {"base_model": "someone/base"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    card = (folder / "README.md").read_text()
    save_curves(model, folder)
    assert (folder / "README.md").read_text() == card and (folder / "kansformer.json").exists()
    assert load_curves(model, folder) is model


@pytest.mark.parametrize("origin", [str(embedded_model_path()), "/home/someone/model"])
def test_a_path_of_this_machine_is_not_a_base_model(origin, tmp_path):
    model = convert(AutoModelForCausalLM.from_pretrained(embedded_model_path()))
    model.config._name_or_path = origin
    folder = save_curves(model, tmp_path / "x")
    assert "base_model" not in json.loads((folder / "curves.json").read_text())
    write_card(folder, name="me/x")
    card = ModelCard.load(folder / "README.md")
    assert "base_model" not in card.data.to_dict() and str(embedded_model_path()) not in card.content
    assert 'AutoModelForCausalLM.from_pretrained("...")' in card.text and "**The curves are all zero" in card.text


@pytest.mark.parametrize("change", [{"architecture": "os; import os"}, {"base_model": "two\nlines"}])
def test_what_cannot_stand_in_a_card_is_refused(change, sets, tmp_path):
    for file in sets["law"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "README.md").unlink(missing_ok=True)
    settings = json.loads((tmp_path / "curves.json").read_text())
    (tmp_path / "curves.json").write_text(json.dumps(settings | change))
    result = CliRunner().invoke(app, ["push", str(tmp_path), "me/x"], env={"COLUMNS": "200"})
    assert result.exit_code == 1 and f"{next(iter(change))} in curves.json must be" in result.stderr
    assert not (tmp_path / "README.md").exists()


def test_without_a_connection(make):
    with pytest.raises(HubError, match="There is no folder 'me/curves', and the Hub did not give"):
        load_curves(make("llama"), "me/curves", local_files_only=True)
    with pytest.raises(CheckpointError, match="'curves' holds no curves"):
        load_curves(make("llama"), "curves")
