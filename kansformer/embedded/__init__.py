"""A small language model of Python code that comes with the package, for the demo, for tests and for use offline."""

from pathlib import Path


def embedded_model_path() -> Path:
    """The folder with its config, weights and tokenizer, ready for `AutoModelForCausalLM.from_pretrained`.

    Examples:
        >>> from transformers import AutoModelForCausalLM
        >>> from kansformer.embedded import embedded_model_path
        >>> AutoModelForCausalLM.from_pretrained(embedded_model_path()).num_parameters()
        1568160
    """
    return Path(__file__).resolve().parent
