"""The program and its commands. Nothing heavy is imported before a command runs, so that --help is fast."""

import io
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a program that SIGTERM ended, as shells give it."""

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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name such as α or an undecodable file name ends no command; stderr does the same by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _exit_on_sigterm():
            app(prog_name="kansformer")
    finally:
        check_output_written()


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM raises `SystemExit`, so that what is half written is removed; training and servers have own handlers."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # it may be ignored on purpose
        yield
        return
    last = -math.inf

    def handle(number: int, frame: object) -> None:
        nonlocal last
        previous, last = last, time.monotonic()
        if last - previous > 1:  # timeout(1) sends two at once, and the second must not stop the cleaning up
            raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
