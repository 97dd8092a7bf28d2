"""The device that a policy computes on, and the kernels that it uses there."""

from __future__ import annotations

import torch

from empg.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device; `auto` is the first CUDA device if available, else the CPU.

    Raises:
        UserError: torch cannot compute on this device here. `meta`, for example, has no numbers.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        (torch.ones(1, device=device, dtype=torch.float64) + 1).item()  # sampling adds up in float64
    except Exception as error:  # each backend raises another class
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"policy.device={name}: torch cannot compute on this device ({said:.200}). Set it to auto, cpu or cuda"
        ) from None
    return device


def gpu_name(name: str) -> str:
    """Return the name of the GPU that `resolve_device` returns, as its driver gives it; empty on a CPU."""
    device = resolve_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def claim_device(name: str, rank: int, workers: int) -> None:
    """Make sure that each worker has a device of its own, and let `cuda` mean that of worker `rank` in this process.

    Raises:
        UserError: there are fewer devices than workers.
    """
    if workers > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        if workers > (count := torch.cuda.device_count()):
            raise UserError(
                f"workers: expected at most {count}, one per CUDA device, got {workers}. "
                f"Set workers={count}, or policy.device=cpu"
            )
        torch.cuda.set_device(rank)  # before anything is computed, which would take memory of the first device
    device = resolve_device(name)
    if workers > 1 and device.type != "cpu" and (device.type != "cuda" or device.index is not None):
        raise UserError(f"policy.device={name} is one device for {workers} workers. Set it to cuda, or set workers=1")


def choose_kernels(device: torch.device, *, autocast: bool) -> None:
    """Choose the kernels that this process uses on a GPU.

    cuDNN's attention prepares itself for each shape, and most shapes of passes never repeat, so it is switched off.
    Under autocast, float32 products are computed on tensor cores with 11 bits of each factor. These are the products of
    the logits. Their hidden states come from bfloat16, which has fewer bits, so only the weights of the head and the
    gradients of the logits are rounded.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.matmul.fp32_precision = "tf32" if autocast else "ieee"


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the processor multiplies bfloat16 in hardware. Emulation is ten times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(supported)
