"""Which tokens, labels and examples count in models other than causal language models."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_models import TINY, randomize_curves

from kansformer import KANConfig, convert
from kansformer.conversion import find_curve_slots
from kansformer.interp import ablate, faithfulness
from kansformer.interp.activity import Activity
from kansformer.interp.batches import Padding, num_labels


def padded(values, length, value):
    return torch.nn.functional.pad(values, (0, length - values.shape[1]), value=value)


def test_padding_of_encoders_and_decoders_does_not_count():
    config = transformers.T5Config(
        vocab_size=100, d_model=64, d_kv=16, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    model = randomize_curves(convert(transformers.T5ForConditionalGeneration(config).eval()), 0.3)
    alone = [
        {"input_ids": torch.randint(1, 100, (1, inputs)), "labels": torch.randint(1, 100, (1, labels))}
        for inputs, labels in ((9, 3), (5, 8))
    ]
    together = {
        "input_ids": torch.cat([padded(batch["input_ids"], 9, 0) for batch in alone]),
        "attention_mask": torch.cat([padded(torch.ones_like(batch["input_ids"]), 9, 0) for batch in alone]),
        "labels": torch.cat([padded(batch["labels"], 8, -100) for batch in alone]),
    }
    edges = [edge for slot in find_curve_slots(model) for edge in slot.edges()[::2]]
    one, other = (faithfulness(model, ablate(model, edges), batches, alive=0) for batches in (alone, together))
    assert one.tokens == other.tokens == 11 and len(one.layers) == 4
    for name in ("original", "replaced", "zero", "mean"):
        expected, effect = getattr(one, name), getattr(other, name)
        assert effect.ce_loss == pytest.approx(expected.ce_loss, rel=1e-5)
        assert effect.kl_div == pytest.approx(expected.kl_div, rel=1e-4)
        assert effect.fvu == pytest.approx(expected.fvu, rel=1e-4, abs=1e-6)
        assert effect.l0 == expected.l0


def test_a_decoder_s_own_mask_counts():
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True))
    mask = torch.tensor([[1, 0]])
    assert Padding(model, {"attention_mask": torch.ones(1, 5), "decoder_attention_mask": mask}).mask() is mask
    assert Padding(model, {"attention_mask": torch.ones(1, 5)}).mask() is None


def test_experts_that_sort_their_tokens_count_all():
    config = transformers.MixtralConfig(
        **TINY, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1, experts_implementation="grouped_mm"
    )
    torch.manual_seed(0)
    model = randomize_curves(convert(transformers.MixtralForCausalLM(config).eval(), KANConfig()), 0.3)
    tokens = torch.randint(100, (2, 9))
    mask = padded(torch.ones(2, 5).long(), 9, 0)
    activity = Activity(model, find_curve_slots(model)[0], threshold=0.0)
    activity.mask = mask
    activity.slot.called.register_forward_pre_hook(activity.hook, with_kwargs=True)
    model(tokens, attention_mask=mask)
    assert activity.tokens == 18


def test_classifiers_have_tokens_and_examples():
    config = transformers.BertConfig(**TINY)
    torch.manual_seed(0)
    model = randomize_curves(convert(transformers.BertForSequenceClassification(config).eval()), 0.3)
    tokens = torch.arange(18).reshape(3, 6)
    batch = {"input_ids": tokens, "attention_mask": (tokens < 16).long(), "labels": torch.tensor([0, 1, 0])}
    slot = find_curve_slots(model)[0]
    result = faithfulness(model, ablate(model, slot.edges()), batch)
    assert result.tokens == 16
    with torch.no_grad():
        first = model(**batch).logits.log_softmax(-1)
        with ablate(model, slot.edges()):
            second = model(**batch).logits.log_softmax(-1)
    assert result.replaced.kl_div == pytest.approx(float((first.exp() * (first - second)).sum() / 3), rel=0.1)


@pytest.mark.parametrize(("is_encoder_decoder", "count"), [(False, 6), (True, 8)])
def test_losses_of_conditional_generation_are_causal_in_decoders_alone(is_encoder_decoder, count):
    model = SimpleNamespace(
        loss_type="ForConditionalGeneration", config=SimpleNamespace(is_encoder_decoder=is_encoder_decoder)
    )
    assert num_labels(model, {"labels": torch.ones(2, 4).long()}) == count
