"""The results as Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import empg

MARKS = "<!-- rl_iteration: begin -->", "<!-- rl_iteration: end -->"
PHASES = ("rollout", "score", "update")


def machine(threads: int) -> dict[str, str]:
    """Return what the figures hold for: processor, date, commit of the measured package, versions, threads."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    names = ("torch", "transformers", "trl")
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name.lower() in names}
    folder = Path(empg.__file__).parent
    git = ["git", "-C", str(folder)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True).stdout.strip()
    return {
        "processor": f"{cpu.partition(':')[2].strip()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
        "commit": (commit or "unknown") + (" with changes" if changed else ""),
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{name} {installed[name]}" for name in names if name in installed),
            ]
        ),
        "threads": str(threads),
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the tables of all parts that were measured."""
    about = results["machine"]
    threads = "1 thread" if about["threads"] == "1" else f"{about['threads']} threads"
    lines = [f"{about['processor']} ({threads}), {about['date']}, commit {about['commit']}; {about['versions']}."]
    for part, render in {"rollout": _rollout, "update": _update, "decode": _decode}.items():
        if part in results:
            lines += ["", *render(results[part])]
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page.

    Raises:
        ValueError: the page does not have the marks.
    """
    old = page.read_text(encoding="utf-8")
    begin, end = MARKS
    if not 0 <= old.find(begin) < old.find(end):
        raise ValueError(f"{page} has no lines {begin} and {end}: add them where the tables belong")
    page.write_text(f"{old.partition(begin)[0]}{begin}\n{text}\n{end}{old.partition(end)[2]}", encoding="utf-8")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return minimum, median and maximum."""
    numbers = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{number:,.{digits}f}" for number in numbers)


def _rollout(part: dict[str, Any]) -> Iterator[str]:
    runs = {name: steps[1:] for name, steps in part["runs"].items()}
    yield "One iteration: play, credit, update."
    yield ""
    yield from _header(runs)
    for clock in ("cpu", "wall"):
        yield from _times(runs, clock, PHASES)
    yield _row("tokens written", [spread([run["written"] for run in steps], 0) for steps in runs.values()], "")
    yield from _memory(part["runs"])
    if "identical_episodes" in part:
        yield ""
        yield f"{part['identical_episodes']:.1%} of the episodes have the same tokens on both sides."


def _update(part: dict[str, Any]) -> Iterator[str]:
    runs = {name: steps[1:] for name, steps in part["runs"].items() if name != "bare"}
    tokens = part["tokens"]
    yield (
        f"Credit and update of the same {tokens['rows']} episodes: {tokens['total']:,} tokens, of which "
        f"{tokens['written']:,} are trained on; the longest episode has {tokens['longest']}."
    )
    yield ""
    yield from _header(runs)
    for clock in ("cpu", "wall"):
        yield from _times(runs, clock, PHASES[1:])
    yield from _memory(part["runs"])
    yield ""
    if "agreement" in part:
        found = part["agreement"]
        yield (
            f"Difference of the first step: loss {found['loss']:.1e}, advantages {found['advantage']:.1e} (largest), "
            f"gradient {found['gradient']:.1e} of its norm {found['gradient_norm']:.2g}."
        )
        yield ""
    ours = statistics.median(run["cpu"]["update"] for run in runs["empg"])
    bare = [run["cpu"]["update"] for run in part["runs"]["bare"][1:]]
    yield "| reference of the update | processor s | empg reaches |"
    yield "|---|---|---|"
    yield (
        f"| forward and backward of transformers on the same padded rows | {spread(bare)} | "
        f"{statistics.median(bare) / ours:.0%} |"
    )
    yield (
        f"| {part['flops'] / 1e9:,.0f} GFLOP of matrix products at {part['machine_flops'] / 1e9:.0f} GFLOP/s | "
        f"{part['floor_seconds']:.2f} | {part['floor_seconds'] / ours:.0%} |"
    )


def _decode(part: dict[str, Any]) -> Iterator[str]:
    shortest, longest = part["contexts"]
    yield f"Decoding alone: {part['slots']} slots, contexts of {shortest} to {longest} tokens."
    yield ""
    yield "| decoder | tokens per processor second: min / median / max |"
    yield "|---|---|"
    for name, rates in part["tokens_per_second"].items():
        yield f"| {name if name == 'empg' else f'transformers, {name}'} | {spread(rates, 0)} |"
    yield ""
    ours = statistics.median(part["tokens_per_second"]["empg"])
    limits = part["floor_tokens_per_second"]
    yield "| reference of a decoding step | tokens per second | empg reaches |"
    yield "|---|---|---|"
    yield (
        f"| {part['bytes_per_step'] / 1e6:,.0f} MB of keys, values and weights at "
        f"{part['machine_bandwidth'] / 1e9:.1f} GB/s | {limits['memory']:,.0f} | {ours / limits['memory']:.0%} |"
    )
    yield (
        f"| {part['flops_per_step'] / 1e9:.2f} GFLOP of matrix products at "
        f"{part['machine_flops'] / 1e9:.0f} GFLOP/s | {limits['matrix products']:,.0f} | "
        f"{ours / limits['matrix products']:.0%} |"
    )


def _header(runs: dict[str, Any]) -> Iterator[str]:
    yield _row("min / median / max", ["empg", "TRL"][: len(runs)], "TRL : empg" if len(runs) > 1 else "")
    yield "|---" * (2 + len(runs)) + "|"


def _times(runs: dict[str, Any], clock: str, phases: Sequence[str]) -> Iterator[str]:
    unit = {"cpu": "processor s", "wall": "wall s"}[clock]
    for name in (*phases, "total") if clock == "cpu" else ("total",):
        chosen = phases if name == "total" else [name]
        seconds = {side: [sum(run[clock][p] for p in chosen) for run in steps] for side, steps in runs.items()}
        medians = [statistics.median(values) for values in seconds.values()]
        times = medians[1] / medians[0] if len(medians) > 1 else None
        ratio = "" if times is None else f"{times:.{2 if times < 10 else 0}f}"
        digits = 3 if max(medians) < 1 or name == "score" else 2
        yield _row(f"{name}, {unit}", [spread(values, digits) for values in seconds.values()], ratio)


def _memory(all_runs: dict[str, Any]) -> Iterator[str]:
    sides = [steps for name, steps in all_runs.items() if name != "bare"]
    yield _row("peak memory (VmHWM), MiB", [f"{steps[-1]['peak_rss']:,.0f}" for steps in sides], "")
    after = [" ".join(f"{run['rss']:.0f}" for run in steps) for steps in sides]
    yield _row("memory after each iteration, MiB", after, "")


def _row(name: str, cells: Sequence[str], ratio: str) -> str:
    return "| " + " | ".join([name, *cells, ratio]) + " |"
