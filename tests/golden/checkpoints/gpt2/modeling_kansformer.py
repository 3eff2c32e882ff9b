"""Opens this checkpoint, whose feed-forward networks have KAN curves, with trust_remote_code=True.

Needs `pip install kansformer`. Each class stands for transformers' own of the same name and loads that.
"""

import kansformer  # noqa: F401 (registers the loader)
import transformers


class GPT2ForQuestionAnswering(transformers.GPT2ForQuestionAnswering):
    from_pretrained = transformers.GPT2ForQuestionAnswering.from_pretrained


class GPT2ForSequenceClassification(transformers.GPT2ForSequenceClassification):
    from_pretrained = transformers.GPT2ForSequenceClassification.from_pretrained


class GPT2ForTokenClassification(transformers.GPT2ForTokenClassification):
    from_pretrained = transformers.GPT2ForTokenClassification.from_pretrained


class GPT2LMHeadModel(transformers.GPT2LMHeadModel):
    from_pretrained = transformers.GPT2LMHeadModel.from_pretrained


class GPT2Model(transformers.GPT2Model):
    from_pretrained = transformers.GPT2Model.from_pretrained
