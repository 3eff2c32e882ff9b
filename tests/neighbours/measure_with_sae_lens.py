"""SAELens' own functions give the figures of `faithfulness` for the same layer. `test_sae_lens.py` runs it.

SAELens hooks the output of the layer, and has it replaced by what an autoencoder makes of it. Here that is the layer of
an edited copy of the model, on the input that the layer had; its latents are the learned curves that are alive.
"""

from types import SimpleNamespace

import pytest
import torch
from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_lens.load_model import HookedProxyLM
from sae_lens.training.activation_scaler import ActivationScaler
from tiny_models import randomize_curves
from transformers import AutoModelForCausalLM, AutoTokenizer

from kansformer import KANConfig, convert
from kansformer.conversion import find_curve_slot
from kansformer.embedded import embedded_model_path
from kansformer.interp import ablate, edge_curves, edge_scores, faithfulness, prune, record_edges, replace_by_symbol
from kansformer.interp.recovery import within
from kansformer.symbolic import KAN_LIBRARY, fit_symbolic

LAYER = "model.layers.2.mlp"
CODE = "def read(path):\n    with open(path) as file:\n        return [line.strip() for line in file]\n" * 8
ALIVE = 0.3  # so high that some are not


def build():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(embedded_model_path()).eval()
    return randomize_curves(convert(model, KANConfig(layers=[2])), 0.3)


def formulas(model, batches):
    curves = _curves(model, batches)
    fits = fit_symbolic(curves.x, curves.y, library=KAN_LIBRARY.subset(["x", "x^2"]))
    return lambda: replace_by_symbol(model, curves, fits)


def ablation(model, batches):
    refs = _curves(model, batches).refs[::2]
    return lambda: ablate(model, refs)


def pruning(model, batches):
    scores = edge_scores(model, batches)
    return lambda: prune(model, scores, sparsity=0.7)


def _curves(model, batches):
    with record_edges(model) as records:
        for batch in batches:
            model(**batch)
    return edge_curves(model, LAYER, "act", records=records)


class EditedLayer:
    """What SAELens takes for an autoencoder."""

    device = torch.device("cpu")

    def __init__(self, model, edited, edges_are_replaced, threshold):
        self.layer, self.slot = edited.get_submodule(LAYER), find_curve_slot(edited, LAYER, "act")
        self.replaced, self.threshold = edges_are_replaced, threshold
        self.cfg = SimpleNamespace(
            metadata=SimpleNamespace(hook_name=LAYER, hook_head_index=None), d_sae=self.slot.num_edges
        )
        model.get_submodule(LAYER).register_forward_pre_hook(self.keep_input)

    def keep_input(self, module, args):
        self.inputs = args[0]

    def encode(self, outputs):
        act, gate_proj = self.slot.module, self.layer.gate_proj
        self.outputs = self.layer(self.inputs)
        x = gate_proj(self.inputs)
        learned = act.forward(x) - act.base(x)  # `forward` runs no hooks
        learned[..., self.replaced] = 0.0
        return torch.where(learned.abs() > self.threshold, learned, 0.0)

    def decode(self, latents):
        return self.outputs


@pytest.mark.parametrize("make_edit", [formulas, ablation, pruning], ids=lambda function: function.__name__)
@torch.no_grad()
def test_the_metrics_are_those_of_sae_lens(make_edit):
    model, edited = build(), build()
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    tokens = torch.tensor(tokenizer(CODE)["input_ids"])[:160].reshape(2, 2, 40)
    batches = [{"input_ids": part, "labels": part} for part in tokens]
    with torch.enable_grad():
        ours = faithfulness(model, make_edit(model, batches), batches, alive=ALIVE)
        edit = make_edit(edited, batches)
    assert ours.layers == (LAYER,) and ours.tokens == 160

    gates = torch.cat([_gates(model, batch) for batch in batches])
    threshold = ALIVE * float(find_curve_slot(model, LAYER, "act").module(gates).square().mean().sqrt())
    replaced = {"formulas": slice(None), "ablation": slice(None, None, 2), "pruning": slice(0)}[make_edit.__name__]
    hooked = HookedProxyLM(model, tokenizer, hook_names=[LAYER])
    autoencoder = EditedLayer(model, edited, replaced, threshold)

    def store():
        parts = iter(tokens)
        return SimpleNamespace(get_batch_tokens=lambda size: next(parts))

    def measure():
        of_model = get_downstream_reconstruction_metrics(
            autoencoder, hooked, store(), ActivationScaler(), True, True, n_batches=2, eval_batch_size_prompts=2
        )
        of_layer, _ = get_sparsity_and_variance_metrics(
            *(autoencoder, hooked, store(), ActivationScaler()),
            n_batches=2,
            compute_l2_norms=False,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
            eval_batch_size_prompts=2,
            model_kwargs={},
        )
        return of_model | of_layer

    theirs = within(edit, measure)
    figures = ours.to_dict()
    row = figures["replaced"]
    pairs = {
        "ce_loss_without_sae": figures["original"]["ce_loss"],
        "ce_loss_with_sae": row["ce_loss"],
        "ce_loss_with_ablation": figures["zero_ablation"]["ce_loss"],
        "ce_loss_score": row["ce_loss_score"],
        "kl_div_with_sae": row["kl_div"],
        "kl_div_with_ablation": figures["zero_ablation"]["kl_div"],
        "kl_div_score": row["kl_div_score"],
    }
    assert {name: theirs[name] for name in pairs} == pytest.approx(pairs, abs=1e-4, rel=1e-4)
    assert 1 - theirs["explained_variance"] == pytest.approx(row["fvu"], rel=1e-4)
    assert theirs["l0"] == pytest.approx(row["l0"], rel=1e-4)
    assert 0.001 < row["fvu"] < 2 and abs(row["delta_ce"]) > 1e-3 and row["kl_div"] > 1e-4  # the edit does something


def _gates(model, batch):
    seen = []
    handle = model.get_submodule(LAYER).act_fn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**batch)
    handle.remove()
    return seen[0].flatten(0, 1)
