"""Models that are parts of others, that share a config, or that get a head of one's own."""

import pytest
import torch
import transformers
from tiny_models import TINY, randomize_curves, tiny_llama
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BertPreTrainedModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from kansformer import KANConfig, convert, freeze_curves, refine_grid, revert
from kansformer.conversion import is_converted
from kansformer.errors import CheckpointError, ConversionStateError
from kansformer.hub.push import _files_of
from kansformer.nn.curves import curved_modules

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"vocab_size": 100, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
BART = transformers.BartConfig(
    vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
)
PAIR = torch.arange(12).view(2, 6)  # products of one row depend on where the weights lie, on some processors


@pytest.fixture
def clip():
    vision = {**SIZES, "image_size": 8, "patch_size": 4}
    text = {**SIZES, "vocab_size": 60, "eos_token_id": 5}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


def test_a_part_is_not_loaded_without_its_curves(clip, tmp_path):
    randomize_curves(convert(clip, KANConfig(target_modules=r"text_model\..*"))).save_pretrained(tmp_path / "converted")
    with pytest.raises(ValueError, match="the curves are those of the whole model: load that"):
        CLIPTextModel.from_pretrained(tmp_path / "converted")
    CLIPVisionModel.from_pretrained(tmp_path / "converted")  # it has none
    loaded = AutoModel.from_pretrained(tmp_path / "converted").eval()
    assert torch.equal(loaded.get_text_features(PAIR).pooler_output, clip.get_text_features(PAIR).pooler_output)
    revert(loaded).save_pretrained(tmp_path / "plain")
    CLIPTextModel.from_pretrained(tmp_path / "plain")


@pytest.mark.parametrize("part", ["text_model", "vision_model"])
def test_a_part_that_was_converted_alone_is_loaded_with_the_whole(part, clip, tmp_path):
    randomize_curves(convert(clip.get_submodule(part), KANConfig(slots=("act", "up"))))
    inputs = {"input_ids": PAIR, "pixel_values": torch.randn(2, 3, 8, 8)}
    clip.save_pretrained(tmp_path / "first")
    loaded = CLIPModel.from_pretrained(tmp_path / "first").eval()
    loaded.save_pretrained(tmp_path / "second")
    for model in (loaded, CLIPModel.from_pretrained(tmp_path / "second").eval()):
        assert {path.partition(".")[0] for path, _ in curved_modules(model)} == {part}
        assert torch.equal(model(**inputs).logits_per_text, clip(**inputs).logits_per_text)


def test_a_part_of_a_converted_model_is_saved_with_its_curves(clip, tmp_path):
    randomize_curves(convert(clip, KANConfig(slots=("input", "act", "up"), edges="channel")))
    config, before = clip.text_model.config, clip.text_model.config.to_dict()
    clip.text_model.save_pretrained(tmp_path / "part")
    assert clip.text_model.config is config and config.to_dict() == before
    loaded = CLIPTextModel.from_pretrained(tmp_path / "part").eval()
    assert torch.equal(loaded(PAIR).pooler_output, clip.text_model(PAIR).pooler_output)
    clip.save_pretrained(tmp_path / "whole")
    assert is_converted(CLIPModel.from_pretrained(tmp_path / "whole"))
    revert(clip).text_model.save_pretrained(tmp_path / "plain")
    assert not is_converted(CLIPTextModel.from_pretrained(tmp_path / "plain"))


def test_a_model_inside_one_of_ones_own_is_saved_with_its_curves(tmp_path):
    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = tiny_llama(), torch.nn.Linear(64, 2)

    model = randomize_curves(convert(Classifier(), KANConfig()))
    model.backbone.save_pretrained(tmp_path / "causal")
    model.backbone.model.save_pretrained(tmp_path / "base")
    for name, kind in (("causal", AutoModelForCausalLM), ("base", AutoModel)):
        loaded = kind.from_pretrained(tmp_path / name)
        expected = model.backbone if name == "causal" else model.backbone.model
        assert torch.equal(loaded(PAIR)[0], expected(PAIR)[0]) and is_converted(loaded)
    base = AutoModel.from_pretrained(tmp_path / "causal")  # paths count from the base model
    assert torch.equal(base(PAIR)[0], model.backbone.model(PAIR)[0]) and is_converted(base)


WHOLE = {
    "all layers": (tiny_llama, lambda model: model.model.layers),
    "one network": (tiny_llama, lambda model: model.model.layers[1].mlp),
    "an encoder with a config of its own": (
        lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
        lambda model: model.encoder,
    ),
    "an encoder with the config of the whole": (
        lambda: transformers.BartForConditionalGeneration(BART),
        lambda model: model.model.encoder,
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_model_of_which_a_part_was_converted_is_saved_as_a_whole(case, tmp_path):
    make, part_of = WHOLE[case]
    model = make().eval()
    randomize_curves(convert(part_of(model), KANConfig(edges="group")))
    inputs = {"input_ids": PAIR} | ({"decoder_input_ids": PAIR} if model.config.is_encoder_decoder else {})
    expected, before = model(**inputs).logits, model.config.to_dict()
    model.save_pretrained(tmp_path)
    assert torch.equal(model(**inputs).logits, expected) and not is_converted(model)
    assert {**model.config.to_dict(), "architectures": None} == {**before, "architectures": None}
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert is_converted(loaded) and torch.equal(loaded(**inputs).logits, expected)
    with pytest.raises(ConversionStateError, match=r"A part of it is: revert\(model.get_submodule\('"):
        revert(model)


def test_curves_that_no_config_speaks_of_are_not_lost(tmp_path):
    model = tiny_llama()
    convert(model.model.layers[1:], KANConfig())
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.act_fn has curves, and the config .* does not speak of"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model = tiny_llama()
    convert(model.model.layers[0], KANConfig(grid_size=4))
    convert(model.model.layers[1], KANConfig(grid_size=8))
    with pytest.raises(CheckpointError, match="model.layers.0 and model.layers.1 were converted apart and have diff"):
        model.save_pretrained(tmp_path / "model")


def test_an_encoder_that_shares_the_config_of_a_converted_model_is_saved(tmp_path):
    from transformers.models.bart.modeling_bart import BartEncoder

    model = randomize_curves(convert(transformers.BartForConditionalGeneration(BART), KANConfig(edges="group"))).eval()
    refine_grid(model, 12)
    model.model.encoder.save_pretrained(tmp_path / "encoder")
    loaded = BartEncoder.from_pretrained(tmp_path / "encoder").eval()
    assert torch.equal(loaded(PAIR).last_hidden_state, model.model.encoder(PAIR).last_hidden_state)
    model.save_pretrained(tmp_path / "whole")
    assert is_converted(type(model).from_pretrained(tmp_path / "whole"))


def test_a_base_model_that_shares_its_curves_is_saved_by_the_head_around_it(tmp_path):
    model = tiny_llama()
    randomize_curves(convert(model.model, KANConfig(edges="group", share="model")))
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(PAIR).logits, model(PAIR).logits)


def test_a_model_whose_base_was_reverted_is_plain(tmp_path):
    model = convert(tiny_llama())
    revert(model.model)
    model.save_pretrained(tmp_path)
    assert not is_converted(model) and not (tmp_path / "modeling_kansformer.py").exists()
    assert not is_converted(AutoModelForCausalLM.from_pretrained(tmp_path))


def test_a_wrapper_does_not_hide_what_a_finer_grid_changes(tmp_path):
    model = convert(tiny_llama())
    refine_grid(torch.nn.Sequential(model), 10)  # as DistributedDataParallel is around it
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.quantization_config.config.grid_size == 10


def test_curves_are_frozen_after_layers_were_removed(tmp_path):
    model = convert(tiny_llama(), KANConfig(slots=("up", "act"), edges="group"))
    model.model.layers = model.model.layers[:1]
    assert freeze_curves(model, tmp_path / "one.safetensors").slots == {"up": 1, "act": 1}


def test_a_model_without_curves_is_saved_without_their_record(tmp_path):
    converted = convert(tiny_llama())
    plain = type(converted)(converted.config)
    plain.save_pretrained(tmp_path)
    assert is_converted(converted) and not is_converted(AutoModelForCausalLM.from_pretrained(tmp_path))


def test_arguments_are_taken_by_position_as_transformers_takes_them(tmp_path):
    model = convert(tiny_llama())
    model.save_pretrained(tmp_path, True, None, False, "2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert is_converted(AutoModelForCausalLM.from_pretrained(tmp_path))


def test_parts_that_one_record_cannot_describe_are_refused(clip, tmp_path):
    convert(clip.text_model, KANConfig(share="model"))
    clip.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(CheckpointError, match=r"says that the model is quantised \(fp8\); a checkpoint can say one"):
        clip.save_pretrained(tmp_path)
    del clip.config.quantization_config
    convert(clip.vision_model, KANConfig(share="model"))
    with pytest.raises(CheckpointError, match="were converted apart and share their curves each among itself"):
        clip.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_made_of_one_config_stay_apart(tmp_path):
    config = T5Config(**T5, decoder_start_token_id=0)
    converted, plain = (T5ForConditionalGeneration(config) for _ in range(2))
    convert(converted, KANConfig())
    plain.save_pretrained(tmp_path)
    assert not is_converted(T5ForConditionalGeneration.from_pretrained(tmp_path))


def test_a_base_model_is_saved_by_the_head_around_it(tmp_path):
    config = transformers.RoFormerConfig(**TINY)  # no head, in spite of its name
    model = transformers.RoFormerForMaskedLM(config)
    randomize_curves(convert(model.roformer))
    model.save_pretrained(tmp_path)
    assert is_converted(transformers.RoFormerForMaskedLM.from_pretrained(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_that_keeps_some_weights_in_float32(dtype, tmp_path):
    T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)).save_pretrained(tmp_path / "plain")
    model = T5ForConditionalGeneration.from_pretrained(tmp_path / "plain", dtype=dtype)
    randomize_curves(convert(model, KANConfig(slots=("input", "act")))).save_pretrained(tmp_path / "converted")
    loaded = T5ForConditionalGeneration.from_pretrained(tmp_path / "converted", dtype=dtype)
    for (_, one), (_, other) in zip(curved_modules(model), curved_modules(loaded), strict=True):
        assert one.coefficients.dtype == other.coefficients.dtype == dtype
        assert torch.equal(one.coefficients, other.coefficients)


class _Tagger(BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config)
        self.tagger = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()


def test_a_head_of_ones_own_is_new(tmp_path):
    model = randomize_curves(convert(transformers.BertForMaskedLM(BertConfig(**TINY))))
    model.save_pretrained(tmp_path)
    loaded = _Tagger.from_pretrained(tmp_path)
    assert is_converted(loaded)
    layers = [owner.bert.encoder.state_dict() for owner in (model, loaded)]
    assert all(torch.equal(tensor, layers[1][name]) for name, tensor in layers[0].items())
    loaded.save_pretrained(tmp_path / "tagger")
    tagger = _Tagger.from_pretrained(tmp_path / "tagger")
    assert torch.equal(tagger.tagger.weight, loaded.tagger.weight)


def test_the_class_that_was_saved_is_named(tmp_path):
    convert(T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0))).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no such module. It was saved from T5ForConditionalGeneration: load"):
        T5EncoderModel.from_pretrained(tmp_path)


def test_hidden_files_are_never_uploaded(tmp_path):
    for name in ("config.json", "audit/edges.csv", "audit/.env", "audit/.cache/x", "runs/checkpoint-5/optimizer.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, left_out = _files_of(tmp_path)
    assert set(files) == {"config.json", "audit/edges.csv"}
    assert set(left_out) == {"audit/.env", "audit/.cache", "runs/checkpoint-5"}
