"""Where questions and corpus are, as a recipe's `data` says; and the paper's arrangement of the published files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from empg.environments.deepsearch.datasets import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, load_questions
from empg.environments.deepsearch.options import DATA_EXAMPLE, QUESTION_FILES, Data
from empg.errors import MissingFileError, UserError

Files = tuple[tuple[str, tuple[str, ...]], ...]
"""By split, its files."""

_OTHER_NAMES = {"2wikimultihopqa": "2wiki", "webwalkerqa": "webwalker"}


def read_places(data: Data) -> tuple[Files, str | None]:
    """The files of each split, and the corpus.

    Raises:
        UserError: a file is named twice: what is trained on must not be what is tested on.
        MissingFileError: there is no such folder.
    """
    if isinstance(data.questions, str):
        return arrange(Path(data.questions)), data.corpus
    files = tuple(data.questions.items())
    _check_apart(files)
    return files, data.corpus


@lru_cache(8)
def arrange(folder: Path) -> Files:
    """The published files of a folder as the paper uses them: `train`, `test_id` and `test_ood`.

    Trained on are the training files of `IN_DISTRIBUTION`; its other files are tested on, in distribution, and those of
    `OUT_OF_DISTRIBUTION` out of it, of which training files are left alone. A file is for training if its name says so.
    Its dataset shows in its records, else in the name of its folder. Files of other datasets are left alone.

    Raises:
        MissingFileError: there is no such folder.
        UserError: no file in it is of one of those datasets, or one of the files has no questions.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is no folder; data.questions names files by split, as in {DATA_EXAMPLE}")
    splits: dict[str, list[str]] = {"train": [], "test_id": [], "test_ood": []}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in QUESTION_FILES and path.is_file()):
        dataset, trains = _dataset(path), "train" in path.stem.lower()
        if dataset in IN_DISTRIBUTION:
            splits["train" if trains else "test_id"].append(str(path))
        elif dataset in OUT_OF_DISTRIBUTION and not trains:
            splits["test_ood"].append(str(path))
    found = tuple((split, tuple(paths)) for split, paths in splits.items() if paths)
    if not found:
        known = ", ".join((*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION))
        raise UserError(f"{folder} has no files of the paper's datasets ({known}); name your files by split")
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
                raise UserError(
                    f"data.questions: {path} is given for {before} and for {split}; splits must not overlap"
                )
        if len({os.path.realpath(path) for path in paths}) < len(paths):
            raise UserError(f"data.questions.{split} names a file twice")
