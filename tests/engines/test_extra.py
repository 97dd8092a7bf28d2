"""An engine whose package is not installed is one line, not a traceback."""

from __future__ import annotations

import subprocess
import sys

from tests import ROOT

HIDE = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("trl", "verl") else found(name, *more)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDE + program], capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_the_library_names_the_extra() -> None:
    done = run("import empg.engines.trl")
    assert (
        "MissingExtraError: empg.engines.trl needs the extra 'trl' on Python 3.11 or later: pip install \"empg[trl]\""
        in done.stderr
    )


def test_the_command_line_names_the_extra() -> None:
    done = run(
        "sys.argv = ['empg', 'train', 'demo', '--engine', 'trl', '--dry-run']\nimport empg.__main__ as m; m.main()"
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "empg: empg.engines.trl needs the extra 'trl' on Python 3.11 or later: pip install \"empg[trl]\"\n"
    )


def test_the_dry_run_of_verl_names_the_extra() -> None:
    done = run(
        "recipe = 'recipes/paper/alfworld-qwen2.5-1.5b-grpo.yaml'\n"
        "sys.argv = ['empg', 'train', recipe, '--engine', 'verl', '--dry-run']\n"
        "import empg.__main__ as m; m.main()"
    )
    assert done.returncode == 1
    assert (
        done.stderr == "empg: --engine verl needs the extra 'verl' on Python 3.10 to 3.12: pip install \"empg[verl]\"\n"
    )


def test_another_version_is_named() -> None:
    program = (
        "importlib.util.find_spec = lambda name, *more: True if name == 'trl' else found(name, *more)\n"
        "from importlib import metadata\nmetadata.version = lambda name: '1.17.0'\nimport empg.engines.trl"
    )
    assert "trl: expected a version >= 1.16 and < 1.17, got 1.17.0" in run(program).stderr
