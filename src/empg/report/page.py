"""Write `report.html`: one self-contained page that needs no network and never executes text of a run.

Text of models and environments enters the page in two ways only: through Jinja's autoescape, and as JSON that the
page's script inserts by `textContent`. Control characters in it are shown, not obeyed (`plain_text`). A content
security policy allows only the page's own scripts, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from empg import __version__
from empg.errors import UserError, message_of
from empg.record.durable import write_file
from empg.record.fields import finite
from empg.record.records import Record, TrainRecord, train_records
from empg.record.runfolder import RunFolder
from empg.report.before_after import outcomes
from empg.report.curves import charts
from empg.report.markup import embed_json, shown
from empg.report.stepview import step_view

_ASSETS = Path(__file__).parent / "assets"
_NUMBER = re.compile(r"[0-9][0-9.,]*")


def build_page(run: RunFolder) -> Path:
    """Write the run's `report.html` from its files, atomically. It also works during training.

    Raises:
        UserError: metrics.jsonl is damaged, or the page cannot be written.
    """
    write_file(run.report, render_page(run))
    return run.report


def render_page(run: RunFolder) -> str:
    """Return the HTML of the page."""
    records, problems = run.read_metrics_and_problems()
    train = train_records(records)
    begun = next((r for r in records if r["kind"] == "run"), {})
    recipe_text, recipe = _recipe(run, problems)
    drawn, steps = charts(records, recipe), step_view(run)
    assets = _assets()
    # `empg evaluate --model` trains nothing, and so writes neither of these records.
    policy = recipe.get("policy")
    model = policy.get("model") if isinstance(policy, dict) else None
    evaluated = str(model) if model and not begun and not train else ""
    html: str = _template("page.html.j2").render(
        name=recipe.get("name") or run.path.name,
        evaluated=evaluated,
        version=__version__,
        status=_status(train, recipe.get("iterations")),
        facts=_facts(begun, train, run),
        command=begun.get("command", ""),
        outcomes=outcomes(run, records, recipe),
        alarms=_alarms(train),
        trained=bool(train),
        problems=problems,
        charts=drawn,
        steps=steps,
        recipe=recipe_text,
        assets=assets,
        policy=_policy(assets),
        data=embed_json({"charts": [asdict(chart) for chart in drawn], "steps": steps}),
    )
    return html


def render_charts(title: str, drawn: Sequence[Mapping[str, Any]]) -> str:
    """Return the HTML of a page with charts only, given as plain data."""
    assets = _assets()
    data = embed_json({"charts": drawn, "steps": []})
    html: str = _template("charts.html.j2").render(
        title=title, charts=drawn, assets=assets, policy=_policy(assets), data=data
    )
    return html


def _recipe(run: RunFolder, problems: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the recipe's text and its content; for a damaged recipe, the page shows the problem."""
    text, recipe = "", {}
    try:
        text = run.recipe_text()
        recipe = run.recipe_values(text)
    except UserError as error:
        problems.append(f"recipe.yaml cannot be read: {message_of(error)}")
    return text, recipe


# --- content ------------------------------------------------------------------------------------------


def _status(train: Sequence[TrainRecord], planned: Any) -> str:
    done = train[-1]["iteration"] if train else 0
    if not isinstance(planned, int):
        return f"{done} iterations"
    return f"finished, {done} iterations" if done >= planned else f"iteration {done} of {planned}"


def _facts(begun: Record, train: Sequence[TrainRecord], run: RunFolder) -> list[tuple[str, str]]:
    def total(key: str) -> float:
        return sum(finite(r.get(key)) or 0 for r in train)

    facts = [
        ("seed", begun.get("seed")),
        ("started", str(begun.get("started", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("empg", begun.get("version")),
        ("commit", begun.get("commit")),
        ("python", begun.get("python")),
        ("torch", begun.get("torch")),
        ("processor", begun.get("processor")),
        ("gpu", begun.get("gpu")),
        ("training episodes", f"{total('rollout/episodes'):,.0f}" if train else ""),
        ("tokens written", _large(total("tokens/sampled")) if train else ""),
        ("dropped steps", f"{total('guard/dropped_steps'):,.0f}" if total("guard/dropped_steps") else ""),
        ("training time", _duration(total("time/total")) if train else ""),
        ("folder", run.path.absolute().name),
    ]
    return [(label, str(value)) for label, value in facts if value not in (None, "")]


@dataclass(frozen=True)
class _Alarm:
    text: str  # of the last time it was raised
    when: str


def _alarms(train: Sequence[TrainRecord]) -> list[_Alarm]:
    """Return one line per kind of alarm. The kind is the text before the colon, without numbers."""
    raised: dict[str, list[tuple[int, str]]] = {}
    for record in train:
        for text in record.get("alarms") or ():
            raised.setdefault(_NUMBER.sub("", str(text).split(":")[0]), []).append((record["iteration"], str(text)))
    return [_Alarm(times[-1][1], _when([iteration for iteration, _ in times])) for times in raised.values()]


def _when(iterations: Sequence[int]) -> str:
    if len(iterations) == 1:
        return f"iteration {iterations[0]}"
    return f"{len(iterations)} iterations, {iterations[0]} to {iterations[-1]}"


# --- numbers as text -------------------------------------------------------------------------------------------


def _percent(share: float, unit: bool = True) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + ("%" if unit else "")


def _points(share: float) -> str:
    text = f"{abs(100 * share):.1f}".removesuffix(".0")
    return text if text == "0" else ("+" if share > 0 else "\u2212") + text


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _large(count: float) -> str:
    """Return a count with three digits: 999,999 is 1 M."""
    rounded = float(f"{count:.3g}")
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g} {name}"
    return f"{count:.0f}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


# --- assets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Assets:
    style: Markup
    scripts: tuple[Markup, ...]


@lru_cache(maxsize=1)
def _assets() -> _Assets:
    """Return the styles and scripts of the page: our own files and the vendored library."""
    plots = _ASSETS / "uplot"
    licence = (plots / "LICENSE").read_text(encoding="utf-8")
    style = (plots / "uPlot.min.css").read_text(encoding="utf-8") + (_ASSETS / "page.css").read_text(encoding="utf-8")
    scripts = (
        f"/* uPlot\n{licence}*/\n" + (plots / "uPlot.iife.min.js").read_text(encoding="utf-8"),
        (_ASSETS / "charts.js").read_text(encoding="utf-8"),
        (_ASSETS / "steps.js").read_text(encoding="utf-8"),
    )
    return _Assets(Markup(style), tuple(Markup(script) for script in scripts))


def _policy(assets: _Assets) -> str:
    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = " ".join(hashed(script) for script in assets.scripts)
    style = hashed(assets.style)
    return f"default-src 'none'; style-src {style}; script-src {scripts}; base-uri 'none'; form-action 'none'"


def _template(name: str) -> Any:
    filters: Mapping[str, Any] = {"percent": _percent, "points": _points, "p_value": _p_value}
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=shown)
    environment.filters.update(filters)
    return environment.from_string((_ASSETS / name).read_text(encoding="utf-8"))
