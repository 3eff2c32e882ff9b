"""transformers' ways to generate: a static cache, compiled, and an assistant that guesses ahead."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

GREEDY = dict(max_new_tokens=8, do_sample=False)
KINDS = {
    "input and act": dict(slots=("input", "act")),
    "full edges": dict(slots=("up", "down"), edges="full"),
    "rational": dict(slots=("gate", "act"), basis="rational"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_static_cache_gives_the_same_tokens(kind, make_bent, tokens):
    model = make_bent(**KINDS[kind])
    assert torch.equal(
        model.generate(tokens, cache_implementation="static", **GREEDY), model.generate(tokens, **GREEDY)
    )


def test_compiled_with_a_static_cache_gives_the_same_tokens(make_bent, tokens):
    model = make_bent(slots=("input", "act"), layers=0)
    expected = model.generate(tokens, **GREEDY)
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    assert torch.equal(model.generate(tokens, cache_implementation="static", **GREEDY), expected)


@pytest.mark.filterwarnings("ignore:.*Passing `generation_config` together with")
@pytest.mark.parametrize("kind", KINDS)
def test_an_assistant_changes_no_token(kind, make_plain, make_bent, tokens):
    plain, bent = make_plain(), make_bent(**KINDS[kind])
    for model, assistant in ((bent, plain), (plain, bent)):
        expected = model.generate(tokens[:1], **GREEDY)
        assert torch.equal(model.generate(tokens[:1], assistant_model=assistant, **GREEDY), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_continuous_batching_gives_the_same_tokens(kind, make_bent):
    model = make_bent(**KINDS[kind])
    prompts = [[5, 9, 2], [7], [3, 4, 8, 1, 6]]
    options = GenerationConfig(**GREEDY, eos_token_id=-1, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=8, block_size=16, max_batch_tokens=32)
    outputs = model.generate_batch(prompts, options, small)
    answers = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    for prompt in prompts:
        expected = model.generate(torch.tensor([prompt]), **GREEDY, eos_token_id=-1)[0, len(prompt) :]
        assert answers[tuple(prompt)] == expected.tolist()
