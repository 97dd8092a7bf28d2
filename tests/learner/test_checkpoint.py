"""Checkpoints: complete or not at all, and never a pickle."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from empg.learner.checkpoint import CheckpointError, Checkpoints, DivergedError, checkpoint_name
from empg.learner.update import make_optimizer
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import LoraSection, OptimizerSection, PolicySection


def one_step(policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    policy.logits(policy.hidden(ids)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_training_resumes_bit_for_bit_from_a_checkpoint(policy: Policy, tmp_path: Path) -> None:
    optimizer = make_optimizer(policy, OptimizerSection(lr=1e-2))
    one_step(policy, optimizer)
    Checkpoints(tmp_path).save("iter-000001", policy, optimizer, {"iteration": 1})
    one_step(policy, optimizer)

    again = load_policy(PolicySection(model=str(tmp_path / "iter-000001"), device="cpu"))
    optimizer_again = make_optimizer(again, OptimizerSection(lr=1e-2))
    assert Checkpoints(tmp_path).load("iter-000001", again, optimizer_again) == {"iteration": 1}
    one_step(again, optimizer_again)
    for ours, theirs in zip(policy.parameters, again.parameters, strict=True):
        assert torch.equal(ours, theirs)


def test_no_file_is_a_pickle(policy: Policy, tmp_path: Path) -> None:
    optimizer = make_optimizer(policy, OptimizerSection())
    one_step(policy, optimizer)
    folder = Checkpoints(tmp_path).save("iter-000001", policy, optimizer, {})
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_old_checkpoints_are_removed_and_the_start_is_kept(policy: Policy, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for name in ("start", "iter-000000", "iter-000001", "iter-000002"):
        checkpoints.save(name, policy, None, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["iter-000001", "iter-000002", "start"]


def test_names_are_in_the_order_of_their_numbers(policy: Policy, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in (999_998, 999_999, 1_000_000):
        checkpoints.save(checkpoint_name(iteration), policy, None, {"iteration": iteration})
    assert checkpoints.names() == ["iter-999999", "iter-1000000"]
    assert checkpoints.newest_intact() == ("iter-1000000", [])


def test_weights_that_are_not_finite_are_never_written_and_remove_nothing(policy: Policy, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    with torch.no_grad():
        policy.parameters[0][0, 0] = torch.nan
    with pytest.raises(DivergedError, match=r"not finite in checkpoint .*iter-000002: they are not saved\. Lower opt"):
        checkpoints.save("iter-000002", policy, None, {"iteration": 2})
    assert [entry.name for entry in tmp_path.iterdir()] == ["iter-000001"]


def test_a_checkpoint_that_cannot_be_written_again_is_still_there(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.save(checkpoint_name(number), policy, None, {"iteration": number})

    def full(partial: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("empg.learner.checkpoint.settle", full)
    with pytest.raises(CheckpointError, match="No space left on device; the previous checkpoint is unchanged"):
        checkpoints.save("iter-000001", policy, None, {"iteration": 7})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["iter-000001", "iter-000002"]
    assert checkpoints.verify("iter-000001") == {"iteration": 1}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and cannot be read")
def test_a_disk_that_cannot_read_a_file_names_it(policy: Policy, tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path).save("iter-000001", policy, None, {})
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match=r"iter-000001: .*config\.json: Input/output error"):
        Checkpoints(tmp_path).verify("iter-000001")


def test_a_checkpoint_is_written_again_and_what_was_left_unfinished_is_removed(policy: Policy, tmp_path: Path) -> None:
    """What a killed process left is removed, and so are later checkpoints, which would otherwise outlive newer ones."""
    checkpoints = Checkpoints(tmp_path)
    for iteration in (1, 2, 1):
        checkpoints.save(checkpoint_name(iteration), policy, None, {"iteration": iteration})
    for left in (".iter-000003.77.partial", ".iter-000003.77.replaced"):
        (tmp_path / left).mkdir()
    checkpoints.remove_after(1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["iter-000001"]


def test_a_copy_is_checked(policy: Policy, tmp_path: Path) -> None:
    Checkpoints(tmp_path / "a").save("iter-000001", policy, None, {"iteration": 1})
    copies = Checkpoints(tmp_path / "b")
    copies.copy("iter-000001", tmp_path / "a" / "iter-000001")
    assert copies.verify("iter-000001") == {"iteration": 1}
    (tmp_path / "a" / "iter-000001" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        copies.copy("start", tmp_path / "a" / "iter-000001")
    with pytest.raises(CheckpointError, match="cannot copy checkpoint"):
        copies.copy("start", tmp_path / "a" / "none")
    assert [entry.name for entry in copies.folder.iterdir()] == ["iter-000001"]


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


def test_the_copy_of_a_read_only_checkpoint_can_be_changed(policy: Policy, tmp_path: Path) -> None:
    """A run may be forked from somebody else's, or from an archive."""
    template = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = {"default": template, "tools": template}  # the latter is in a subfolder
    source = Checkpoints(tmp_path / "a").save("iter-000001", policy, None, {"iteration": 1})
    for path in (source, *source.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copies = Checkpoints(tmp_path / "b")
    copies.copy("iter-000001", source)
    copy = copies.folder / "iter-000001"
    folders = [copy, *(path for path in copy.rglob("*") if path.is_dir())]
    assert len(folders) == 2
    assert all(path.stat().st_mode & 0o200 for path in (*folders, *copy.rglob("*")))
    assert copies.verify("iter-000001") == {"iteration": 1}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_a_checkpoint_depends_on_the_umask_alone(
    policy: Policy, tmp_path: Path, umask: int, mode: int
) -> None:
    optimizer = make_optimizer(policy, OptimizerSection())
    one_step(policy, optimizer)
    before = os.umask(umask)
    try:
        saved = Checkpoints(tmp_path).save("iter-000001", policy, optimizer, {"iteration": 1})
    finally:
        os.umask(before)
    assert modes(saved) == {mode}


def test_a_folder_that_cannot_be_read_is_named(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoints(tmp_path).save("iter-000001", policy, None, {"iteration": 1})

    def refused(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    for method in ("iterdir", "is_dir"):
        monkeypatch.setattr(Path, method, refused)
        with pytest.raises(CheckpointError, match=rf"^cannot read {tmp_path}: Permission denied$"):
            Checkpoints(tmp_path).newest_intact()


def test_the_space_of_what_is_kept(policy: Policy, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for name in ("start", "iter-000001", "iter-000002", "iter-000003"):
        checkpoints.save(name, policy, None, {"iteration": 1})

    def size(*names: str) -> int:
        return sum(file.stat().st_size for name in names for file in (tmp_path / name).iterdir())

    assert Checkpoints(tmp_path, keep=2).kept_bytes() == size("start", "iter-000002", "iter-000003") > 0
    (tmp_path / "start").rename(tmp_path.parent / "start")
    (tmp_path / "start").symlink_to(tmp_path.parent / "start")
    assert Checkpoints(tmp_path, keep=1).kept_bytes() == size("iter-000003")
    assert Checkpoints(tmp_path / "none").kept_bytes() == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(policy: Policy, tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    for name in ("iter-000001", "iter-000002"):
        checkpoints.save(name, policy, None, {"iteration": int(name[-1])})
    weights = tmp_path / "iter-000002" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "remove":
        weights.unlink()
    else:
        content[len(content) // 2] ^= 1
        weights.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"iter-000002.*model\.safetensors"):
        checkpoints.load("iter-000002", policy, None)
    intact, problems = checkpoints.newest_intact()
    assert intact == "iter-000001"
    assert "iter-000002" in problems[0]
    assert checkpoints.load("iter-000001", policy, None) == {"iteration": 1}


def test_a_full_disk_is_one_clear_error_and_keeps_the_previous_checkpoint(policy: Policy, tmp_path: Path) -> None:
    """A real full disk: /dev/full answers every write as one does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    save = policy.tokenizer.save_pretrained

    def onto_a_full_disk(folder: Path) -> None:
        save(folder)
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    policy.tokenizer.save_pretrained = onto_a_full_disk
    with pytest.raises(CheckpointError, match="No space left on device; the previous checkpoint is unchanged"):
        checkpoints.save("iter-000002", policy, None, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["iter-000001"]
    assert checkpoints.verify("iter-000001") == {"iteration": 1}


# A file longer than the given number of bytes does not fit: the tokenizer (15 kB), or the weights (115 kB).
FULL = """
import json, resource, sys
from pathlib import Path
from empg.learner.checkpoint import CheckpointError, Checkpoints, DivergedError, checkpoint_name
from empg.learner.update import make_optimizer
from empg.policy.load import load_policy
from empg.recipe import OptimizerSection, PolicySection

policy = load_policy(PolicySection(model=sys.argv[1], device="cpu"))
optimizer = make_optimizer(policy, OptimizerSection())
policy.logits(policy.hidden(policy.model.dummy_inputs["input_ids"])).square().mean().backward()
optimizer.step()
checkpoints = Checkpoints(Path(sys.argv[2]))
checkpoints.save("iter-000001", policy, None, {"iteration": 1})
if sys.argv[3] == "tokenizer":
    policy.model.save_pretrained = lambda *args, **more: None
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    checkpoints.save("iter-000002", policy, optimizer, {"iteration": 2})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize(("what", "limit"), [("weights", 20_000), ("tokenizer", 5_000), ("optimizer", 150_000)])
def test_a_file_that_does_not_fit_is_reported_like_any_other(
    policy: Policy, tmp_path: Path, what: str, limit: int
) -> None:
    """Libraries in Rust have their own classes of errors for it; a limit of a process is as good as a full disk."""
    policy.save(tmp_path / "model")
    command = [sys.executable, "-c", FULL, str(tmp_path / "model"), str(tmp_path / "run"), what, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.endswith("iter-000002: File too large; the previous checkpoint is unchanged\n")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["iter-000001"]
    assert Checkpoints(tmp_path / "run").verify("iter-000001") == {"iteration": 1}


@pytest.mark.parametrize("content", ["null", "{}", "[]", '{"model.safetensors": "0"}'])
def test_checksums_that_list_no_file_are_damaged(policy: Policy, tmp_path: Path, content: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    (tmp_path / "iter-000001" / "checksums.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"iter-000001: checksums\.json is damaged"):
        checkpoints.verify("iter-000001")
    assert checkpoints.newest_intact()[0] is None


def test_a_tokenizer_with_several_chat_templates(policy: Policy, tmp_path: Path) -> None:
    """transformers keeps the further ones in a folder of their own."""
    template = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = {"default": template, "tools": template + " "}
    checkpoints = Checkpoints(tmp_path)
    saved = checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    further = saved / "additional_chat_templates" / "tools.jinja"
    assert checkpoints.verify("iter-000001") == {"iteration": 1}
    further.write_text("other")
    with pytest.raises(CheckpointError, match=r"additional_chat_templates/tools\.jinja is damaged"):
        checkpoints.verify("iter-000001")


def test_lora_trains_and_saves_the_adapter_alone(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "base")
    section = PolicySection(model=str(tmp_path / "base"), device="cpu", lora=LoraSection(r=2, alpha=4))
    adapted = load_policy(section)
    base = {name: p.clone() for name, p in adapted.model.named_parameters() if not p.requires_grad}
    optimizer = make_optimizer(adapted, OptimizerSection(lr=1e-2))
    one_step(adapted, optimizer)
    one_step(adapted, optimizer)
    assert all(torch.equal(p, base[name]) for name, p in adapted.model.named_parameters() if not p.requires_grad)
    folder = Checkpoints(tmp_path / "run").save("iter-000001", adapted, optimizer, {})
    assert (folder / "adapter_model.safetensors").stat().st_size < (tmp_path / "base/model.safetensors").stat().st_size

    again = load_policy(section)
    Checkpoints(tmp_path / "run").load("iter-000001", again, None)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again.logits(again.hidden(ids)), adapted.logits(adapted.hidden(ids)))


def test_an_old_checkpoint_that_cannot_be_removed_is_a_warning_and_no_longer_a_checkpoint(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On NFS, a file that another process reads stays under another name until it is closed."""
    remove = shutil.rmtree

    def in_use(path: Path, ignore_errors: bool = False) -> None:
        if "iter-000001" in path.name:
            (path / "config.json").unlink()
            raise OSError(errno.EBUSY, "Device or resource busy", ".nfs0000000001")
        remove(path, ignore_errors=ignore_errors)

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    monkeypatch.setattr(shutil, "rmtree", in_use)
    checkpoints.save("iter-000002", policy, None, {"iteration": 2})
    [left] = tmp_path.glob(".iter-000001.*.replaced")
    said = f"cannot remove old checkpoint {left}: .nfs0000000001: Device or resource busy; continuing"
    assert capsys.readouterr().err.splitlines() == [said]
    assert checkpoints.names() == ["iter-000002"]
    (left / "config.json").touch()
    checkpoints.remove_after(2)  # a resume tries again, and continues
    assert capsys.readouterr().err.splitlines() == [said]
    monkeypatch.setattr(shutil, "rmtree", remove)  # the file is closed
    checkpoints.remove_after(2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["iter-000002"]


def test_a_checkpoint_that_was_moved_to_another_disk_is_not_removed_there(policy: Policy, tmp_path: Path) -> None:
    checkpoints, elsewhere = Checkpoints(tmp_path / "run", keep=1), tmp_path / "elsewhere"
    old = checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    old.rename(elsewhere)
    old.symlink_to(elsewhere)
    checkpoints.save("iter-000002", policy, None, {"iteration": 2})
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["iter-000002"]
    assert (elsewhere / "model.safetensors").is_file()


def test_a_file_that_is_named_like_a_checkpoint_is_removed_like_one(policy: Policy, tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, 1, said.append)
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    (tmp_path / "iter-000002").touch()
    checkpoints.remove_after(1)
    (tmp_path / "iter-000000").touch()
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    assert (said, [entry.name for entry in tmp_path.iterdir()]) == ([], ["iter-000001"])


def test_a_later_checkpoint_that_cannot_be_removed_is_reported_once(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, 2, said.append)
    for iteration in (1, 2):
        checkpoints.save(checkpoint_name(iteration), policy, None, {"iteration": iteration})

    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refused)
    checkpoints.remove_after(1)
    assert checkpoints.names() == ["iter-000001"]
    assert len(said) == 1


def test_a_checkpoint_that_cannot_even_be_renamed(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, 1, said.append)
    checkpoints.save("iter-000001", policy, None, {"iteration": 1})
    monkeypatch.setattr(time, "time_ns", lambda: 7)
    (tmp_path / ".iter-000001.7.replaced").touch()
    checkpoints.save("iter-000002", policy, None, {"iteration": 2})
    named = f"{tmp_path / 'iter-000001'}: iter-000001: Not a directory"
    assert said == [f"cannot remove old checkpoint {named}; continuing"]
    (tmp_path / ".iter-000002.7.replaced").touch()
    later = f"^cannot remove later checkpoint {tmp_path / 'iter-000002'}: iter-000002: Not a directory. Remove it, and"
    with pytest.raises(CheckpointError, match=later):
        checkpoints.remove_after(1)
