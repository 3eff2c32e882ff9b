"""lm-evaluation-harness: a converted model is given to its Hugging Face class as it is."""

import pytest
import torch


def test_loglikelihood(make_bent, tokenizer):
    reason = "pip install lm_eval"
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason=reason)
    instance = pytest.importorskip("lm_eval.api.instance", reason=reason)
    model = make_bent(slots=("input", "act"))
    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=2)
    texts = [("w3 w4", " w5 w6"), ("w7", " w8")]
    requests = [instance.Instance("loglikelihood", {}, text, index) for index, text in enumerate(texts)]
    found = [value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    with torch.no_grad():
        first = model(torch.tensor([[3, 4, 5, 6]])).logits.log_softmax(-1)[0]
        second = model(torch.tensor([[7, 8]])).logits.log_softmax(-1)[0]
    assert found == pytest.approx([float(first[1, 5] + first[2, 6]), float(second[0, 8])], rel=1e-5)
