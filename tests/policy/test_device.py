"""Devices: one for each worker, and an error for one that cannot compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from empg.errors import UserError
from empg.policy import device
from empg.policy.device import claim_device, computes_bfloat16, gpu_name, resolve_device


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(
        UserError, match=r"^policy\.device=meta: torch cannot compute on this device \(.*\)\. Set it to"
    ):
        resolve_device("meta")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


class TestDevicesOfWorkers:
    @pytest.fixture(autouse=True)
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """A machine with two CUDA devices; the list has those that were made the current one."""
        current: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        return current

    def test_each_worker_has_its_own(self, gpus: list[int]) -> None:
        for rank in (0, 1):
            claim_device("auto", rank, 2)
        assert gpus == [0, 1]

    def test_it_is_chosen_before_anything_is_computed(self, gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        computed_on: list[int] = []

        def resolve(name: str) -> torch.device:
            computed_on.append(gpus[-1])
            return torch.device(name)

        monkeypatch.setattr(device, "resolve_device", resolve)
        claim_device("cuda", 1, 2)
        assert computed_on == [1]

    def test_more_workers_than_devices_are_refused(self, gpus: list[int]) -> None:
        with pytest.raises(
            UserError,
            match=r"^workers: expected at most 2, one per CUDA device, got 3\. Set workers=2, or policy\.device=cpu$",
        ):
            claim_device("auto", 0, 3)
        assert gpus == []

    def test_one_device_is_not_shared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(device, "resolve_device", torch.device)
        for name in ("cuda:1", "mps"):
            with pytest.raises(
                UserError, match=rf"^policy\.device={name} is one device for 2 workers\. Set it to cuda"
            ):
                claim_device(name, 0, 2)
            claim_device(name, 0, 1)

    def test_workers_share_a_processor(self, gpus: list[int]) -> None:
        claim_device("cpu", 3, 4)
        assert gpus == []


def test_a_run_on_a_gpu_is_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda of: f"GPU {of.index or 0}")
    assert [gpu_name(name) for name in ("cuda", "cuda:1", "cpu", "mps")] == ["GPU 0", "GPU 1", "", ""]


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="asks Linux what the processor can do")
def test_bfloat16_is_for_processors_that_multiply_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert computes_bfloat16(torch.device("cpu")) == bool({"avx512_bf16", "amx_tile"} & {*flags})
