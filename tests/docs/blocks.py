"""Runs the code blocks of a page, top to bottom, as they are written: `python tests/docs/blocks.py PAGE`.

Blocks of Python share one namespace, blocks of bash the folder. A block is left out where `<!-- not run here: WHY -->`
stands above it, or one of the comments by which CI finds the README's two commands.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- (?P<comment>[^>]*) -->\n)?^```(?P<language>python|bash)\n(?P<code>.*?)^```", re.M | re.S)
RUN_BY_CI = ("demo command", "test command")
NOT_RUN = "not run here: "


@dataclass(frozen=True)
class Block:
    """One block of a page: its language, its code, its first line, and the reason why it is not run, or None."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks_of(page: Path) -> list[Block]:
    """All blocks of Python and bash.

    Raises:
        ValueError: the comment above a block is not one of those that leave it out.
    """
    text, blocks = page.read_text(encoding="utf-8"), []
    for match in BLOCK.finditer(text):
        line, comment = text.count("\n", 0, match.start("language")) + 1, match["comment"]
        if comment is not None and comment not in RUN_BY_CI and not comment.startswith(NOT_RUN):
            raise ValueError(f"{page.name}, line {line}: the comment {comment!r} leaves no block out.")
        blocks.append(Block(match["language"], match["code"], line, comment))
    return blocks


def run(page: Path) -> None:
    """Run every block in the working folder; the first that fails ends it."""
    namespace: dict = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.not_run is not None:
            continue
        print(f"{page.name}, line {block.line}", flush=True)
        if block.language == "bash":
            subprocess.run(["bash", "-euc", block.code], check=True)
        else:
            lines = "\n" * block.line + block.code  # so that an error names the page's line
            exec(compile(lines, str(page), "exec"), namespace)  # noqa: S102 - our own text


if __name__ == "__main__":
    run(Path(sys.argv[1]))
