"""Opens this checkpoint, whose feed-forward networks have KAN curves, with trust_remote_code=True.

Needs `pip install kansformer`. Each class stands for transformers' own of the same name and loads that.
"""

import kansformer  # noqa: F401 (registers the loader)
import transformers


class LlamaForCausalLM(transformers.LlamaForCausalLM):
    from_pretrained = transformers.LlamaForCausalLM.from_pretrained


class LlamaForQuestionAnswering(transformers.LlamaForQuestionAnswering):
    from_pretrained = transformers.LlamaForQuestionAnswering.from_pretrained


class LlamaForSequenceClassification(transformers.LlamaForSequenceClassification):
    from_pretrained = transformers.LlamaForSequenceClassification.from_pretrained


class LlamaForTokenClassification(transformers.LlamaForTokenClassification):
    from_pretrained = transformers.LlamaForTokenClassification.from_pretrained


class LlamaModel(transformers.LlamaModel):
    from_pretrained = transformers.LlamaModel.from_pretrained
