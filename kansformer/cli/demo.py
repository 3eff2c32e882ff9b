"""`kansformer demo`: the whole story on the language model that comes with the package, offline."""

from pathlib import Path
from typing import Annotated

import typer

from kansformer.cli.loading import quiet_transformers


def demo_command(
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("kansformer-demo"),
    steps: Annotated[int, typer.Option(help="Tuning steps.", min=1)] = 400,
) -> None:
    """Convert a small language model, tune its curves, save, reload and use it: about a minute, offline."""
    import torch

    from kansformer.cli.story import tell
    from kansformer.embedded import embedded_model_path

    quiet_transformers()
    threads = torch.get_num_threads()
    # One thread tunes this small model at 6,000 tokens/s. Two wait for each other on a machine that is busy with other
    # work: 150 to 2,000 tokens/s were seen there.
    torch.set_num_threads(1)
    try:
        tell(embedded_model_path(), output, steps)
    finally:
        torch.set_num_threads(threads)
