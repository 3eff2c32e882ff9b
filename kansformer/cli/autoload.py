"""`kansformer autoload`: whether every program of this Python loads curves, as if it imported kansformer."""

import subprocess
import sys
import sysconfig
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from kansformer.autoload import FILE

LINE = (
    "import importlib.util, os.path, runpy; spec = importlib.util.find_spec('kansformer'); spec and spec.origin and "
    "runpy.run_path(os.path.join(os.path.dirname(spec.origin), 'autoload.py'), run_name='__main__')\n"
)
"""Python runs it at its start. It does nothing where the package has been removed since."""
CHECK = (
    "import importlib.util; spec = importlib.util.find_spec('kansformer'); raise SystemExit(not (spec and spec.origin))"
)


class Switch(str, Enum):
    """What to do with the line."""

    ON = "on"
    OFF = "off"
    STATUS = "status"


def autoload_command(
    switch: Annotated[Switch, typer.Argument(help="on, off, or status, which changes nothing.")] = Switch.STATUS,
) -> None:
    """Have every program of this Python that loads models with transformers load curves, too.

    It is off by default. When it is on, a line in site-packages imports kansformer once transformers loads a model;
    other programs start as fast as before.
    """
    from kansformer.files import atomic_write_text, check_writable

    file = Path(sysconfig.get_path("purelib")) / FILE
    if switch is not Switch.STATUS:
        check_writable(file.parent)
    if switch is Switch.ON:
        atomic_write_text(file, LINE)
    elif switch is Switch.OFF:
        file.unlink(missing_ok=True)
    typer.echo(f"Autoload is {'on' if file.exists() else 'off'}: {file}{'' if file.exists() else ' does not exist'}")
    if file.exists() and not _is_installed(file.parent):
        clone = Path(__file__).parents[2]
        typer.echo(f"It does nothing yet: {sys.executable} does not find kansformer. Install it: pip install {clone}")


def _is_installed(neutral: Path) -> bool:
    """Whether a new Python finds the package; this one may have it from the current folder, which is not `neutral`."""
    command = [sys.executable, "-c", CHECK]
    return subprocess.run(command, cwd=neutral, capture_output=True).returncode == 0  # noqa: S603 - of our own
