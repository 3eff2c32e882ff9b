"""Every notebook runs, in a fresh folder, and the copy in the repository shows its results."""

import subprocess
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install ipykernel nbformat")
pytest.importorskip("ipykernel", reason="pip install ipykernel nbformat")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
# The copy has the results of long trainings.
SHORTER = {
    "training.max_steps=100": "training.max_steps=10",
    "data.max_train_tokens=200000": 'data.max_train_tokens=20000", "data.max_eval_tokens=10000',
    "blocks[:160]": "blocks[:40]",
    "[:240]": "[:40]",
}
MAX_BYTES = 400_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, environment, forked, tmp_path):
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        for written, shorter in SHORTER.items():
            cell.source = cell.source.replace(written, shorter)
    nbformat.write(notebook, tmp_path / path.name)
    command = [*forked, str(Path(__file__).with_name("cells.py")), path.name]
    job = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, f"{job.stdout[-3000:]}\n{job.stderr[-3000:]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_results_are_kept(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells), "not executed"
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert path.stat().st_size < MAX_BYTES and "/home/" not in path.read_text(encoding="utf-8")


def test_every_training_that_is_made_shorter_is_in_one():
    text = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert all(written in text for written in SHORTER)


def test_all_of_them_are_listed():
    listed = (NOTEBOOKS[0].parent / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 6 and all(f"({path.name})" in listed for path in NOTEBOOKS)
