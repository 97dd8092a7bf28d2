"""Measure a large catalogue that is indexed once and then memory-mapped: time, memory, disk and search speed.

python benchmarks/webshop_catalogue.py --products 1000000 [--folder DIR]

Each part runs in its own process, so that memory is measured separately. `own` memory is the cost of a further worker
process. `mapped` memory is pages of mapped files, which all processes share and the system may drop.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MB = 1e6


def index(products: int, folder: Path) -> None:
    from empg.environments.webshop.catalogue import write_catalogue
    from empg.environments.webshop.generator import generate

    begun, spent = time.perf_counter(), time.process_time()
    write_catalogue(generate(products), folder, generated=True)
    taken = f"{time.perf_counter() - begun:8.1f} s ({time.process_time() - spent:.1f} s of processor)"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MB
    print(f"generate and index   {taken}   peak {peak:,.0f} MB   disk {disk:,.0f} MB")


def use(folder: Path) -> None:
    from empg.environments.webshop import WebShopEnv

    def memory() -> str:
        info = psutil.Process().memory_info()
        return f"own {(info.rss - info.shared) / MB:,.0f} MB   mapped {info.shared / MB:,.0f} MB"

    print(f"package imported                  {memory()}")
    begun = time.perf_counter()
    environment = WebShopEnv(data=folder)
    environment.reset(options={"task": 0})
    print(f"open, first reset    {1000 * (time.perf_counter() - begun):8.1f} ms  {memory()}")
    print(f"                     {len(environment.shop.catalogue):,} products, {environment.num_tasks:,} train goals")
    rng = random.Random(0)
    for name, words in (("search, whole wishes", 99), ("search, three words", 3)):
        times, spent = [], 0.0
        for _ in range(100):
            task = environment.shop.goal("synthetic", rng.randrange(environment.num_tasks))
            wish = [*" ".join(task.attributes).split(), *task.query.split(), *(v for _, v in task.options)]
            begun, used = time.perf_counter(), time.process_time()
            environment.shop.catalogue.index.find(" ".join(wish[:words]))
            times.append(1000 * (time.perf_counter() - begun))
            spent += 10 * (time.process_time() - used)  # milliseconds per search
        worst = statistics.quantiles(times, n=20)[-1]
        mean = f"{spent:.1f} ms of processor on average"
        print(f"{name:20} {statistics.median(times):8.1f} ms  (95% within {worst:.1f} ms; {mean})")
    begun, steps, won, episodes = time.perf_counter(), 0, 0, 20
    for _ in range(episodes):
        observation, info = environment.reset(options={"task": rng.randrange(environment.num_tasks)})
        expert = environment.expert()
        ended = False
        while not ended:
            decision = expert.act(observation, info)
            observation, _, terminated, truncated, info = environment.step(decision["action"])
            ended, steps = terminated or truncated, steps + 1
        won += info["won"]
    rate = steps / (time.perf_counter() - begun)
    print(f"expert               {rate:8,.0f} steps/s   solved {won} of {episodes}")
    print(f"after all episodes                {memory()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="folder to keep the catalogue in, or of an existing one")
    parser.add_argument("--part", choices=("index", "use"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "index":
        index(arguments.products, arguments.folder)
    elif arguments.part == "use":
        use(arguments.folder)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.folder or Path(scratch) / "catalogue"
            parts = ["use"] if (folder / "catalogue.json").is_file() else ["index", "use"]
            for part in parts:
                command = [sys.executable, __file__, "--products", str(arguments.products)]
                subprocess.run([*command, "--folder", str(folder), "--part", part], check=True)


if __name__ == "__main__":
    main()
