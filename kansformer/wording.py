"""Numbers in sentences, and words that several pages use."""

MEASURES = {
    "r2": "on even points that the fit did not see",
    "r2_tokens": "at recorded inputs",
    "r2_learned": "at recorded inputs, of what was learned on top of the base",
}
"""What an audit's measures of R² are of."""


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as "1 document" and "1,200 documents"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
