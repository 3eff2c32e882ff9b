"""Sharing by the real huggingface_hub: `push_to_hub`, `kansformer push` and `from_pretrained(name, revision=…)`."""

import pytest
import torch
from hub.clients import PROGRAM
from hub.loopback_hub import Repository
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from kansformer import KANConfig, convert
from kansformer.cli import app
from kansformer.embedded import embedded_model_path

FILES = {"README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_kansformer.py"}
FILES |= {"tokenizer.json", "tokenizer_config.json"}

TRIES = 6  # of the client, for one file

PULL = """
import sys
import kansformer, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
found = {}
for argument in sys.argv[2:]:
    name, _, revision = argument.partition("@")
    model = AutoModelForCausalLM.from_pretrained(name, revision=revision or "main")
    assert type(model).__module__ == "transformers.models.llama.modeling_llama" and kansformer.is_converted(model)
    with torch.no_grad():
        found[argument] = model(torch.arange(12).reshape(2, 6)).logits
save_file(found, sys.argv[1])
"""

TRUST = """
import sys
from transformers import AutoModelForCausalLM
import torch
assert "kansformer" not in sys.modules
model = AutoModelForCausalLM.from_pretrained("me/model", trust_remote_code=True)
assert "kansformer" in sys.modules
with torch.no_grad():
    torch.save(model(torch.arange(12).reshape(2, 6)).logits, sys.argv[1])
"""

PUSH_TO_HUB = """
import sys
import kansformer, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.push_to_hub("pushed", private=True)
with torch.no_grad():
    model.lm_head.weight.mul_(2)
model.push_to_hub("me/pushed", revision="doubled", commit_message="Twice as sure")
"""


@pytest.fixture(scope="module")
def pull(client, tmp_path_factory):
    """pull("name@revision", …): the logits that each gives in a new process."""

    def load(*names):
        file = tmp_path_factory.mktemp("found") / "logits.safetensors"
        process = client(PULL, file, *names)
        assert process.returncode == 0, process.stderr[-3000:]
        return load_file(file)

    return load


def logits_of(model):
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6)).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The embedded model with bent curves, as `save_pretrained` writes it, with things that stay on the disk."""
    path = tmp_path_factory.mktemp("models") / "kan"
    model = AutoModelForCausalLM.from_pretrained(embedded_model_path())
    convert(model, KANConfig(slots=("act", "down")))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("coefficients"):
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(embedded_model_path()).save_pretrained(path)
    (path / "checkpoint-7").mkdir()
    (path / "checkpoint-7" / "optimizer.pt").write_text("a pickle")
    (path / ".secret").write_text("mine")
    save_file({"input_ids": torch.arange(4)}, path / "non-finite-step-3-process-0.safetensors")  # of a skipped step
    return path


@pytest.fixture(scope="module")
def expected(folder):
    return logits_of(AutoModelForCausalLM.from_pretrained(folder))


@pytest.fixture(scope="module")
def pushed(client, folder):
    """The process that pushed the folder to me/model, to its main branch and to another one."""
    process = client(
        PROGRAM, f"push {folder} model --private --message First", f"push {folder} me/model --revision tried"
    )
    assert process.stderr.count("exit code 0") == 2, process.stderr
    return process


def test_push_uploads_the_folder_in_one_commit(hub, pushed, folder):
    repository = hub.repositories["me/model"]
    assert repository.private and repository.messages == ["initial commit", "First", "Upload with kansformer"]
    for branch in ("main", "tried"):
        assert hub.requests.count(f"POST /api/models/me/model/commit/{branch}") == 1
        assert repository.files(branch).keys() == FILES
        assert all(content == (folder / name).read_bytes() for name, content in repository.files(branch).items())
    assert b'from_pretrained("me/model")' in repository.files("main")["README.md"]
    assert pushed.stdout.count("Wrote the card") == 1
    assert pushed.stdout.count("Left out: .secret, checkpoint-7, non-finite-step-3") == 2
    assert b"| weights | F32;" in repository.files("main")["README.md"]
    assert pushed.stdout.count(f"Pushed {len(FILES)} files") == 2 and f"{hub.url}/me/model/commit/" in pushed.stdout
    assert "model.safetensors: 100%" in pushed.stderr  # the bar


def test_every_revision_loads_in_a_new_process(hub, pushed, pull, expected):
    branches = hub.repositories["me/model"].branches
    assert branches.keys() == {"main", "tried"}
    found = pull("me/model", "me/model@tried", f"me/model@{branches['main']}")
    assert len(found) == 3 and all(torch.equal(logits, expected) for logits in found.values())


def test_trust_remote_code_needs_no_import(pushed, client, expected, tmp_path):
    process = client(TRUST, tmp_path / "logits.pt")
    assert process.returncode == 0, process.stderr[-3000:]
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_push_to_hub_of_a_model(hub, folder, client, pull, expected):
    process = client(PUSH_TO_HUB, folder)
    assert process.returncode == 0, process.stderr[-3000:]
    repository = hub.repositories["me/pushed"]
    assert repository.private and set(repository.branches) == {"main", "doubled"}
    assert repository.messages == ["initial commit", "Upload LlamaForCausalLM", "Twice as sure"]
    for branch in ("main", "doubled"):
        assert {"config.json", "model.safetensors", "modeling_kansformer.py"} <= set(repository.files(branch))
        assert b"tags:\n- kansformer\n" in repository.files(branch)["README.md"]
    found = pull("me/pushed", "me/pushed@doubled")
    assert torch.equal(found["me/pushed"], expected)
    assert not torch.equal(found["me/pushed@doubled"], expected)


def test_shards_take_the_place_of_an_older_file_of_weights(hub, folder, client, pull, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(3)
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    process = client(PROGRAM, f"push {folder} me/shards", f"push {tmp_path} me/shards")
    assert process.stderr.count("exit code 0") == 2, process.stderr
    files = hub.repositories["me/shards"].files("main").keys()
    assert "model.safetensors" not in files and {file.name for file in tmp_path.iterdir()} <= files
    assert torch.equal(pull("me/shards")["me/shards"], logits_of(model.eval()))


def test_a_broken_upload_leaves_the_old_revision(hub, pushed, folder, client, pull, expected, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)  # a file that no other test has uploaded
    model.save_pretrained(tmp_path)
    repository = hub.repositories["me/model"]
    before, messages = dict(repository.branches), list(repository.messages)
    hub.cut_uploads = ["close"] * TRIES + ["500"] * TRIES
    process = client(PROGRAM, f"push {tmp_path} me/model", f"push {tmp_path} me/model")
    assert process.stderr.count("exit code 1") == 2 and not hub.cut_uploads
    sentences = [line for line in process.stderr.splitlines() if line.startswith("Error: ")]
    reasons = ("Server disconnected without sending a response.", "500 Internal Server Error")
    for sentence, reason in zip(sentences, reasons, strict=True):
        assert sentence.startswith("Error: me/model was not uploaded: Error while uploading 'model.safetensors'")
        assert reason in sentence and sentence.endswith("all or nothing; the same command tries again.")
    assert (repository.branches, repository.messages) == (before, messages)
    assert torch.equal(pull("me/model")["me/model"], expected)


def test_what_the_hub_refuses_is_a_sentence(hub, folder, client):
    hub.repositories["me/public"] = Repository()
    process = client(PROGRAM, f"push {folder} google/model", f"push {folder} me/public --private")
    assert process.stderr.count("exit code 1") == 2
    assert "Error: google/model was not uploaded: " in process.stderr and "have the rights" in process.stderr
    assert "Error: me/public exists already and is public, so --private would be ignored." in process.stderr
    assert not hub.repositories["me/public"].files("main")


def refused(*arguments):
    result = CliRunner().invoke(app, ["push", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 1, result.output
    return result.stderr


@pytest.mark.parametrize("name", ["a/b/c", "me/-x", "me/two words", "me/a--b", "./model"])
def test_wrong_names_are_refused_before_anything_is_asked(name, folder):
    assert f"Error: '{name}' is not a name for a repository: write owner/model." in refused(folder, name)


def test_without_a_token(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert refused(folder, "me/model") == (
        "Error: There is no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN.\n"
    )


def test_folders_without_such_a_model_are_refused(tmp_path):
    assert "There is no folder" in refused(tmp_path / "nowhere", "me/model")
    assert "holds no model: there is neither config.json nor kan.json" in refused(tmp_path, "me/model")
    sentence = refused(embedded_model_path(), "me/model")
    assert "has no curves: its config.json has no kansformer settings. Convert it first: kansformer conv" in sentence
    (tmp_path / "config.json").write_text("{")
    assert "config.json' is not JSON" in refused(tmp_path, "me/model")


def test_a_folder_without_weights_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert "There are no weights in" in refused(tmp_path, "me/model")
    (tmp_path / "model.safetensors").write_bytes(b"half")
    assert "model.safetensors' cannot be read" in refused(tmp_path, "me/model")
    assert not (tmp_path / "README.md").exists()
