"""
build.py: from one source of a session, the notebook that students open and its solution.

    python notebooks/build.py               all sessions
    python notebooks/build.py 3_ppo         one of them
    python notebooks/build.py --unsolved    without running any

In:  source/NAME.py, cells in the percent format
Out: NAME.ipynb, with blanks and without outputs; solutions/NAME.ipynb, solved and run

A cell starts with one of

    # %% [markdown]         its text stands between triple quotes
    # %%                    code
    # %% setup              SETUP, below
    # %% exercise NAME      code; from `# solution` to `# end` is the blank
    # %% check NAME         code; says whether the blank is right

Both notebooks come from the same cells, so they cannot drift, and test_notebooks.py finds
out if one was edited by hand.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import nbformat

FOLDER = Path(__file__).resolve().parent
SOURCES = sorted((FOLDER / "source").glob("*.py"))

# A solution lies one folder deeper than its exercise: of these three, two are right.
SETUP = '''\
import sys

if "google.colab" in sys.modules:            # on Colab: fetch the project, once
    REPOSITORY = "https://github.com/YOUR/COPY"
    get_ipython().system(f"git clone {REPOSITORY} /content/course")
    get_ipython().system("pip install -q -r /content/course/requirements.txt")
    sys.path[:0] = ["/content/course/notebooks", "/content/course"]
sys.path[:0] = [".", "..", "../.."]'''


class Cell(NamedTuple):
    kind: str          # markdown, code, exercise or check
    name: str          # of the exercise
    source: str


def read_cells(path):
    """The cells of a source, each without the line that starts it."""
    cells = []
    for block in re.split(r"^# %%", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = block.partition("\n")
        kind, _, name = heading.strip().partition(" ")
        body = body.strip("\n")
        if kind == "[markdown]":
            cells.append(Cell("markdown", "", re.fullmatch(r'r?"""\n(.*)\n"""', body,
                                                           re.DOTALL)[1]))
        elif kind == "setup":
            cells.append(Cell("code", "", f"{SETUP}\n\n{body}"))
        else:
            cells.append(Cell(kind or "code", name, body))
    return cells


SOLUTION = re.compile(r"^( *)# solution\n(.*?)^ *# end(?:\n|\Z)",
                      re.MULTILINE | re.DOTALL)


def blank(source):
    """The exercise as students get it. A blank within a function returns nothing; one
    that stands outside, as a list of answers, leaves what is above it."""
    source = SOLUTION.sub(r"\1# Your lines here.\n\1...\n", source)
    return re.sub(r"^# Your lines here.\n\.\.\.\n", "", source, flags=re.MULTILINE
                  ).rstrip("\n")


def solved(source):
    return SOLUTION.sub(r"\2", source).rstrip("\n")


def notebook(path, source_of):
    """The notebook of a source; source_of turns an exercise into what its cell holds."""
    book = nbformat.v4.new_notebook()
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python",
                                    "name": "python3"},
                     "language_info": {"name": "python"}}
    for i, cell in enumerate(read_cells(path)):
        if cell.kind == "markdown":
            made = nbformat.v4.new_markdown_cell(cell.source)
        else:
            made = nbformat.v4.new_code_cell(source_of(cell.source))
        if cell.name:
            made.metadata["tags"] = [cell.kind, cell.name]
        made.id = f"cell-{i}"            # else it would be random, and differ every time
        book.cells.append(made)
    return book


def run(book, folder):
    """Run all cells in place, as if the notebook lay in this folder."""
    from nbclient import NotebookClient
    client = NotebookClient(book, timeout=900, kernel_name="python3", record_timing=False,
                            resources={"metadata": {"path": str(folder)}})
    client.execute()
    book.metadata["language_info"] = {"name": "python"}      # without its version
    for cell in book.cells:                  # what a run says on the way is not kept
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return book


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("names", nargs="*", help="sessions, as source/ has them; or all")
    parser.add_argument("--unsolved", action="store_true", help="run nothing")
    options = parser.parse_args()
    solutions = FOLDER / "solutions"
    solutions.mkdir(exist_ok=True)
    for path in SOURCES:
        if options.names and path.stem not in options.names:
            continue
        nbformat.write(notebook(path, blank), FOLDER / f"{path.stem}.ipynb")
        if not options.unsolved:
            book = run(notebook(path, solved), solutions)
            nbformat.write(book, solutions / f"{path.stem}.ipynb")
        print(path.stem)


if __name__ == "__main__":
    main()
