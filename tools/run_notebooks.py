"""Run the notebooks of examples/ from top to bottom and keep what they show.

Run by ``make notebooks``. Each runs in a folder of its own, which is removed afterwards. What changes from run to run
(times, numbers of processes) is not kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main(names: list[str]) -> None:
    """Run all notebooks, or those named."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        if not names or path.stem in names:
            print(path.name, flush=True)
            run(path)


def run(path: Path) -> None:
    """Run one notebook and write its outputs into it."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}, record_timing=False)
        client.execute()
        for cell in notebook.cells:
            if "outputs" in cell:  # what libraries say of the machine is no part of the example
                cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
            for output in cell.get("outputs", ()):
                output.get("metadata", {}).clear()
                if "text" in output:
                    output["text"] = output["text"].replace(folder, ".")
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
