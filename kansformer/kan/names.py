"""Names of inputs and outputs: as labels of pictures, where TeX is drawn, and as symbols of formulas."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kansformer.errors import ConfigError

# sympy prints a symbol named `qdot` as a q with a dot.
ACCENTS = ("dot", "ddot", "hat", "bar", "tilde", "vec")
_ACCENT = re.compile(rf"\\({'|'.join(ACCENTS)})\s*(?:\{{(\\?\w+)\}}|(\\?\w))")
_STYLE = re.compile(r"\\(?:mathrm|mathbf|mathit|text|operatorname)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def given_names(names: Sequence[str] | None, default: Sequence[str], kind: str) -> list[str]:
    """Names of a network's inputs or outputs, or the default ones.

    Raises:
        ConfigError: there is not one for each, or one is not a text.
    """
    names = list(default if names is None else names)
    if len(names) != len(default):
        raise ConfigError(f"The network has {len(default)} {kind}, and {len(names)} names were given: {names}.")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"The names of {kind} must be texts, such as 'x_1' or r'$\\alpha$', got {name!r:.80}.")
    return names


def symbol_name(name: str) -> str:
    r"""The name of the symbol for a variable in formulas: `alpha` for `$\alpha$`, `x_12` for `$x_{12}$`.

    Raises:
        ConfigError: it is TeX that is not the name of a symbol.
    """
    plain = name.strip()
    if "\\" not in plain and not (plain.startswith("$") and plain.endswith("$")):
        return plain
    plain = plain.strip("$").strip()
    plain = _STYLE.sub(r"\1", plain)
    plain = _ACCENT.sub(lambda match: f"{match[2] or match[3]}{match[1]}", plain)
    plain = re.sub(r"([_^])\{([^{}]*)\}", r"\1\2", plain)
    plain = re.sub(r"\\([A-Za-z]+)\s*", r"\1", plain)
    if not re.fullmatch(r"\w(?:[\w^',+\-*]*\w)?[*']?", plain):
        raise ConfigError(
            f"{name!r:.80} cannot be the name of a variable in a formula. Letters, Greek commands such as \\alpha, "
            "accents such as \\dot{q}, and indices such as x_{12} can."
        )
    return plain


def is_tex(name: str) -> bool:
    """Whether matplotlib can draw the name as mathematics."""
    from matplotlib.mathtext import MathTextParser

    if name.count("$") < 2:
        return False
    try:
        MathTextParser("path").parse(name)
    except ValueError:
        return False
    return True


def label(name: str) -> str:
    r"""The name as it is drawn: a bare `\alpha` gets its dollars."""
    return f"${name}$" if "$" not in name and _COMMAND.search(name) and is_tex(f"${name}$") else name
