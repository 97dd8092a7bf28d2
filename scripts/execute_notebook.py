"""Execute a notebook in its own folder and store its outputs, without times and versions, so that they can be compared.

python scripts/execute_notebook.py docs/notebooks/wrong_credit.ipynb
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    """Execute the notebook that the command line names."""
    path = Path(sys.argv[1])
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, record_timing=False, resources=resources).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
