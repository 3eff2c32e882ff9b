"""Runs the cells of a notebook, top to bottom, in IPython, pictures included: `python tests/docs/cells.py NOTEBOOK`."""

import sys

import nbformat
from IPython.core.interactiveshell import InteractiveShell


class Shell(InteractiveShell):
    """One whose pictures need no window."""

    def enable_gui(self, gui: str | None = None) -> None:
        pass


if __name__ == "__main__":
    shell = Shell.instance()
    shell.run_line_magic("matplotlib", "inline")
    for cell in nbformat.read(sys.argv[1], 4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()
