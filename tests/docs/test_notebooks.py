"""Every notebook runs, in a fresh folder, and the copy in the repository shows its results."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 400_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:  # the copy has the results of long trainings
        cell.source = cell.source.replace("training.max_steps=100", "training.max_steps=10")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_results_are_kept(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells), "not executed"
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert path.stat().st_size < MAX_BYTES and "/home/" not in path.read_text(encoding="utf-8")


def test_all_of_them_are_listed():
    listed = (NOTEBOOKS[0].parent / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 6 and all(f"({path.name})" in listed for path in NOTEBOOKS)
