"""nnsight: curves are modules, whose outputs a trace saves and edits. `test_nnsight.py` runs it."""

import nnsight
import torch


def watched(model, path, tokens, replace=None):
    """Output of a module and logits of the model, by a plain hook; with `replace` of that output."""
    seen = []

    def hook(module, args, output):
        seen.append(output)
        return None if replace is None else replace(output)

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        return model(tokens).logits, seen[0]
    finally:
        handle.remove()


@torch.no_grad()
def test_an_activation_is_saved_and_edited(make_bent, tokens):
    model = make_bent(slots=("input", "act"))
    path = "model.layers.0.mlp.act_fn"
    expected, activation = watched(model, path, tokens)
    halved, _ = watched(model, path, tokens, lambda output: output / 2)
    traced = nnsight.NNsight(model)
    with traced.trace(tokens):
        saved = traced.model.layers[0].mlp.act_fn.output.save()
        logits = traced.output.logits.save()
    assert torch.equal(saved, activation)  # the activation, not its product with the gate's other half
    torch.testing.assert_close(logits, expected)
    with traced.trace(tokens):
        traced.model.layers[0].mlp.act_fn.output = traced.model.layers[0].mlp.act_fn.output / 2
        edited = traced.output.logits.save()
    assert not torch.equal(halved, expected)
    torch.testing.assert_close(edited, halved)


@torch.no_grad()
def test_an_input_curve_is_saved(make_bent, tokens):
    model = make_bent(slots=("input", "act"))
    _, bent = watched(model, "model.layers.1.mlp.input_curve", tokens)
    traced = nnsight.NNsight(model)
    with traced.trace(tokens):
        saved = traced.model.layers[1].mlp.input_curve.output.save()
    assert torch.equal(saved, bent)
