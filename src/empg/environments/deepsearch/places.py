"""Parse a recipe's `data`: files of questions by split and the corpus. Arrange published files like the paper."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from empg.environments.deepsearch import aliases
from empg.environments.deepsearch.dataset_names import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from empg.environments.deepsearch.datasets import examine, find_questions
from empg.environments.deepsearch.opened_files import content_key
from empg.environments.deepsearch.options import DATA_EXAMPLE, Data, is_question_file
from empg.errors import MissingFileError, UserError

_log = logging.getLogger(__name__)
_SHOWN = 5  # files that are named per reason for leaving them out
_DATASETS = {"train": IN_DISTRIBUTION, "test_id": IN_DISTRIBUTION, "test_ood": OUT_OF_DISTRIBUTION}


class SplitFiles(NamedTuple):
    """The files of a split. `sources` are the datasets whose questions are taken from them; None takes all."""

    split: str
    paths: tuple[str, ...]
    sources: tuple[str, ...] | None = None


Files = tuple[SplitFiles, ...]


def read_places(data: Data, paragraphs: bool = False) -> Files:
    """Return the files of each split, which exist.

    Args:
        data: the options.
        paragraphs: whether the paragraphs of the questions are searched. Of a folder, files without them are left out.

    Raises:
        UserError: a file is named twice (training and test data must not overlap), or is a folder; or see `arrange`.
        MissingFileError: the folder or a file does not exist.
    """
    if isinstance(data.questions, str):
        return arrange(Path(data.questions), paragraphs)
    files = tuple(SplitFiles(split, paths) for split, paths in data.questions.items())
    _check_apart(files)
    for part in files:
        for path in part.paths:
            find_questions(path)
    return files


def arrange(folder: Path, paragraphs: bool = False) -> Files:
    """Arrange the published files of a folder like the paper: `train`, `test_id` and `test_ood`.

    `train` has the training files of `IN_DISTRIBUTION`, and `test_id` its other files. `test_ood` has the files of
    `OUT_OF_DISTRIBUTION` except its training files. A file is a training file if its name contains "train" or its
    folder is called "train". Its dataset is recognised by its records, else by its name or that of its folder. A file
    whose rows name several datasets is in each split that takes questions from it. A warning names the files that are
    left out, in one line per reason.

    Raises:
        MissingFileError: the folder does not exist.
        UserError: no file has usable questions of these datasets.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder. Set data.questions to files by split, e.g. {DATA_EXAMPLE}")
    paths = tuple(sorted(path for path in folder.rglob("*") if is_question_file(path) and path.is_file()))
    return _arrange(folder, paths, paragraphs, content_key(*paths))


@lru_cache(8)
def _arrange(folder: Path, found: tuple[Path, ...], paragraphs: bool, key: str) -> Files:
    splits: dict[str, list[str]] = {split: [] for split in _DATASETS}
    left_out: dict[str, dict[str, list[str]]] = {}  # by reason, each file with what more is known of it

    def leave_out(reason: str, name: Path, *more: str) -> None:
        left_out.setdefault(reason, {}).setdefault(str(name), []).extend(more)

    for path in found:
        if path.name == aliases.FILE:
            continue
        name = path.relative_to(folder)
        examined = examine(path)
        trains = "train" in path.stem.lower() or "train" in map(str.lower, name.parts[:-1])
        if examined.problem:
            leave_out(examined.problem, name, *filter(None, [examined.detail[:200]]))
        for source in examined.sources:
            split = _split(source, trains)
            if split not in splits:
                leave_out(split, name, source)
            elif paragraphs and not examined.paragraphs:
                leave_out("no paragraphs to search, and data.corpus is not set", name)
            elif str(path) not in splits[split]:
                splits[split].append(str(path))
    for reason, known in left_out.items():
        names = [f"{name} ({', '.join(more)})" if more else name for name, more in known.items()]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        _log.warning("%s: left out (%s): %s%s", folder, reason, ", ".join(names[:_SHOWN]), more)
    files = tuple(SplitFiles(split, tuple(paths), _DATASETS[split]) for split, paths in splits.items() if paths)
    if not files:
        datasets = ", ".join((*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION))
        problem = f"{folder} has no usable files of the paper's datasets ({datasets})"
        raise UserError(f"{problem}. Set data.questions to files by split")
    return files


def _split(source: str, trains: bool) -> str:
    """Return the split of a dataset's file, or why there is none."""
    if source in IN_DISTRIBUTION:
        return "train" if trains else "test_id"
    if source in OUT_OF_DISTRIBUTION:
        return "training file of a data set that is only tested on" if trains else "test_ood"
    return "other data sets"


def _check_apart(files: Files) -> None:
    where: dict[str, str] = {}
    for split, paths, _ in files:
        for path in paths:
            before = where.setdefault(os.path.realpath(path), split)
            if before != split:
                raise UserError(f"data.questions: {path} is in both {before} and {split}; splits must not overlap")
        if len({os.path.realpath(path) for path in paths}) < len(paths):
            raise UserError(f"data.questions.{split} lists a file twice")
