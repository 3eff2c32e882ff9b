"""One place where errors become one sentence and an exit code."""

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from kansformer.errors import InterruptedRunError, KansformerError

INTERRUPTED = 75
"""Exit code of a run that SIGTERM ended and that can be resumed: the one that sysexits.h has for "try again"."""


class SentenceGroup(TyperGroup):
    """A group of commands whose expected errors are one red sentence and exit code 1, or a traceback with --debug."""

    def invoke(self, ctx):
        """Run the chosen command.

        Raises:
            typer.Exit: with code 1, when the command failed in a way that a user can understand; with code 75, when a
                run was ended by SIGTERM and has saved a checkpoint.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of the output has gone; typer ends quietly
            raise
        except InterruptedRunError as error:  # no failure
            print_error(str(error), "yellow")
            raise typer.Exit(INTERRUPTED) from None
        except (KansformerError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            print_error(f"Error: {error}")
            raise typer.Exit(1) from None


def print_error(sentence: str, colour: str = "red") -> None:
    """Print a sentence on stderr, in one line."""
    Console(stderr=True).print(Text(" ".join(sentence.split()), style=colour), soft_wrap=True)
