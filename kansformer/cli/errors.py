"""One place where errors become one sentence and an exit code."""

import os
import sys

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from kansformer.errors import InterruptedRunError, KansformerError

INTERRUPTED = 75
"""Exit code of a run that SIGTERM ended and that can be resumed: the one that sysexits.h has for "try again"."""

EXTRAS = {
    "gguf": "gguf",
    "peft": "lora",
    "plotly": "report",
    "matplotlib": "plot",
    "sklearn": "sklearn",
    "gradio": "web",
}
"""Extras of this package, by the module that they bring."""

OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""In what torch says where memory is short."""


class SentenceGroup(TyperGroup):
    """A group of commands whose errors are one red sentence and exit code 1, or a traceback with --debug."""

    def invoke(self, ctx):
        """Run the chosen command.

        Raises:
            typer.Exit: with code 1, when the command failed; with code 75, when a run was ended by SIGTERM and has
                saved a checkpoint.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of the output has gone; typer ends quietly
            raise
        except InterruptedRunError as error:  # no failure
            print_error(str(error), "yellow")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # A usage error, or an exit with a code of its own, is typer's.
            if ctx.params.get("debug") or type(error).__module__.startswith(("click", "typer")):
                raise
            print_error(f"Error: {sentence_of(error, ctx.invoked_subcommand or '')}")
            raise typer.Exit(1) from None


def sentence_of(error: Exception, command: str) -> str:
    """What went wrong, for a user of a command: an error that nobody foresaw says where to find its traceback."""
    message = str(error)
    if isinstance(error, KansformerError):
        return message
    if isinstance(error, OSError):
        place = next((str(name) for name in (error.filename, error.filename2) if name is not None), None)
        reason = error.strerror or message or type(error).__name__
        return reason if place is None else f"{reason}: {place}"
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or not package.isidentifier():
            return message
        source = f"'kansformer[{EXTRAS[package]}]'" if package in EXTRAS else package
        return f"This needs {package}, which is not installed: pip install {source}."
    if isinstance(error, MemoryError) or any(part in message for part in OUT_OF_MEMORY):
        return f"There is not enough memory for this{f': {message}' if message else '.'}"
    kind = f"Unexpected {type(error).__name__}{f': {message:.600}' if message else ''}".rstrip(".")
    return f"{kind}. `kansformer --debug {command}` shows where."


def print_error(sentence: str, colour: str = "red") -> None:
    """Print a sentence on stderr, in one line."""
    Console(stderr=True).print(Text(" ".join(sentence.split()), style=colour), soft_wrap=True)


def check_output_written() -> None:
    """Write out what stdout still holds, at the end of the program.

    Raises:
        SystemExit: with code 1, after a sentence, when it cannot be written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its exit
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(f"Error: {error.strerror}: the output")
        raise SystemExit(1) from None
