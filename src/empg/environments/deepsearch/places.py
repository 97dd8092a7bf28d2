"""Parse a recipe's `data`: files of questions by split and the corpus. Arrange published files like the paper."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from empg.environments.deepsearch import aliases
from empg.environments.deepsearch.datasets import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, load_questions
from empg.environments.deepsearch.options import DATA_EXAMPLE, QUESTION_FILES, Data
from empg.errors import MissingFileError, UserError

Files = tuple[tuple[str, tuple[str, ...]], ...]
"""Pairs of a split and its files."""

_OTHER_NAMES = {"2wikimultihopqa": "2wiki", "webwalkerqa": "webwalker"}


def read_places(data: Data) -> tuple[Files, str | None]:
    """Return the files of each split, and the corpus.

    Raises:
        UserError: a file is named twice (training and test data must not overlap).
        MissingFileError: the folder does not exist.
    """
    if isinstance(data.questions, str):
        return arrange(Path(data.questions)), data.corpus
    files = tuple(data.questions.items())
    _check_apart(files)
    return files, data.corpus


@lru_cache(8)
def arrange(folder: Path) -> Files:
    """Arrange the published files of a folder like the paper: `train`, `test_id` and `test_ood`.

    `train` has the training files of `IN_DISTRIBUTION`, and `test_id` its other files. `test_ood` has the files of
    `OUT_OF_DISTRIBUTION` except its training files. A file is a training file if its name contains "train". Its dataset
    is recognised by its records, else by the name of its folder. Files of other datasets are ignored.

    Raises:
        MissingFileError: the folder does not exist.
        UserError: the folder has no file of these datasets, or one of the files has no questions.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder. Set data.questions to files by split, e.g. {DATA_EXAMPLE}")
    splits: dict[str, list[str]] = {"train": [], "test_id": [], "test_ood": []}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in QUESTION_FILES and path.is_file()):
        if path.name == aliases.FILE:
            continue
        dataset, trains = _dataset(path), "train" in path.stem.lower()
        if dataset in IN_DISTRIBUTION:
            splits["train" if trains else "test_id"].append(str(path))
        elif dataset in OUT_OF_DISTRIBUTION and not trains:
            splits["test_ood"].append(str(path))
    found = tuple((split, tuple(paths)) for split, paths in splits.items() if paths)
    if not found:
        datasets = ", ".join((*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION))
        problem = f"{folder} has no files of the paper's datasets ({datasets})"
        raise UserError(f"{problem}. Set data.questions to files by split")
    return found


def _dataset(path: Path) -> str:
    source = next(load_questions(path)).source.lower()
    names = [_OTHER_NAMES.get(name, name) for name in (source, path.parent.name.lower())]
    return next((name for name in names if name in (*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)), names[0])


def _check_apart(files: Files) -> None:
    where: dict[str, str] = {}
    for split, paths in files:
        for path in paths:
            before = where.setdefault(os.path.realpath(path), split)
            if before != split:
                raise UserError(f"data.questions: {path} is in both {before} and {split}; splits must not overlap")
        if len({os.path.realpath(path) for path in paths}) < len(paths):
            raise UserError(f"data.questions.{split} lists a file twice")
