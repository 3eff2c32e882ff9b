"""The program and its commands. Nothing heavy is imported before a command runs, so that --help is fast."""

from typing import Annotated

import typer

from kansformer.cli.autoload import autoload_command
from kansformer.cli.convert import convert_command
from kansformer.cli.demo import demo_command
from kansformer.cli.errors import SentenceGroup, check_output_written
from kansformer.cli.evaluate import evaluate_command
from kansformer.cli.explain import explain_command
from kansformer.cli.fit import fit_command
from kansformer.cli.push import push_command
from kansformer.cli.serve import serve_command
from kansformer.cli.train import recipes_command, train_command
from kansformer.version import __version__

ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a command that hands its arguments, --help too, to another program."""

app = typer.Typer(
    name="kansformer",
    cls=SentenceGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learned curves (KANs) in the feed-forward networks of pretrained transformers.",
)
app.command("demo")(demo_command)
app.command("convert")(convert_command)
app.command("train")(train_command)
app.command("recipes")(recipes_command)
app.command("evaluate")(evaluate_command)
app.command("explain")(explain_command)
app.command("fit")(fit_command)
app.command("push")(push_command)
app.command("serve", add_help_option=False, context_settings=ANY_ARGUMENTS)(serve_command)
app.command("autoload")(autoload_command)


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"kansformer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the program."""
    try:
        app(prog_name="kansformer")
    finally:
        check_output_written()
