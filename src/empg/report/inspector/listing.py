"""The list of episodes: filters, sorting and pages, all of them in the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlencode

import pyarrow.compute as pc

from empg.plain_text import visible
from empg.record.fields import finite
from empg.report.inspector.library import InspectedRun
from empg.report.turns import Row

PAGE = 50  # episodes on one page
_MAX_QUERY = 200  # characters of a search
_SEARCHED = ("task", "task_id", "observation", "text", "thought", "action")

SORTS: dict[str, tuple[str, Callable[[Row], float]]] = {
    "newest": ("latest iteration", lambda e: e["iteration"]),
    "largest": ("largest |A|", lambda e: _or_least(e["largest"])),
    "spread": ("spread of A", lambda e: _or_least(e["spread"])),
    "entropy": ("entropy", lambda e: _or_least(e["entropy"])),
    "length": ("number of steps", lambda e: e["turns"]),
    "invalid": ("invalid turns", lambda e: e["invalid_turns"]),
}
"""Orders of the list by name: what the page calls them, and the value that sorts, the largest first."""


@dataclass(frozen=True)
class Query:
    """What the address of a list asks for; an empty field does not filter.

    A field of a filter has a value of `choices` as the files have it, control characters included.
    """

    run: str = ""
    iteration: str = ""
    split: str = ""
    type: str = ""
    outcome: str = ""  # won, lost
    end: str = ""
    invalid: str = ""  # some, none
    q: str = ""
    sort: str = "newest"
    order: str = "down"
    page: int = 1

    @classmethod
    def of(cls, given: Mapping[str, str], offered: Mapping[str, Sequence[str]]) -> Query:
        """Read the parameters of an address; what is malformed, or not one of `choices`, counts as empty.

        A form sends a choice as the page shows it (`visible`), so choices are compared as they are shown.
        """
        asked = {name: visible(given.get(name, "")) for name in offered}
        filters = {name: next((v for v in offered[name] if visible(v) == asked[name]), "") for name in offered}
        sort, page = given.get("sort", ""), given.get("page", "1")
        number = int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 7 else 1
        return cls(
            **filters,
            q=given.get("q", "")[:_MAX_QUERY],
            sort=sort if sort in SORTS else "newest",
            order="up" if given.get("order") == "up" else "down",
            page=max(1, number),
        )

    def address(self, **changes: object) -> str:
        """Return the address of this list with some fields changed."""
        fields = {**asdict(self), **changes}
        return "/?" + urlencode({name: value for name, value in fields.items() if value != _DEFAULTS[name]})


_DEFAULTS = asdict(Query())


def choices(runs: int, episodes: Sequence[Row]) -> dict[str, list[str]]:
    """Return the values that the filters of a list of some runs offer."""
    columns = {"split": "split", "type": "task_type", "end": "end"}
    found = {name: sorted({e[column] or "" for e in episodes} - {""}) for name, column in columns.items()}
    iterations = [str(i) for i in sorted({e["iteration"] for e in episodes}, reverse=True)]
    fixed = {"run": [str(n) for n in range(runs)], "outcome": ["won", "lost"], "invalid": ["some", "none"]}
    return {**fixed, **found, "iteration": iterations}


def select(runs: Sequence[InspectedRun], episodes: Sequence[Row], query: Query) -> list[Row]:
    """Return the episodes that a query asks for, in its order."""
    kept = [e for e in episodes if _matches(e, query)]
    if query.q:
        found = {(run.number, *place) for run in runs for place in _search(run, kept, query.q)}
        kept = [e for e in kept if (e["run"], e["iteration"], e["episode"]) in found]
    key = SORTS[query.sort][1]
    return sorted(kept, key=key, reverse=query.order == "down")


def _matches(episode: Row, query: Query) -> bool:
    wanted = (
        (query.run, str(episode["run"])),
        (query.iteration, str(episode["iteration"])),
        (query.split, episode["split"]),
        (query.type, episode["task_type"]),
        (query.outcome, "won" if episode["success"] else "lost"),
        (query.end, episode["end"]),
        (query.invalid, "some" if episode["invalid_turns"] else "none"),
    )
    return all(not asked or asked == value for asked, value in wanted)


def _search(run: InspectedRun, kept: Sequence[Row], words: str) -> set[tuple[int, int]]:
    """Return (iteration, episode) of the episodes in which a text occurs, whatever its case."""
    found: set[tuple[int, int]] = set()
    for iteration in sorted({e["iteration"] for e in kept if e["run"] == run.number}):
        steps = run.steps(iteration)
        hit = None
        for name in _SEARCHED:
            column = pc.fill_null(pc.match_substring(steps[name], words, ignore_case=True), False)
            hit = column if hit is None else pc.or_(hit, column)
        found |= {(iteration, episode) for episode in steps.filter(hit)["episode"].to_pylist()}
    return found


def _or_least(value: float | None) -> float:
    number = finite(value)
    return float("-inf") if number is None else number
