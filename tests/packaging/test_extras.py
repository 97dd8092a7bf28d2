"""The extra that a command lacks, found from the package's own metadata."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

import pytest

from empg.extras import DISTRIBUTIONS, distributions_by_extra, find_extra, missing_extra

REQUIREMENTS = [
    "torch>=2.4",
    "numpy>=1.26; extra == 'report'",
    "Jinja2>=3.1 ; extra == 'report'",
    "numpy>=1.26; extra == 'environments'",
    "prompt_toolkit; extra == 'environments'",
    "gymnasium[other]>=1.0; extra == 'environments'",
    "empg[environments,report]; extra == 'train'",
    "transformers<6,>=5.2; python_version >= '3.10' and extra == \"train\"",
    "PyYAML>=6; extra == 'train'",
    "empg[train]; extra == 'all'",
    "peft; extra == 'all'",
    "empg[all]; extra == 'dev'",
    "pytest; extra == 'dev'",
]


def test_an_extra_brings_what_its_nested_extras_bring() -> None:
    extras = distributions_by_extra(REQUIREMENTS)
    assert extras["report"] == {"numpy", "jinja2"}
    assert extras["train"] == {"numpy", "jinja2", "prompt-toolkit", "gymnasium", "transformers", "pyyaml"}
    assert extras["dev"] == extras["all"] | {"pytest"} == extras["train"] | {"peft", "pytest"}


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("train", "transformers", "train"),
        ("train", "numpy", "train"),  # the command's own extra, so that one installation is enough
        ("play", "prompt_toolkit.completion", "environments"),
        ("report", "jinja2", "report"),
        ("compare", "numpy", "report"),  # the smallest extra
        ("evaluate", "yaml", "train"),
        ("train", "torch", None),  # a requirement of the package itself
        ("train", "nosuch", None),
        ("train", "", None),
    ],
)
def test_the_extra_of_a_module(command: str, module: str, extra: str | None) -> None:
    assert find_extra(command, module, REQUIREMENTS) == extra


def test_extras_that_contain_each_other_are_read() -> None:
    circle = ["empg[b]; extra == 'a'", "empg[a]; extra == 'b'", "numpy; extra == 'b'"]
    assert find_extra("play", "numpy", circle) == "a"


def test_the_line_names_the_command_and_the_remedy() -> None:
    error = ModuleNotFoundError("No module named 'transformers'", name="transformers")
    assert missing_extra("train", error) == "empg train needs the extra 'train': pip install \"empg[train]\""
    without_typer = ModuleNotFoundError("No module named 'typer'", name="typer")
    assert missing_extra(None, without_typer) == "empg needs the extra 'train': pip install \"empg[train]\""


def test_every_module_with_another_name_is_mapped_to_its_distribution() -> None:
    brought = distributions_by_extra(metadata.requires("empg") or ())["all"]
    for module, distributions in metadata.packages_distributions().items():
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
        imported = re.sub(r"[-_.]+", "-", module).lower()
        if names & brought and imported not in names and is_imported(module):
            assert DISTRIBUTIONS.get(imported) in names, module


def is_imported(module: str) -> bool:
    """Whether the package imports this top-level module somewhere."""
    from empg import __file__ as place

    folder = place.rpartition("/")[0]
    command = ["grep", "-rlE", rf"^ *(import|from) {re.escape(module)}\b", folder, "--include=*.py"]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("hidden", "arguments", "subject", "extra"),
    [
        ("typer", ["--help"], "empg", "train"),
        ("jinja2", ["report", "nosuch"], "empg report", "report"),
        ("starlette", ["report", "nosuch", "--serve"], "empg report", "server"),
        ("starlette", ["serve-environment", "alfworld"], "empg serve-environment", "openenv"),
        ("uvicorn", ["serve-environment", "alfworld"], "empg serve-environment", "openenv"),
        ("gymnasium", ["play", "alfworld"], "empg play", "environments"),
        ("pydantic", ["train", "nosuch.yaml"], "empg train", "train"),
    ],
)
def test_a_missing_extra_is_one_line(hidden: str, arguments: list[str], subject: str, extra: str) -> None:
    program = (
        "import sys\n"
        f"class Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {hidden!r}:\n"
        f"            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"sys.argv = ['empg', *{arguments!r}]\n"
        "from empg.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    line = f"{subject} needs the extra '{extra}': pip install \"empg[{extra}]\"\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
