"""Names of the known datasets, and how rows, files and folders spell them."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from empg.environments.deepsearch.opened_files import plain_name
from empg.web.text import clean_text

HOMES = {
    "hotpotqa": "https://hotpotqa.github.io",
    "2wiki": "https://github.com/Alab-NII/2wikimultihop",
    "musique": "https://github.com/StonyBrookNLP/musique",
    "bamboogle": "https://github.com/ofirpress/self-ask",
    "webwalker": "https://huggingface.co/datasets/callanwu/WebWalkerQA",
    "frames": "https://huggingface.co/datasets/google/frames-benchmark",
    "nq": "https://github.com/google-research-datasets/natural-questions (nq_open)",
    "triviaqa": "https://nlp.cs.washington.edu/triviaqa",
    "popqa": "https://github.com/AlexTMallen/adaptive-retrieval",
    "generic": "https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets",
}
"""The download page of each dataset, by name."""

IN_DISTRIBUTION = ("hotpotqa", "2wiki", "webwalker")
"""Datasets that the paper trains on; it calls their test sets in-distribution (section 4.1)."""
OUT_OF_DISTRIBUTION = ("musique", "bamboogle")
"""Datasets that the paper only tests on."""

_SPELLINGS = {
    "hotpotqa": "hotpot([-_]?qa)?",
    "2wiki": "2wiki[a-z]*",
    "musique": "musique",
    "bamboogle": "bamboogle",
    "webwalker": "webwalker(qa)?",
    "frames": "frames",
    "nq": "nq|natural[-_ ]?questions",
    "triviaqa": "trivia[-_]?qa",
    "popqa": "popqa",
}
_PATTERNS = {name: re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z])") for name, words in _SPELLINGS.items()}
_TAG = re.compile("searchr1_", re.IGNORECASE)  # of verl's and verl-agent's rows
# Names of files and folders that say nothing about the dataset: `dev.jsonl`, `test-00000-of-00001.parquet`, `data`.
_PART = re.compile(r"(train(ing)?|dev|test|valid(ation)?|val|eval)([-_.]?v?[\d.]+(-of-\d+)?)?")
_PLACES = frozenset(("", ".", "..", "data", "dataset", "datasets", "raw", "questions"))


@lru_cache(256)  # asked for every row
def dataset_name(text: str) -> str:
    """Return the dataset that a text such as `searchR1_2wikimultihopqa` names; a text that names none, unchanged."""
    plain = " ".join(clean_text(_TAG.sub("", text)).split())
    found = [name for name, pattern in _PATTERNS.items() if pattern.search(plain.lower())]
    return found[0] if len(found) == 1 else plain


@lru_cache(256)  # asked for every row
def dataset_of_path(path: Path) -> str:
    """Return the dataset that the name of a file or of its folder contains, else the more specific of the two names.

    A folder is taken if the file is named after a part of a dataset, as in FlashRAG's `hotpotqa/dev.jsonl`.
    """
    stem = plain_name(path).stem
    folder = next((parent.name for parent in path.parents[:2] if not _says_nothing(parent.name)), "")
    named = next((name for name in map(dataset_name, (stem, folder)) if name in HOMES), None)
    return named or (folder if folder and _says_nothing(stem) else stem)


def _says_nothing(name: str) -> bool:
    return name.lower() in _PLACES or _PART.fullmatch(name.lower()) is not None
