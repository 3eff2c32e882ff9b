"""`kansformer serve`: transformers' own server, in a process that can load curves."""

import typer


def serve_command(context: typer.Context) -> None:
    """Serve models by `transformers serve`, with all of its arguments; models with curves load, too."""
    # Importing this module has imported kansformer, which registered the loader.
    from transformers.cli.serve import Serve

    from kansformer.cli.loading import register_known_activations

    register_known_activations()
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(Serve)
    program(context.args, prog_name="kansformer serve", standalone_mode=False)
