"""Opens this checkpoint, whose feed-forward networks have KAN curves, with trust_remote_code=True.

Needs `pip install kansformer`. Each class stands for transformers' own of the same name and loads that.
"""

import kansformer  # noqa: F401 (registers the loader)
import transformers


class MixtralForCausalLM(transformers.MixtralForCausalLM):
    from_pretrained = transformers.MixtralForCausalLM.from_pretrained


class MixtralForQuestionAnswering(transformers.MixtralForQuestionAnswering):
    from_pretrained = transformers.MixtralForQuestionAnswering.from_pretrained


class MixtralForSequenceClassification(transformers.MixtralForSequenceClassification):
    from_pretrained = transformers.MixtralForSequenceClassification.from_pretrained


class MixtralForTokenClassification(transformers.MixtralForTokenClassification):
    from_pretrained = transformers.MixtralForTokenClassification.from_pretrained


class MixtralModel(transformers.MixtralModel):
    from_pretrained = transformers.MixtralModel.from_pretrained
