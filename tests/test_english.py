"""Phrases that read as translated, or that are house jargon, do not come back.

A row of `RULES` is a pattern, a phrase that it must find, and what to write instead. The patterns cover the most common
kinds only; CONTRIBUTING.md has the rules.
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PERCENT = r"(?:[\d}]|^) %(?!})"  # not in code, where `7 % n` is an expression
RULES = [
    (r"\bbe had\b", "could not be had", "is unavailable"),
    (r"\bis no (?:address|file|folder|function word|JSON|list|mapping|number|object|step|string|text|vector)\b",
     "runs/demo is no file", "is not a file"),
    (r"\bis none of\b", "is none of its own", "is not one of"),
    (r"\b(?:holds|knows|meets|sent) no\b", "the folder holds no run", "is not a run folder"),
    (r"\bhast[ey]\b", "the expert is in haste", "stops early; a flawed expert"),
    (r"\bmend(?:s|ed|ing)?\b", "2 to mend", "fix"),
    (r"\banew\b", "starts anew", "restart, overwrite, rebuild"),
    (r"\b(?:goes|go|going) on\b", "the run goes on", "continue, resume"),
    (r"\ball told\b", "12 minutes all told", "in total"),
    (r"\bmanners\b|\bpatience\b|\bleft alone\b", "good manners", "request policy, failure threshold, circuit open"),
    (r"\bteachers?\b|\bpupils?\b", "its pupil", "expert, policy"),
    (r"\bdice\b", "with the same dice", "random numbers, seed, rng"),
    (r"(?<![Mm]ake )\bsure\b|\b(?:unsure|surer|surest)\b", "a sure step", "confident, uncertain"),
    (r"\bnow and then\b", "wins now and then", "occasionally"),
    (r"\bto the letter\b", "the same to the letter", "identical"),
    (r"\bas it comes\b", "textworld as it comes", "unmodified"),
    (r"\b(?:object|tokens|nats|episodes|tasks|turns|steps|commands|seconds) an? "
     r"(?:line|turn|step|episode|iteration|split|group|worker|round)\b", "a JSON object a line", "one per line"),
    (PERCENT, "95 % Wilson", "95%"),
    (r", too(?:[.,;:)]|$)", "this one, too.", "also, as well"),
    (r"help=\"(?:Of|Whose|Which)\b", 'help="Of --web"', "name the noun: help=\"Port for --web\""),
]  # fmt: skip

CHECKED = ["CHANGELOG.md", "CONTRIBUTING.md", "README.md", "Makefile", "docs", "recipes", "examples", "scripts"]
CHECKED += ["benchmarks", "src", "tests"]
SUFFIXES = {".md", ".py", ".yaml", ".j2", ".ipynb"}
# By file: text found there that is data, such as a template or a quotation from a data set.
_FICTION = {"teacher", "teachers"}  # a relation between people of the generated encyclopaedia
QUOTED = {
    "tests/agent/test_chat.py": {"0 %"},
    "src/empg/environments/deepsearch/encyclopaedia.py": _FICTION,
    "src/empg/environments/deepsearch/questions.py": _FICTION,
    "src/empg/environments/deepsearch/relations.py": _FICTION,
    "tests/environments/deepsearch/test_encyclopaedia.py": _FICTION,
}


def files() -> list[Path]:
    """The files that are checked."""
    roots = [ROOT / name for name in CHECKED]
    found = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*"))]
    return sorted(file for file in found if file.suffix in SUFFIXES and file != Path(__file__))


def lines(file: Path, *, prose: bool) -> Iterator[tuple[int, str]]:
    """The lines of a file by number; with `prose` without code: only strings and comments of a module."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":  # without its outputs
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown" or not prose]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    if prose and file.suffix == ".md":
        text = re.sub(r"```python\n.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)
    if file.suffix != ".py" or not prose:
        yield from enumerate(text.splitlines(), 1)
        return
    code = (tokenize.NAME, tokenize.NUMBER, tokenize.OP)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in code:
            yield from enumerate(token.string.split("\n"), token.start[0])


@pytest.mark.parametrize(("pattern", "example", "better"), RULES, ids=[example for _, example, _ in RULES])
def test_a_rule_finds_its_example_and_not_its_advice(pattern: str, example: str, better: str) -> None:
    assert re.search(pattern, example)
    assert not re.search(pattern, better)


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_text_is_plain_english(file: Path) -> None:
    allowed = QUOTED.get(file.relative_to(ROOT).as_posix(), set())
    found = [
        f"line {number}: {match[0]!r}: write {better!r}"
        for pattern, _, better in RULES
        for number, line in lines(file, prose=pattern == PERCENT)
        for match in re.finditer(pattern, line)
        if match[0] not in allowed
    ]
    assert found == []
