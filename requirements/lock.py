"""Write the lock files of this folder: exact versions with hashes, for Python 3.10 and later on any platform.

    python requirements/lock.py torch==2.13.0

torch and what only torch brings (CUDA libraries, triton) are left out: which build of torch fits depends on the
machine. The Makefile installs it before the lock.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LEFT_OUT = re.compile(r"^(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==", re.MULTILINE)
FILES = {
    "dev.txt": ["--extra", "dev"],
    "textworld.txt": ["--extra", "textworld", "--constraints", "requirements/dev.txt"],
    "trl.txt": ["--extra", "trl", "--constraints", "requirements/dev.txt"],
    "verl.txt": ["--extra", "lora", "--extra", "verl", "--group", "engine-tests"],
    "openenv.txt": ["--extra", "train", "--extra", "openenv", "--group", "openenv-client"],
    "lowest.txt": ["--extra", "dev", "--resolution", "lowest-direct"],
}


def compile_lock(torch: str, options: list[str]) -> str:
    """Return the text of a lock file for the requirements in pyproject.toml."""
    fixed = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10", "--no-python-downloads"]
    command = [sys.executable, "-m", *fixed, "--constraints", "-", *options, "pyproject.toml"]

    def run(*more: str) -> str:
        done = subprocess.run(
            [*command, *more], input=torch, stdout=subprocess.PIPE, text=True, check=True, cwd=FOLDER.parent
        )
        return done.stdout

    everything = run("--no-header", "--no-annotate")
    left_out = [part for name in sorted(set(LEFT_OUT.findall(everything))) for part in ("--no-emit-package", name)]
    return run("--generate-hashes", "--no-annotate", "--custom-compile-command", "make lock", *left_out)


def main() -> None:
    """Write every lock file."""
    for name, options in FILES.items():
        print(f"requirements/{name}", flush=True)
        (FOLDER / name).write_text(compile_lock(sys.argv[1], options), encoding="utf-8")


if __name__ == "__main__":
    main()
