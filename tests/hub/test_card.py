"""Model cards: every line comes from a file in the folder, and what is not there is not said."""

import copy
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from kansformer import KANConfig, convert, revert
from kansformer.cli import app
from kansformer.conversion.measured import digest_of_weights
from kansformer.errors import CheckpointError
from kansformer.hub import write_card
from kansformer.hub.card import is_generated
from kansformer.hub.model_folder import ModelFolder
from kansformer.kan import KAN
from kansformer.training import TrainingResult

TRAINING = {
    "evaluation": {"eval_loss": 2.34567, "eval_runtime": 3.0},
    "steps": 1200,
    "tokens_per_second": 15432.1,
    "trainable": 288,
    "facts": {
        "data": {"source": "standard-library", "train_tokens": 1000000, "tokenizer": "characters"},
        "device": "1 x H100",
        "kansformer": "0.1.0",
    },
}
AUDIT = {
    "tokens": 4096,
    "edges": 48,
    "loss": 2.5,
    "coverage_r2": 0.91,
    "control_coverage_r2": 0.42,
    "coverage_r2_tokens": 0.8,
    "control_coverage_r2_tokens": None,
    "replaced": [{"share": 0.5, "edges": 24, "loss": 2.51}],
}


@pytest.fixture
def folder(make_converted, tmp_path):
    make_converted("llama", KANConfig(slots=("act", "down"))).save_pretrained(tmp_path / "kan")
    return tmp_path / "kan"


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def put(folder, name, values):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(values))


def headings(card):
    return [line.removeprefix("## ") for line in card.text.splitlines() if line.startswith("## ")]


def test_a_converted_folder_says_what_was_swapped_and_no_more(folder):
    assert write_card(folder)
    card = card_of(folder)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["kansformer", "kan"],
    }
    assert headings(card) == ["What was swapped", "Load it", "Limits"]
    for line in (
        "# kan",
        "| slots | act (2), down (2) |",
        "| edges | channel: one curve per channel |",
        "| basis | bspline: grid_size 5, order 3, domain -4 to 4 |",
        "| curves | 96 |",
        "| parameters | 5,968, of them 768 (12.87%) in curves |",
        'model = AutoModelForCausalLM.from_pretrained("kan")',
        'model = AutoModelForCausalLM.from_pretrained("kan", trust_remote_code=True)',
        "- Its quality has not been recorded in its folder.",
    ):
        assert line in card.text.splitlines()
    assert not [word for word in ("licen", "None", "all zero", "[More", "{{", "{%") if word in card.content]
    assert "\n\n\n" not in card.content


@pytest.mark.parametrize(
    ("edges", "curves"), [("full", 2 * 24 * 16 + 2 * 8), ("low_rank", 2 * 24 * 16 + 2 * 8), ("group", 4 * 8)]
)
def test_curves_are_counted(edges, curves, make_converted, tmp_path):
    model = make_converted("llama", KANConfig(slots=("act", "down"), edges=edges, rank=3))
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    weights = ModelFolder.read(tmp_path).weights
    assert weights.curves == curves and not weights.straight
    assert weights.parameters == sum(p.numel() for p in model.parameters())


def test_straight_curves_are_told(make, tmp_path):
    convert(make("bert")).save_pretrained(tmp_path)
    write_card(tmp_path)
    card = card_of(tmp_path)
    assert "**Its curves are all zero so far**" in card.text and card.data.pipeline_tag == "fill-mask"
    put(tmp_path, "summary.json", AUDIT)
    write_card(tmp_path)
    assert "What the curves are" not in headings(card_of(tmp_path)), "shares of what was never learned"


def test_figures_of_other_weights_are_left_out(folder):
    digest = digest_of_weights(folder)
    put(folder, "training.json", {**TRAINING, "weights": digest})
    put(folder / "audit", "summary.json", {**AUDIT, "weights": digest})
    result = {"dataset": "text", "metric": "loss", "value": 2.5}
    put(folder, "kansformer.json", {"results": [result, {**result, "metric": "perplexity", "weights": digest}]})
    assert write_card(folder)
    assert {"Training", "Quality", "What the curves are"} <= set(headings(card_of(folder)))
    assert "| text | perplexity | 2.5 |" in card_of(folder).text
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    with pytest.warns(UserWarning, match=r"measured in: training.json, summary.json, perplexity on text\. The card"):
        write_card(folder)
    card = card_of(folder)
    assert not {"Training", "What the curves are"} & set(headings(card))
    assert "| text | loss | 2.5 |" in card.text and "perplexity" not in card.text  # the first does not say of which
    assert len(json.loads((folder / "kansformer.json").read_text())["results"]) == 2


def test_curves_of_another_training_get_no_card(make_converted, tmp_path):
    for name, value in (("one", 1.0), ("other", 2.0)):
        model = make_converted("llama")
        torch.nn.init.constant_(model.model.layers[0].mlp.act_fn.coefficients, value)
        model.save_pretrained(tmp_path / name)
    (tmp_path / "other" / "config.json").replace(tmp_path / "one" / "config.json")
    with pytest.raises(CheckpointError, match="curves are not those that were saved"):
        write_card(tmp_path / "one")
    assert not (tmp_path / "one" / "README.md").exists()


def test_training_and_audit_come_from_their_files(folder):
    put(folder, "training.json", TRAINING)
    put(folder / "audit", "summary.json", AUDIT)
    write_card(folder, name="me/model")
    card = card_of(folder)
    assert headings(card)[2:] == ["Training", "Quality", "What the curves are", "Limits"]
    for line in (
        "| data | standard-library, 1,000,000 tokens |",
        "| speed of training | 15,432 tokens (or rows) a second on 1 x H100 |",
        "| on | metric | this model |",
        "| standard-library, held-out part | loss | 2.3457 |",
        "| edges whose formula has R² ≥ 0.99 | this model | random curves |",
        "| on even points that the fit did not see | 91.0% | 42.0% |",
        "| 50% | 2.5100 |",
    ):
        assert line in card.text.splitlines()
    assert "at recorded inputs" not in card.text, "a share without its control"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.task_type) == ("loss", 2.3457, "text-generation")
    assert result.dataset_type == "standard-library-held-out-part"
    assert card.data.metrics == ["loss"] and card.data.model_name == "model"


def test_an_audit_without_its_control_is_left_out(folder):
    put(folder, "summary.json", {"edges": 48, "coverage_r2": 0.91})
    write_card(folder)
    assert "What the curves are" not in card_of(folder).text


def test_facts_of_one_s_own(folder):
    results = [{"dataset": "WikiText-2", "metric": "perplexity", "value": 11.5, "original": 12.25}]
    facts = {"base_model": "meta/small", "license": "other", "license_name": "own", "results": results}
    put(folder, "kansformer.json", {**facts, "datasets": ["a/text"], "language": ["en"]})
    put(folder, "training.json", TRAINING)
    write_card(folder, datasets=["b/more", "a/text"])
    card = card_of(folder)
    values = card.data.to_dict()
    assert {name: values[name] for name in ("base_model", "license", "license_name", "language")} == {
        **{name: facts[name] for name in ("base_model", "license", "license_name")},
        "language": ["en"],
    }
    assert values["datasets"] == ["a/text", "b/more"] and values["metrics"] == ["perplexity", "loss"]
    table = (  # without blank lines, which would end it
        "| on | metric | this model | the original |",
        "|---|---|---|---|",
        "| WikiText-2 | perplexity | 11.5 | 12.25 |",
        "| standard-library, held-out part | loss | 2.3457 | – |",
    )
    assert "\n".join(table) in card.text
    assert "- Whatever limits meta/small has, this model has too." in card.text.splitlines()
    assert json.loads((folder / "kansformer.json").read_text())["results"] == results


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "kansformer.json' is not JSON"),
        ("[]", r"must hold a table, got \[\]"),
        ('{"licence": "mit"}', "has the unknown entry 'licence'. Choose from: base_model, license"),
        ('{"license": 3}', "license in .* must be one line of text.* got 3"),
        ('{"datasets": "a/b"}', "datasets in .* must be a list of texts.* got 'a/b'"),
        ('{"results": {}}', r"results in .* must be a list of tables, got \{\}"),
        ('{"results": [{"metric": "loss"}]}', "must have dataset, metric and value"),
        (
            '{"results": [{"dataset": "x", "metric": "loss", "value": "3"}]}',
            "value in a result in .* must be a finite number",
        ),
    ],
)
def test_wrong_facts(text, sentence, folder):
    (folder / "kansformer.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        write_card(folder)


def test_an_edited_card_is_left_alone_and_an_own_one_renewed(folder):
    write_card(folder)
    first = (folder / "README.md").read_text()
    assert is_generated(first) and not is_generated(first.replace("# kan", "# Kan")) and not is_generated("# Mine\n")
    assert write_card(folder, name="me/model")
    renewed = (folder / "README.md").read_text()
    assert is_generated(renewed) and 'from_pretrained("me/model")' in renewed
    (folder / "README.md").write_text(renewed.replace("## Limits", "## Known limits"))
    assert not write_card(folder, name="me/other")
    assert "## Known limits" in (folder / "README.md").read_text()


def test_base_model_and_licence_of_the_origin(folder, tmp_path):
    write_card(folder, origin="meta/small")
    assert card_of(folder).data.base_model == "meta/small" and card_of(folder).data.license is None
    assert json.loads((folder / "kansformer.json").read_text()) == {"base_model": "meta/small"}
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text("---\nlicense: mit\nlanguage: en\ndatasets: [a/b]\ntags: [x]\n---\n# It\n")
    (folder / "kansformer.json").unlink()
    write_card(folder, origin=str(source))
    assert json.loads((folder / "kansformer.json").read_text()) == {
        "license": "mit",
        "language": ["en"],
        "datasets": ["a/b"],
    }
    put(source, "kansformer.json", {"license": "apache-2.0", "results": [dict(dataset="x", metric="y", value=1)]})
    (folder / "kansformer.json").unlink()
    write_card(folder, origin=str(source))
    assert card_of(folder).data.license == "apache-2.0" and card_of(folder).data.eval_results is None


@pytest.mark.parametrize("text", ["# No header\n", "---\n[1]\n---\n", "---\na: b: c\n---\n", "---\nlicense: 3\n---\n"])
def test_a_strange_card_of_the_origin_says_nothing(text, folder, tmp_path):
    (tmp_path / "README.md").write_text(text)
    write_card(folder, origin=str(tmp_path))
    assert not (folder / "kansformer.json").exists()
    write_card(folder, origin="model.gguf")
    assert not (folder / "kansformer.json").exists()


def test_a_network_of_its_own(tmp_path):
    KAN([2, [3, 1], 1], dtype=torch.float32).save(tmp_path / "net")
    write_card(tmp_path / "net", name="me/net")
    card = card_of(tmp_path / "net")
    assert card.data.library_name == "kansformer" and headings(card) == ["The network", "Load it", "Limits"]
    assert 'model = KAN.load(snapshot_download("me/net"))' in card.text
    assert (
        "| nodes per layer | 2, 3 + 1 that multiply, 1 |" in card.text.splitlines() and "transformers" not in card.text
    )


def test_no_model_no_card(make, tmp_path):
    with pytest.raises(CheckpointError, match="holds no model: there is neither config.json nor kan.json"):
        write_card(tmp_path)
    make("llama").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no curves"):
        write_card(tmp_path)
    assert not Path(tmp_path, "README.md").exists()


def test_models_are_tagged_for_push_to_hub(make, make_converted):
    model = make_converted()
    assert model.model_tags == ["kansformer"] == copy.deepcopy(model).model_tags
    assert type(model).model_tags is None
    model.add_model_tags("mine")
    assert revert(model).model_tags == ["mine"]
    assert "model_tags" not in vars(revert(make_converted()))


def test_convert_writes_the_card_with_the_licence_of_its_source(make, tmp_path):
    source = tmp_path / "source"
    make("llama").save_pretrained(source)
    (source / "README.md").write_text("---\nlicense: mit\nbase_model: meta/small\n---\n# It\n")
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "kan")])
    assert result.exit_code == 0, result.output
    card = card_of(tmp_path / "kan")
    assert (card.data.license, card.data.base_model) == ("mit", "meta/small") and "# kan" in card.text.splitlines()


@pytest.mark.parametrize("curves", [768, 0])
def test_train_writes_the_card_of_a_model_with_curves(curves, make_converted, tmp_path, monkeypatch):
    output = tmp_path / "run"

    def train(recipe, output, **options):
        make_converted("llama").save_pretrained(output)
        put(output, "training.json", TRAINING)
        counts = dict(parameters=1, trainable=1, curve_parameters=curves)
        figures = dict(losses=(), evaluation={}, steps=2, seconds=1.0, tokens_per_second=3.0, facts={})
        return TrainingResult(output=output, **counts, **figures)

    monkeypatch.setattr("kansformer.training.run.train", train)
    changes = ["data.corpus=null", "data.dataset=a/text", "model.config=null", "model.path=meta/small"]
    result = CliRunner().invoke(app, ["train", "tiny-cpu", *changes, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert (output / "README.md").exists() == ("README.md" in result.stdout) == bool(curves)
    if curves:
        card = card_of(output)
        assert card.data.datasets == ["a/text"] and card.data.base_model == "meta/small" and "## Training" in card.text
