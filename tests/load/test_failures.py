"""A failure or an interruption at any line of any change leaves a model as it was, to the bit, and the change possible.

`python -m pytest tests/load/test_failures.py --thorough -s` tries every step, and prints how many there were.
"""

import copy
from collections import Counter

import pytest
import torch
import transformers
from injection import InjectedError, fail_at, steps_of, telling_steps
from tiny_models import SMALL
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from kansformer import KANConfig, convert, load_curves, revert, save_curves
from kansformer.conversion.replace import replace_feed_forwards
from kansformer.files import atomic_folder
from kansformer.interp import EdgeRef, edge_scores, edit_curve, prune, record_edges
from kansformer.interp.edits import replace_edges
from kansformer.interp.pruning import drop_straight_curves, prune_channels
from kansformer.interp.ranks import reduce_rank
from kansformer.kan import KAN
from kansformer.nn.curves import curved_modules

# A failure between two lines may leave a file or a temporary folder to Python, which closes it and says so.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

IDS = torch.arange(2, 16).view(2, 7)
BATCH = {"input_ids": IDS, "labels": IDS}
TINY = SMALL | dict(vocab_size=50, num_hidden_layers=1)
TOKENS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**TINY, **TOKENS, num_labels=3),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, **TOKENS),
    "bert": lambda: transformers.BertConfig(**TINY, is_decoder=True),
    "phi3": lambda: transformers.Phi3Config(**TINY, **TOKENS),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=50, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2
    ),
    "mixtral": lambda: transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=2),
    "t5": lambda: transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2),
    "vit": lambda: transformers.ViTConfig(**TINY, image_size=8, patch_size=4),
}
AUTO = {"t5": AutoModelForSeq2SeqLM, "vit": AutoModelForImageClassification}
INPUT_AND_ACT = KANConfig(slots=("input", "act"))
LOW_RANK = KANConfig(edges="low_rank", rank=3, slots=("up", "down"), grid_size=3)
FULL = KANConfig(edges="full", slots=("up", "down"), grid_size=2)
# In every case a few steps, by turns failures and interruptions; and the last ones, where the change is made.
SOME, LAST = 6, 3
ERRORS = (InjectedError, KeyboardInterrupt)
# A block whose forward cannot be read goes the long way, with the same bits.
SHORT_WAY = ("forward", "_replicate_for_data_parallel")


def made(family="llama", config=None, auto=None):
    torch.manual_seed(0)
    model = (auto or AUTO.get(family, AutoModelForCausalLM)).from_config(CONFIGS[family]()).eval()
    # A frozen part, a hook and a mode of one's own have to stay, too.
    model.get_input_embeddings().train().requires_grad_(False).register_forward_hook(seen)
    return model if config is None else bent(convert(model, config))


def seen(module, args, output):
    return None


def logits(model):
    if isinstance(model.config, transformers.ViTConfig):
        return model(pixel_values=torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)).logits
    decoder = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    return model(input_ids=IDS, **decoder).logits


def bent(model):
    generator = torch.Generator().manual_seed(1)
    for _, module in curved_modules(model):
        torch.nn.init.normal_(module.coefficients, std=0.1, generator=generator)
    return model


def with_straight_inputs():
    model = made("llama", INPUT_AND_ACT)
    torch.nn.init.zeros_(model.model.layers[0].mlp.input_curve.coefficients)
    return model


def with_other_curves():
    model = made("gpt2", LOW_RANK)
    torch.nn.init.ones_(model.transformer.h[0].mlp.c_fc.coefficients)
    return model


def with_other_head():
    model = made("llama", auto=AutoModelForSequenceClassification)
    torch.nn.init.ones_(model.score.weight)
    return model


def save_all_curves(folder):
    save_curves(made("llama", INPUT_AND_ACT), folder / "llama")
    save_curves(made("gpt2", LOW_RANK), folder / "gpt2")
    save_curves(made("llama", INPUT_AND_ACT, AutoModelForSequenceClassification), folder / "head", also=["score"])


def record(model, folder):
    with record_edges(model) as records:
        model(input_ids=IDS)
    return records


def replace(model, folder):
    edge = EdgeRef("model.layers.0.mlp", "act", 1, 1)
    with replace_edges(model, [edge], lambda slot, inputs, outputs: torch.sin):
        return model(input_ids=IDS)


# By name: how the model is made, and what is done to it in a folder with saved curves.
CASES = {
    "convert llama, input and act": (made, lambda m, d: convert(m, INPUT_AND_ACT)),
    "convert gpt2, low rank": (lambda: made("gpt2"), lambda m, d: convert(m, LOW_RANK)),
    "convert bert, full": (lambda: made("bert"), lambda m, d: convert(m, FULL)),
    "convert phi3, fused": (lambda: made("phi3"), lambda m, d: convert(m, KANConfig(slots=("up", "act")))),
    "convert opt, rational": (lambda: made("opt"), lambda m, d: convert(m, KANConfig(basis="rational"))),
    "convert mixtral, experts": (lambda: made("mixtral"), lambda m, d: convert(m)),
    "convert t5, group": (lambda: made("t5"), lambda m, d: convert(m, KANConfig(edges="group", groups=4))),
    "convert vit, input and act": (lambda: made("vit"), lambda m, d: convert(m, INPUT_AND_ACT)),
    "revert t5": (lambda: made("t5", INPUT_AND_ACT), lambda m, d: revert(m)),
    "revert llama": (lambda: made("llama", INPUT_AND_ACT), lambda m, d: revert(m)),
    "revert gpt2": (lambda: made("gpt2", LOW_RANK), lambda m, d: revert(m)),
    "replace feed-forwards": (
        made,
        lambda m, d: replace_feed_forwards(m, FULL, hidden=16, inputs=[{"input_ids": IDS}]),
    ),
    "load curves into a plain model": (made, lambda m, d: load_curves(m, d / "llama")),
    "load curves and a head": (with_other_head, lambda m, d: load_curves(m, d / "head")),
    "load curves again": (with_other_curves, lambda m, d: load_curves(m, d / "gpt2")),
    "prune channels": (lambda: made("llama", KANConfig()), lambda m, d: prune_channels(m, BATCH, share=0.3)),
    "drop straight curves": (with_straight_inputs, lambda m, d: drop_straight_curves(m)),
    "reduce rank": (lambda: made("gpt2", LOW_RANK), lambda m, d: reduce_rank(m, 2)),
    "prune": (
        lambda: made("llama", INPUT_AND_ACT),
        lambda m, d: prune(m, edge_scores(m, BATCH), sparsity=0.5),
    ),
    "edit curve": (
        lambda: made("gpt2", FULL),
        lambda m, d: edit_curve(m, EdgeRef("transformer.h.0.mlp", "up", 1, 2), torch.sin),
    ),
    "save pretrained": (lambda: made("llama", INPUT_AND_ACT), lambda m, d: m.save_pretrained(d / "saved")),
    "save vit in shards": (
        lambda: made("vit", INPUT_AND_ACT),
        lambda m, d: m.save_pretrained(d / "shards", max_shard_size="6KB"),
    ),
}
# These leave a model as it is also when they succeed.
READING = {
    "record edges": (lambda: made("llama", INPUT_AND_ACT), record),
    "score edges": (lambda: made("llama", INPUT_AND_ACT), lambda m, d: edge_scores(m, BATCH)),
    "replace edges": (lambda: made("llama", INPUT_AND_ACT), replace),
    "save curves": (lambda: made("llama", INPUT_AND_ACT), lambda m, d: save_curves(m, d / "llama")),
}


def picture(model):
    """Everything of a model that a user could see: what must be the same object, and what must have the same bits."""
    same, bits = {}, {f"state {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            inner = value if isinstance(value, dict) else {}
            same |= {(path, name): value, **{(path, name, key): entry for key, entry in inner.items()}}
            same |= {(path, name, key, "trains"): getattr(t, "requires_grad", None) for key, t in inner.items()}
    with torch.no_grad():
        bits["output"] = logits(model).clone()
    bits["random"] = torch.get_rng_state()
    return {"same": same, "bits": bits, "config": copy.deepcopy(model.config.to_dict()), "tags": model.model_tags}


def difference(one, other):
    """The first thing in which two pictures differ; None if in nothing."""
    for name, value in one["same"].items():
        if value is not other["same"].get(name, one):
            return f"another object at {name}"
    return next((name for name in ("same", "config", "tags") if list(one[name] or ()) != list(other[name] or ())), None
                ) or unequal_bits(one, other)  # fmt: skip


def unequal_bits(one, other):
    """The first of a state, an output or a config that differs, wherever it lies."""
    if list(one["bits"]) != list(other["bits"]):
        return "other tensors"
    if one["config"] != other["config"]:
        return "config"
    return next((name for name, bits in one["bits"].items() if not torch.equal(bits, other["bits"][name])), None)


def places(seen_picture):
    """How many entries every table of every module has; hooks are numbered anew in every model."""
    return Counter(name[:2] for name in seen_picture["same"] if name[1] not in SHORT_WAY)


def chosen(steps, thorough, name):
    """Numbers of the steps to fail at: all, or a few of those that together reach every line, and the last ones."""
    if thorough:
        return range(len(steps))
    telling = telling_steps(steps)
    stride = max(1, len(telling) // SOME)
    return sorted({*telling[len(name) % stride :: stride], *telling[-LAST:]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curves")
    save_all_curves(folder)
    return folder


@pytest.mark.parametrize("name", [*CASES, *READING])
def test_a_failure_anywhere_leaves_the_model_as_it_was(name, thorough, folder):
    make, change = (CASES | READING)[name]
    finished = make()
    change(finished, folder)  # what happens once in a process happens here
    done, counted, model = picture(finished), make(), make()
    steps = steps_of(lambda: change(counted, folder))
    before, counts, torn = picture(model), Counter(), []
    for index in chosen(steps, thorough, name):
        for error in ERRORS if thorough else ERRORS[index % 2 :][:1]:
            place, model_now = fail_at(change, model, folder, index, error), picture(model)
            counts["tried"] += 1
            if (changed := difference(before, model_now)) is None:
                counts["as before"] += 1
                continue
            # A proof tries arguments until some fit, so that it may swallow a failure; and after the last step all is
            # done. Both leave what a success leaves, and nothing else may be left.
            if name in CASES and unequal_bits(done, model_now) is None and places(done) == places(model_now):
                counts["done whole"] += 1
            else:
                torn.append(f"{error.__name__} at {place}: {changed}")
            model = make()
            before = picture(model)
    print(f"\n{name}: {len(steps):,} steps, {dict(counts)}\ntried {counts['tried']}, lost {len(torn)}")
    assert not torn, "\n".join(torn)
    change(model, folder)
    assert unequal_bits(done, picture(model)) is None


def write_text(folder, text):
    with atomic_folder(folder) as new:
        (new / "text").write_text(text)


def write_curves(folder, text):
    model = made("llama", INPUT_AND_ACT)
    torch.nn.init.constant_(model.model.layers[0].mlp.act_fn.coefficients, float(text))
    save_curves(model, folder)


def write_model(folder, text):
    model = made("llama", INPUT_AND_ACT)
    torch.nn.init.constant_(model.model.layers[0].mlp.act_fn.coefficients, float(text))
    model.save_pretrained(folder)


def write_network(folder, text):
    KAN([2, 1], seed=int(text)).save(folder)


def read_text(folder):
    return (folder / "text").read_text()


def read_curves(folder):
    return str(int(load_curves(made(), folder).model.layers[0].mlp.act_fn.coefficients[0, 0]))


def read_model(folder):
    return str(int(type(made()).from_pretrained(folder).model.layers[0].mlp.act_fn.coefficients[0, 0]))


def read_network(folder):
    coefficients = KAN.load(folder).layers[0].coefficients
    return next(t for t in "12" if torch.equal(coefficients, KAN([2, 1], seed=int(t)).layers[0].coefficients))


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (write_text, read_text),
        (write_curves, read_curves),
        (write_model, read_model),
        (write_network, read_network),
    ],
    ids=["any folder", "curves", "model", "network"],
)
def test_a_folder_whose_writing_fails_anywhere_holds_the_old_or_the_new(write, read, thorough, tmp_path):
    folder, found = tmp_path / "folder", Counter()
    write(folder, "1")
    files = {path.name for path in tmp_path.rglob("*")}
    steps = steps_of(lambda: write(folder, "1"))
    for index in chosen(steps, thorough or write is write_text, ""):
        for error in ERRORS:
            fail_at(lambda text, folder: write(folder, text), "2", folder, index, error)
            found[read(folder)] += 1
            write(folder, "1")
            assert write is write_network or {path.name for path in tmp_path.rglob("*")} == files
    neither = found.total() - found["1"] - found["2"]
    print(f"\n{write.__name__}: {len(steps)} steps, old or new: {dict(found)}\ntried {found.total()}, lost {neither}")
    assert not neither and found["1"] > found["2"]
