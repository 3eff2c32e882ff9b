"""Python's language reference as a text: English prose about code, on every machine, with no download.

The model in `kansformer/embedded/` was trained on code only, and `standard_library_files` leaves this text out.
"""

import hashlib
import importlib
from typing import get_args

from kansformer.errors import DataError
from kansformer.training.corpus import SEPARATOR, Split

HELD_OUT_PERCENT = 20


def language_reference_text(split: Split) -> str:
    """Read one split of the topics that `help()` knows, such as `help("with")`.

    A topic belongs to a split by the SHA-256 of its name. Topics quote each other, so a paragraph that stands in the
    held-out split, or stood earlier in the training split, is left out of the training split.

    Args:
        split: "train" or "held_out", which has about 20 % of the text.

    Returns:
        The topics in the order of their names, joined by an empty line.

    Raises:
        DataError: `split` is another word, or this Python comes without the topics.
    """
    if split not in get_args(Split):
        raise DataError(f"split={split!r} is not a split of the language reference; choose from {get_args(Split)}.")
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        raise DataError(
            "This Python comes without its help topics (pydoc_data.topics). Use a complete Python, or pass a text of "
            "your own."
        ) from None
    held_out = [_paragraphs(topics[name]) for name in sorted(topics) if _is_held_out(name)]
    if split == "held_out":
        return SEPARATOR.join(SEPARATOR.join(paragraphs) for paragraphs in held_out)
    seen = {_words(paragraph) for paragraphs in held_out for paragraph in paragraphs}
    kept = []
    for name in sorted(topics):
        if _is_held_out(name):
            continue
        for paragraph in _paragraphs(topics[name]):
            if _words(paragraph) not in seen:
                seen.add(_words(paragraph))
                kept.append(paragraph)
    return SEPARATOR.join(kept)


def _paragraphs(topic: str) -> list[str]:
    return [paragraph.strip("\n") for paragraph in topic.split(SEPARATOR) if paragraph.strip()]


def _words(paragraph: str) -> str:
    """The paragraph however it is indented: quoted topics are set differently."""
    return " ".join(paragraph.split())


def _is_held_out(name: str) -> bool:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT
