"""Checks of arguments: each returns the value, or raises a sentence with the name, the value and the choices."""

import math
import operator
from collections.abc import Collection

from kansformer.errors import ConfigError, KansformerError


def check_choice(name: str, value: object, choices: Collection[str], error: type[KansformerError] = ConfigError) -> str:
    """Return `value` if it is one of the choices.

    Raises:
        KansformerError: it is not; `error` says which class.
    """
    if not isinstance(value, str) or value not in choices:
        raise error(f"Unknown {name} {value!r:.80}. Choose one of: {', '.join(choices)}.")
    return value


def check_integer(
    name: str,
    value: object,
    minimum: int | None = None,
    maximum: int | None = None,
    error: type[KansformerError] = ConfigError,
) -> int:
    """Return `value` as an int if it is a whole number in the range; numpy's integers are, booleans are not.

    Raises:
        KansformerError: it is not; `error` says which class.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not _inside(number, minimum, maximum):
        raise error(f"{name} must be a whole number{_range(minimum, maximum)}, got {value!r:.80}.")
    return number


def check_seed(seed: object) -> int:
    """Return a seed for torch as an int.

    Raises:
        ConfigError: it is not a whole number of 64 bits.
    """
    return check_integer("seed", seed, -(2**63), 2**64 - 1)


def check_number(
    name: str,
    value: object,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    above: float | None = None,
) -> float:
    """Return `value` as a float if it is a finite number in the range.

    Args:
        name: of the argument, for the message.
        value: what was given.
        minimum, maximum: ends of the range, which belong to it; None for no bound.
        above: an end that does not belong to it.

    Raises:
        ConfigError: it is not such a number.
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or not _inside(number, minimum, maximum) or (above is not None and number <= above):
        limits = f" above {above:g}" if above is not None else _range(minimum, maximum)
        raise ConfigError(f"{name} must be a finite number{limits}, got {value!r:.80}.")
    return number


def _inside(number: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or number >= minimum) and (maximum is None or number <= maximum)


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum:g} to {maximum:g}"
    if minimum is not None:
        return f" of at least {minimum:g}"
    return "" if maximum is None else f" of at most {maximum:g}"
