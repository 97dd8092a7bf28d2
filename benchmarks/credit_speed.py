"""Time of the credit of one update: padded token batches in, token advantages out.

python benchmarks/credit_speed.py
python benchmarks/credit_speed.py --share 1.0 --repeats 50
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from empg.credit import modulate_advantages, step_ids_from_mask

SHAPES = ((256, 1024), (512, 2048), (256, 4096), (1024, 4096))  # rows, tokens per row; the middle two have 1 M tokens
STEPS = 10  # per row


def batch(rows: int, tokens: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages (B,), entropies (B, T) and step ids (B, T); in each turn the agent writes a share of the tokens."""
    rng = torch.Generator().manual_seed(0)
    turn = tokens // STEPS
    written = max(1, round(share * turn))
    step_ids = torch.full((rows, tokens), -1)
    for step in range(STEPS):
        step_ids[:, (step + 1) * turn - written : (step + 1) * turn] = step
    return torch.randn(rows, generator=rng), torch.rand(rows, tokens, generator=rng), step_ids


def milliseconds(work: Callable[[], object], repeats: int, clock: Callable[[], float], device: str) -> str:
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        began = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (clock() - began))
    times = times[1:]
    return f"{min(times):7.1f} {statistics.median(times):7.1f} {max(times):7.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.4, help="share of the tokens that the agent writes")
    parser.add_argument("--repeats", type=int, default=20, help="measured calls per function and shape")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu: for a machine that is shared")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s), {arguments.clock} time in ms")
    print("rows x tokens  agent tokens  function                  min  median     max")
    for rows, tokens in SHAPES:
        advantages, entropies, step_ids = (part.to(arguments.device) for part in batch(rows, tokens, arguments.share))
        mask = step_ids >= 0
        work: dict[str, Callable[[], object]] = {
            "modulate_advantages": lambda: modulate_advantages(advantages, entropies, step_ids),  # noqa: B023
            "step_ids_from_mask": lambda: step_ids_from_mask(mask),  # noqa: B023
        }
        for name, call in work.items():
            times = milliseconds(call, arguments.repeats, clock, arguments.device)
            print(f"{rows:4} x {tokens:4}  {int(mask.sum()):14,}  {name:20} {times}", flush=True)


if __name__ == "__main__":
    main()
