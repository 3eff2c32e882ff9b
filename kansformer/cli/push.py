"""`kansformer push`: upload a folder with curves to the Hub."""

import time
from pathlib import Path
from typing import Annotated

import typer

from kansformer.wording import counted


def push_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a model with curves, or of curves alone.")],
    name: Annotated[str, typer.Argument(help="owner/model on the Hub, or model for one's own.")],
    private: Annotated[bool, typer.Option("--private", help="Make the new repository a private one.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="A branch, made if need be.", show_default="the main branch")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.", show_default="Upload with kansformer")] = None,
) -> None:
    """Upload the folder of a model with curves, or of curves alone, its card included, in one commit."""
    from kansformer.hub import push_folder

    begin = time.perf_counter()
    result = push_folder(folder, name, private=private, revision=revision, message=message)
    if result.wrote_card:
        typer.echo(f"Wrote the card: {folder / 'README.md'}")
    if result.left_out:
        typer.echo(f"Left out: {', '.join(result.left_out)}")
    typer.echo(
        f"Pushed {counted(len(result.files), 'file')}, {counted(result.size, 'byte')}, to {result.name} in "
        f"{time.perf_counter() - begin:.1f} s: {result.url}"
    )
