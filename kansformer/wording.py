"""Numbers in sentences."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as "1 document" and "1,200 documents"; `plural` where an s is not enough."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
