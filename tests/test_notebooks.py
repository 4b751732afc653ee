"""The stored notebooks and their outputs, and a run of each notebook."""

import base64
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("[0-9]*.ipynb"))
MACHINE_PATH = re.compile(
    r"/(home|root|tmp|usr|opt|Users|work|mnt)/|\w:\\|site-packages|ipykernel_|<ipython-input"
)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def images(cell):
    return [
        base64.b64decode(data)
        for output in cell.outputs
        for kind, data in output.get("data", {}).items()
        if kind.startswith("image/")
    ]


def test_notebooks_are_numbered_from_1():
    numbers = [int(path.stem.split("_")[0]) for path in NOTEBOOKS]
    assert numbers == list(range(1, len(NOTEBOOKS) + 1))


@each_notebook
def test_metadata_names_no_special_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    assert notebook.metadata.language_info.name == "python"
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", cell.id) for cell in notebook.cells)


@each_notebook
def test_first_cell_has_a_title_and_one_paragraph(path):
    title, _, rest = read(path).cells[0].source.partition("\n\n")
    assert re.fullmatch(r"# .+", title)
    assert len(rest) > 80
    assert "\n\n" not in rest


@each_notebook
def test_cells_were_run_in_order_in_a_new_kernel(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)


@each_notebook
def test_outputs_have_no_errors_warnings_or_machine_paths(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", f"{cell.id}: {output.text}"
            text = json.dumps({k: v for k, v in output.items() if k != "data"})
            text += json.dumps(output.get("data", {}).get("text/plain", ""))
            assert not MACHINE_PATH.search(text), f"{cell.id}: {text}"
            assert "Warning" not in text, f"{cell.id}: {text}"


@each_notebook
def test_prints_of_a_cell_are_one_output(path):
    for cell in code_cells(path):
        names = [output.get("name") for output in cell.outputs]
        repeated = [name for name, last in zip(names[1:], names, strict=False) if name == last]
        assert "stdout" not in repeated, cell.id


@each_notebook
def test_every_picture_has_an_alternative_text(path):
    # MyST-NB takes the text from the metadata of the cell.
    cells = code_cells(path)
    pictured = [cell for cell in cells if images(cell)]
    assert pictured
    for cell in cells:
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        assert (alt is not None) == bool(images(cell)), cell.id
        assert alt is None or len(alt) > 40, cell.id


@each_notebook
def test_notebook_and_pictures_are_small(path):
    assert path.stat().st_size < 1_500_000
    for cell in code_cells(path):
        assert all(len(image) < 200_000 for image in images(cell)), cell.id


@pytest.mark.slow
@each_notebook
def test_notebook_runs_without_warnings(path):
    notebook = read(path)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    cells_with_warnings = [
        cell.id
        for cell in notebook.cells
        for o in cell.get("outputs", ())
        if o.get("name") == "stderr"
    ]
    assert cells_with_warnings == []
