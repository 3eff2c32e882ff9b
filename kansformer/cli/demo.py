"""`kansformer demo`: the whole story on the language model that comes with the package, offline."""

from pathlib import Path
from typing import Annotated

import typer

from kansformer.cli.loading import quiet_transformers


def demo_command(
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("kansformer-demo"),
    steps: Annotated[int, typer.Option(help="Tuning steps.", min=1)] = 200,
) -> None:
    """Convert a small language model, tune its curves, save, reload and use it: about a minute and a half, offline."""
    from kansformer.cli.story import tell
    from kansformer.embedded import embedded_model_path

    quiet_transformers()
    tell(embedded_model_path(), output, steps)
