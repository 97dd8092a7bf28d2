"""One iteration of reinforcement learning with empg and with TRL, doing the same work.

    python -m benchmarks.rl_iteration                    # 15 minutes; TRL needs: pip install "trl==1.16.*"
    python -m benchmarks.rl_iteration --only update

The demo's policy learns household tasks: 8 groups of 8 episodes, one epoch, float32. Both sides start from the same
weights and play the same tasks with the same random numbers, which gives the same episodes. Both modulate the
advantages with EMPG. TRL runs its own `GRPOTrainer`, with a `rollout_func` that keeps the KV cache between turns. Each
side has a process of its own, and the sides alternate.

To measure another checkout, put its `src` on PYTHONPATH and use the same `--folder`, which keeps policy and episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

PARTS = ("rollout", "update", "decode")
TOLERANCE = 1e-4  # of the gradient's norm; float32 differs by about 1e-6


def main() -> None:
    """Measure, print the tables, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each side (default 5)")
    parser.add_argument("--only", choices=[*PARTS, "all"], default="all", help="rollout: whole iterations, with play")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process (default 1)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/rl_iteration"), help="keeps the policy and the fixed episodes"
    )
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--write", type=Path, help="page whose tables between the marks are replaced")
    parser.add_argument("--small", action="store_true", help="test that the script runs; the figures mean nothing")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(options.threads), TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", PYTHONWARNINGS="ignore::FutureWarning")

    # After the number of threads is set, and not in the children, which import what they need.
    from benchmarks.rl_iteration import parts, table
    from benchmarks.rl_iteration.setting import Setting

    folder = options.folder / ("small" if options.small else "full")
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(folder=folder, small=options.small, threads=options.threads)
    setting.prepare()
    if not parts.has_trl():
        print('TRL is not installed, so only empg is measured: pip install "trl==1.16.*"', file=sys.stderr)
    results: dict[str, Any] = {"machine": table.machine(options.threads)}
    for part in PARTS if options.only == "all" else [options.only]:
        results[part] = parts.PARTS[part](setting, options.runs)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    text = table.markdown(results)
    print(text)
    if options.write:
        table.write(options.write, text)
    apart = results.get("update", {}).get("agreement", {}).get("gradient", 0.0)
    if apart > TOLERANCE:
        sys.exit(f"the gradients differ by {apart:.1e} of their norm: the two learners did different work")


if __name__ == "__main__":
    main()
