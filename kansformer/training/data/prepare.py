"""From a recipe to what `transformers.Trainer` takes."""

from __future__ import annotations

from kansformer.training.data.images import prepare_images
from kansformer.training.data.language import prepare_language
from kansformer.training.data.prepared import PreparedData
from kansformer.training.data.sequences import prepare_sequences
from kansformer.training.data.spec import LANGUAGE_TASKS, DataRecipe, check_task


def prepare_data(task: str, data: DataRecipe, model_source: str | None, *, seed: int = 0) -> PreparedData:
    """Read, tokenise and arrange the data of a recipe.

    Blocks of language models are kept in the user's cache folder by their content, and read from there the next time.
    The blocks of a masked language model are masked anew in every batch of the training, with torch's global seed, and
    always in the same way in the evaluation.

    Args:
        task: one of `TASKS`.
        data: where the data come from.
        model_source: folder, Hub id or GGUF file of the pretrained model, for its tokenizer or image processor; None
            when training from scratch.
        seed: decides the order of a streamed dataset. Nothing else: what is held out is the same for every seed.

    Returns:
        Rows, collator, processor, names of the labels, and facts for the model card.

    Raises:
        ConfigError: a field does not go with the task, or there is no such tokenizer or image processor.
        DataError: the data are not there, or cannot be used.
    """
    check_task(task, data)
    if task in LANGUAGE_TASKS:
        return prepare_language(task, data, model_source, seed)
    if task == "sequence-classification":
        return prepare_sequences(data, model_source)
    return prepare_images(data, model_source)
