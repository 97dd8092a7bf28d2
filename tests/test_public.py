"""What `import empg` promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import empg


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_the_package_alone_is_light() -> None:
    assert run("import sys, empg; print('torch' in sys.modules)") == "False"


def test_the_method_is_there_without_another_import() -> None:
    program = "import empg; print(empg.credit.modulate.__name__, empg.modulate_advantages.__name__)"
    assert run(program) == "modulate modulate_advantages"


def test_dir_lists_what_is_not_loaded_yet() -> None:
    assert run("import empg; print(dir(empg) == sorted(empg.__all__))") == "True"


def test_all_that_is_promised_is_there_and_nothing_else_is_made_up() -> None:
    assert all(hasattr(empg, name) for name in empg.__all__)
    with pytest.raises(AttributeError, match="module 'empg' has no attribute 'modulation'"):
        empg.modulation  # noqa: B018
