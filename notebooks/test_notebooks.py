"""
test_notebooks.py: each notebook runs, prints what it was saved with, and its checks tell
a solved exercise from one that is not.

The notebooks share a small run in out/course, made by the first of them. All of it takes
some minutes. Skipped where nbformat, nbclient or ipykernel is not installed.
"""

import math
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def tags_of(cell):
    return cell.metadata.get("tags", [])


def tagged(cells, name):
    """{1: the cell with the tag name-1, 2: ...}."""
    found = {}
    for cell in cells:
        for tag in tags_of(cell):
            if tag.startswith(name + "-"):
                found[int(tag.split("-")[1])] = cell
    return found


def printed(cell):
    """What a cell printed, warnings aside."""
    texts = []
    for output in cell.outputs:
        if output.get("name") != "stderr":
            texts.append(output.get("text", ""))
            texts.append(output.get("data", {}).get("text/plain", ""))
    return "".join(texts)


def alike(a, b):
    """The same words, and numbers that differ by 5 % or by 0.02 at most."""
    number = r"-?\d+\.?\d*(?:e-?\d+)?"
    if re.split(number, a) != re.split(number, b):
        return False
    pairs = zip(re.findall(number, a), re.findall(number, b))
    return all(math.isclose(float(x), float(y), rel_tol=0.05, abs_tol=0.02)
               for x, y in pairs)


def with_solutions(saved):
    """The notebook, and behind each check its solution and the check once more, which
    must not fail."""
    from nbformat import from_dict
    from nbformat.v4 import new_code_cell
    checks, solutions = tagged(saved.cells, "check"), tagged(saved.cells, "solution")
    book = from_dict({**saved, "cells": []})
    for cell in saved.cells:
        book.cells.append(cell.copy())
        for k in tagged([cell], "check"):
            book.cells.append(new_code_cell(solutions[k].source))
            book.cells.append(new_code_cell(checks[k].source))
    return book


def test_alike_by_hand():
    assert alike("loss 1.50 of 3", "loss 1.51 of 3")
    assert alike("a -0.01", "a 0.00")
    assert not alike("loss 1.5", "loss 1.7")
    assert not alike("loss 1.5", "cost 1.5")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_three_exercises_and_their_solutions_folded(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    cells = nbformat.read(path, as_version=4).cells
    for name in ("exercise", "check", "solution"):
        assert sorted(tagged(cells, name)) == [1, 2, 3]
    for cell in tagged(cells, "check").values():
        assert "raises-exception" in tags_of(cell)
    for cell in tagged(cells, "solution").values():
        assert cell.metadata.jupyter.source_hidden


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_says(path):
    """What it printed it prints again. No check passes before its exercise is solved, and
    each does with the solution."""
    for name in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import nbclient
    import nbformat

    saved = nbformat.read(path, as_version=4)
    book = with_solutions(saved)
    client = nbclient.NotebookClient(book, timeout=900, kernel_name="python3",
                                     resources={"metadata": {"path": str(FOLDER)}})
    client.execute()

    ran = [cell for cell in book.cells if cell.cell_type == "code"]
    for k, cell in tagged(ran, "check").items():
        errors = [out for out in cell.outputs if out.output_type == "error"]
        assert errors, f"check {k} passes unsolved"
        assert errors[0].evalue.startswith("not yet")
    before = {cell.id: cell for cell in saved.cells}
    for cell in ran:
        if cell.get("id") in before and "varies" not in tags_of(cell):
            assert alike(printed(cell), printed(before[cell.id])), cell.source
