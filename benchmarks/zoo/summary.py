"""The survey's table at the end, and its alarms."""

from __future__ import annotations

import re
from collections import Counter

from zoo.survey import Row

PRESETS = ("act", "low_rank")
WITHOUT_FFN = ("no_ffn", "convolutional")


def summary(rows: list[Row]) -> str:
    """Counts by outcome, then the refusals and the types that did not run, grouped by reason."""
    ran = [row for row in rows if row.ran == "yes"]
    with_ffn = [row for row in ran if row.act not in (*WITHOUT_FFN, "not_run")]
    lines = [f"{'types':<34}{len(rows):>5}", f"{'ran':<34}{len(ran):>5}   {_share(len(ran), len(rows))} of types"]
    lines.append(f"{'without a feed-forward network':<34}{sum(row.act in WITHOUT_FFN for row in ran):>5}")
    lines.append(f"{'with one':<34}{len(with_ffn):>5}")
    for preset in PRESETS:
        counts = Counter(getattr(row, preset) for row in with_ffn)
        for status in ("equal", "different", "refused", "crashed"):
            lines.append(f"{f'  {preset}: {status}':<34}{counts[status]:>5}   {_share(counts[status], len(with_ffn))}")
    lines.append(f"{'  curves alive':<34}{sum(row.alive == 'yes' for row in with_ffn):>5}")
    lines.append(f"{'  reverted to the bit':<34}{sum(row.reverted == 'yes' for row in with_ffn):>5}")
    lines += _grouped("refused", [row for row in with_ffn if "refused" in (row.act, row.low_rank)])
    lines += _grouped("without a feed-forward network", [row for row in ran if row.act in WITHOUT_FFN])
    lines += _grouped("did not run", [row for row in rows if row.ran == "no"])
    return "\n".join(lines)


def alarms(rows: list[Row]) -> list[str]:
    """A sentence for everything that contradicts the claim."""
    lines = []
    for row in rows:
        for preset in PRESETS:
            if getattr(row, preset) in ("different", "crashed"):
                lines.append(f"{row.type} ({row.cls}) is {getattr(row, preset).upper()} with {preset}: {row.reason}")
        if row.alive == "no":
            lines.append(f"{row.type} ({row.cls}): bending the curves changes nothing. {row.reason}")
        if row.reverted == "no":
            lines.append(f"{row.type} ({row.cls}): not the original after revert. {row.reason}")
    return lines


def _grouped(title: str, rows: list[Row]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(_gist(row.reason), []).append(row.type)
    lines = ["", f"{title}: {len(rows)}"] if rows else []
    for gist, types in sorted(groups.items(), key=lambda group: -len(group[1])):
        lines.append(f"{len(types):>5}  {gist[:150]}  [{', '.join(types[:4])}{', …' if len(types) > 4 else ''}]")
    return lines


def _gist(reason: str) -> str:
    """The reason without class names, paths and numbers, so that equal causes fall together."""
    reason = re.sub(r"\b\w*[a-z]\w*[A-Z]\w*\b(?!:)", "…", reason)
    return re.sub(r"\d+", "#", re.sub(r"\b[\w]+(\.[\w]+)+\b", "…", reason))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:6.1%}" if whole else "     –"
