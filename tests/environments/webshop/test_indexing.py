"""The index of a shop is kept under a name that changes with the code that computes it."""

from __future__ import annotations

import ast
from pathlib import Path

from empg.environments.webshop import indexing

ENVIRONMENTS = Path(indexing.__file__).parents[1]
FINGERPRINTED = {f"empg.environments.{name}" for name in indexing._SHARED_MODULES} | {
    f"empg.environments.webshop.{name}" for name in indexing._CONTENT_MODULES
}
# They read or place files, show progress or define interfaces; the content of an index does not depend on them.
WITHOUT_CONTENT = {
    "empg.environments.base",
    "empg.environments.jsonstream",
    "empg.environments.options",
    "empg.environments.progress_bar",
    "empg.environments.publishing",
    "empg.environments.skipped",
    "empg.environments.spec",
    "empg.environments.webshop",
}


def imported(module: str) -> set[str]:
    source = ENVIRONMENTS.parent.parent / f"{module.replace('.', '/')}.py"
    found = ast.walk(ast.parse(source.read_text()))
    names = {node.module for node in found if isinstance(node, ast.ImportFrom) and node.module}
    return {name for name in names if name.startswith("empg.environments.")}


def test_the_fingerprint_covers_what_the_content_is_computed_by() -> None:
    used = set().union(*map(imported, FINGERPRINTED))
    assert used - WITHOUT_CONTENT <= FINGERPRINTED
