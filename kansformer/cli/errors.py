"""One place where errors become one sentence and an exit code."""

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from kansformer.errors import KansformerError


class SentenceGroup(TyperGroup):
    """A group of commands whose expected errors are one red sentence and exit code 1, or a traceback with --debug."""

    def invoke(self, ctx):
        """Run the chosen command.

        Raises:
            typer.Exit: with code 1, when the command failed in a way that a user can understand.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of the output has gone; typer ends quietly
            raise
        except (KansformerError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            sentence = Text(f"Error: {' '.join(str(error).split())}", style="red")
            Console(stderr=True).print(sentence, soft_wrap=True)
            raise typer.Exit(1) from None
