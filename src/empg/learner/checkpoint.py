"""Checkpoints: an ordinary Hugging Face folder plus the state of the trainer, written completely or not at all.

`checkpoints/iter-000010/` contains the model (config, weights, tokenizer), `optimizer.safetensors`, `trainer.json`,
`checksums.json` and, of a run with a critic, `critic.safetensors` (head and optimizer). No file is a pickle. A
checkpoint is written under a temporary name, brought to the disk and renamed, so a run that is killed, or a power
failure, leaves the previous one intact. Weights that are not finite are never written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from empg.errors import UserError, message_of
from empg.learner.critic import Critic
from empg.policy.model import Policy, plain_os_errors
from empg.record.durable import settle, sync
from empg.record.runfolder import START

CRITIC = "critic.safetensors"
_NAME = re.compile(r"iter-(\d{6,})")


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; the message names the folder and says what is wrong."""


class DivergedError(UserError):
    """Training produced weights that are not finite."""


def require_finite(weights: Iterable[Tensor], when: str, key: str = "optimizer.lr") -> None:
    """Raise `DivergedError` if a trained weight is not finite.

    Args:
        weights: the trained weights.
        when: completes the sentence, e.g. `after iteration 3`.
        key: the recipe key of their learning rate.
    """
    if not torch.stack([p.detach().isfinite().all() for p in weights]).all():
        raise DivergedError(f"the weights are not finite {when}: they are not saved. Lower {key}")


def checkpoint_name(iteration: int) -> str:
    """Return the name of the checkpoint after `iteration` iterations."""
    return f"iter-{iteration:06d}"


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The `checkpoints/` folder of a run.

    `keep` is how many of the latest checkpoints of iterations `save` keeps, and `warn` takes a line that says what
    cannot be removed.
    """

    folder: Path
    keep: int = 2
    warn: Callable[[str], object] = _warn

    def save(
        self,
        name: str,
        policy: Policy,
        optimizer: torch.optim.Optimizer | None,
        state: dict[str, Any],
        critic: Critic | None = None,
    ) -> Path:
        """Write a checkpoint and remove those that are no longer kept.

        Raises:
            CheckpointError: it cannot be written (for example, the disk is full); nothing else has changed.
            DivergedError: a weight is not finite; nothing has changed.
        """
        target, partial = self.folder / name, self.folder / f".{name}.{os.getpid()}.partial"
        require_finite(policy.parameters, f"in checkpoint {target}")
        if critic is not None:
            require_finite(critic.head.parameters(), f"of the critic in checkpoint {target}", "credit.critic.lr")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            policy.save(partial)
            if optimizer is not None:
                with plain_os_errors():
                    save_file(_flatten(optimizer, policy.parameters), partial / "optimizer.safetensors")
            if critic is not None:
                with plain_os_errors():
                    save_file(_critic_tensors(critic), partial / CRITIC)
            (partial / "trainer.json").write_text(json.dumps(state, indent=1))
            _share(partial)
            sums = {file.relative_to(partial).as_posix(): _digest(file) for file in _files(partial)}
            (partial / "checksums.json").write_text(json.dumps(sums, indent=1))
            self._place(partial, target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = error.strerror or str(error)
            kept = "; the previous checkpoint is unchanged" if self.names() else ""
            raise CheckpointError(f"cannot write checkpoint {target}: {reason}{kept}") from None
        for old in self.names()[: -self.keep]:
            try:
                self._remove(_hide(self.folder / old))
            except OSError as error:
                self.warn(f"cannot remove old checkpoint {self.folder / old}: {_reason(error)}; continuing")
        return target

    def copy(self, name: str, source: Path) -> None:
        """Copy a checkpoint of another run, and check the copy. A read-only one has a copy that can be changed.

        Raises:
            CheckpointError: it is damaged, or cannot be written.
        """
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True)
            original = source.resolve(strict=True)
            for file in _files(original):
                target = partial / file.relative_to(original)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            self.verify(partial.name)
            self._place(partial, self.folder / name)
        except OSError as error:
            raise CheckpointError(f"cannot copy checkpoint {source}: {_reason(error)}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _place(self, partial: Path, target: Path) -> None:
        """Bring a written checkpoint to the disk, and put it where an older one of its name may be."""
        for path in partial.rglob("*"):
            sync(path)
        replaced = _hide(target) if target.exists() else None
        try:
            settle(partial, target)
        except OSError:
            if replaced is not None:
                replaced.rename(target)
            raise
        if replaced is not None:
            self._remove(replaced)

    def _remove(self, hidden: Path) -> None:
        """Remove what was hidden, as far as possible: on NFS, a file that another process reads remains."""
        try:
            if hidden.is_dir() and not hidden.is_symlink():  # the target of a link is outside the run folder
                shutil.rmtree(hidden)
            else:
                hidden.unlink()
        except OSError as error:
            self.warn(f"cannot remove old checkpoint {hidden}: {_reason(error)}; continuing")

    def names(self) -> list[str]:
        """Return the names of the checkpoints of iterations, oldest first.

        Raises:
            CheckpointError: the folder cannot be read.
        """
        try:
            entries = list(self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            raise CheckpointError(f"cannot read {self.folder}: {error.strerror or error}") from None
        names = (_NAME.fullmatch(entry.name) for entry in entries)
        return [name[0] for name in sorted((n for n in names if n), key=lambda name: int(name[1]))]

    def kept_bytes(self) -> int:
        """Return the bytes of `start` and of the latest `keep` checkpoints; those on another disk, as links, have none.

        Raises:
            CheckpointError: the folder cannot be read.
        """
        folders = [self.folder / name for name in (START, *self.names()[-self.keep :])]
        total = 0
        for file in (file for folder in folders if not folder.is_symlink() for file in _files(folder)):
            with suppress(OSError):  # the run that is training here has just removed it
                total += file.stat().st_size
        return total

    def remove_after(self, iteration: int) -> None:
        """Remove the checkpoints of later iterations, the latest first, and what a killed process left unfinished.

        Raises:
            CheckpointError: a later checkpoint cannot be renamed, which precedes its removal.
        """
        for name in reversed(self.names()):
            if int(name.removeprefix("iter-")) > iteration:
                try:
                    _hide(self.folder / name)
                except OSError as error:
                    raise CheckpointError(
                        f"cannot remove later checkpoint {self.folder / name}: {_reason(error)}. Remove it, and resume"
                    ) from None
        self.remove_left()

    def remove_left(self, name: str = "*") -> None:
        """Remove what killed processes left unfinished, of one checkpoint or of all."""
        for left in self.folder.glob(f".{name}.*"):
            if left.suffix in (".partial", ".replaced"):
                self._remove(left)

    def newest_intact(self) -> tuple[str | None, list[str]]:
        """Return the newest checkpoint whose files are intact, and what is wrong with the newer ones."""
        problems = []
        for name in reversed(self.names()):
            try:
                self.verify(name)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            return name, problems
        return None, problems

    def require(self, name: str) -> None:
        """Raise a CheckpointError that lists the checkpoints, unless `name` is one of them or `start`."""
        if name != START and name not in self.names():
            known = ", ".join((START, *self.names()))
            raise CheckpointError(f"{self.folder.parent} has no checkpoint {name!r:.80}: expected one of {known}")

    def verify(self, name: str) -> dict[str, Any]:
        """Check every file of a checkpoint against its checksum and return the state of the trainer.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        folder = self.folder / name
        try:
            sums = json.loads((folder / "checksums.json").read_text())
            if not isinstance(sums, dict) or "trainer.json" not in sums:
                raise CheckpointError(f"checkpoint {folder}: checksums.json is damaged (it lists no trainer.json)")
            for file, digest in sorted(sums.items()):
                if _digest(folder / file) != digest:
                    raise CheckpointError(f"checkpoint {folder}: {file} is damaged (its checksum differs)")
            return json.loads((folder / "trainer.json").read_text())  # type: ignore[no-any-return]
        except OSError as error:
            raise CheckpointError(f"checkpoint {folder}: {error.filename}: {error.strerror}") from None
        except CheckpointError:
            raise
        except ValueError:
            raise CheckpointError(f"checkpoint {folder}: checksums.json or trainer.json is not valid JSON") from None

    def load(
        self, name: str, policy: Policy, optimizer: torch.optim.Optimizer | None, critic: Critic | None = None
    ) -> dict[str, Any]:
        """Load weights and optimizer states from a checkpoint, verify it first, and return the state of the trainer."""
        state = self.verify(name)
        policy.load_weights(self.folder / name)
        if optimizer is not None:
            _restore(optimizer, policy.parameters, load_file(self._optimizer_file(name)))
        file = self.folder / name / CRITIC
        if critic is not None and file.exists():  # a fork may continue a run that has none
            flat = load_file(file)
            critic.head.load_state_dict({key: flat.pop(key) for key in critic.head.state_dict()})
            _restore(critic.optimizer, list(critic.head.parameters()), flat)
        return state

    def _optimizer_file(self, name: str) -> Path:
        file = self.folder / name / "optimizer.safetensors"
        if not file.is_file():
            raise CheckpointError(
                f"checkpoint {file.parent} has no optimizer state, so another engine trained it: resume the run with "
                f"--engine trl, or start a new one with policy.model={file.parent}"
            )
        return file


def _hide(checkpoint: Path) -> Path:
    """Give a checkpoint a name under which nobody takes it for one, even if it is removed by half; return its path."""
    return checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.{time.time_ns()}.replaced"))


def _share(folder: Path) -> None:
    """Give each file the mode of a new file; safetensors writes files that only their owner may read."""
    mode = (folder / "trainer.json").stat().st_mode & 0o777
    for file in _files(folder):
        if file.stat().st_mode & 0o777 != mode:
            file.chmod(mode)


def _reason(error: OSError) -> str:
    """Return what went wrong, with the name of the file if it is known."""
    said = error.strerror or message_of(error)
    return f"{Path(str(error.filename)).name}: {said}" if error.filename is not None else said


def _critic_tensors(critic: Critic) -> dict[str, Tensor]:
    return {**critic.head.state_dict(), **_flatten(critic.optimizer, list(critic.head.parameters()))}


def _flatten(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    flat = {}
    for index, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            flat[f"{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return flat


def _restore(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], flat: Mapping[str, Tensor]) -> None:
    for name, value in flat.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        # AdamW keeps its step counts on the CPU, its moments on the device of the weights.
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        error.filename = error.filename or str(file)  # a disk that cannot read does not name the file
        raise
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Return every file of a checkpoint; a tokenizer with several chat templates has a subfolder for them."""
    return sorted(file for file in folder.rglob("*") if file.is_file())
