"""The inspector's web application: pages rendered on the server, from the files of the runs.

Texts of models and environments enter pages through Jinja's autoescape or as JSON in a data block. The content security
policy of every page allows only this application's own files: no inline script or style, no other site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from empg.record.fields import finite
from empg.record.records import own_evaluations, train_records
from empg.record.runfolder import RunFolder
from empg.report.batch import batch_charts, extremes, kinds_of_steps
from empg.report.inspector import listing
from empg.report.inspector.conversation import conversation, credit_inputs
from empg.report.inspector.library import InspectedRun, open_runs
from empg.report.inspector.tree import partings, tree, what_was_done
from empg.report.markup import embed_json, encodable, extent, templates
from empg.report.overlay import MAIN, evaluation_curves, overlay, training_curves_by_type
from empg.report.turns import END_NAMES, Row, end_name
from empg.web.serving import serve_app, web_app

HOST = "127.0.0.1"
MAX_SMOOTH = 1_000  # iterations
_ASSETS = Path(__file__).parent.parent / "assets"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Missing(Exception):
    """The address names a run, an iteration or an episode that is not there; `args` says which."""


class Inspector:
    """The application's state: the runs that it shows."""

    def __init__(self, folders: Sequence[RunFolder]) -> None:
        self._runs = open_runs(folders)
        self._templates = templates("assets/inspector")
        self._templates.filters |= {
            "plain": _plain,
            "signed": _signed,
            "extent": _extent,
            "percent": _percent,
            "ending": end_name,
        }
        self._templates.globals["runs"] = self._runs

    # ---- pages -----------------------------------------------------------------------------------------------------

    def episodes(self, request: Request) -> Response:
        """List episodes."""
        known = [e for run in self._runs for e in run.episodes()]
        choices = listing.choices(len(self._runs), known)
        query = listing.Query.of(request.query_params, choices)
        found = listing.select(self._runs, known, query)
        pages = max(1, -(-len(found) // listing.PAGE))
        page = min(query.page, pages)
        part = found[(page - 1) * listing.PAGE : page * listing.PAGE]
        return self._page(
            "episodes.html.j2", query=query, episodes=part, found=len(found), total=len(known), page=page, pages=pages,
            choices=choices, sorts=listing.SORTS, end_names=END_NAMES,
        )  # fmt: skip

    def episode(self, request: Request) -> Response:
        """Show one episode."""
        run, iteration = self._run(request), _whole(request, "iteration")
        turns = self._found(run, iteration, "episode", _whole(request, "episode"))[0]
        episodes = run.turns(iteration)
        first = turns[0]
        same = [
            e for other in self._runs for e in other.episodes()
            if e["task_id"] == first["task_id"] and e["split"] == first["split"]
            and (e["run"], e["iteration"], e["episode"]) != (run.number, iteration, first["episode"])
        ]  # fmt: skip
        numbers = [t[0]["episode"] for t in episodes]
        place = numbers.index(first["episode"])
        return self._page(
            "episode.html.j2", run=run, first=first, turns=conversation(run, turns), same=same,
            before=numbers[place - 1] if place else None, after=(numbers[place + 1 :] or [None])[0],
            data=embed_json(credit_inputs(run, episodes)),
        )  # fmt: skip

    def batch(self, request: Request) -> Response:
        """Show all steps of an iteration."""
        run = self._run(request)
        iterations = run.iterations()
        iteration = _whole(request, "iteration", iterations[-1] if iterations else 0)
        episodes = run.turns(iteration)
        steps = [step for turns in episodes for step in turns]
        link = f"/episode?run={run.number}&iteration={iteration}&episode={{episode}}#step-{{turn}}"
        charts = batch_charts(steps, link)
        groups = {turns[0]["group"]: turns[0] for turns in episodes}
        return self._page(
            "batch.html.j2", run=run, iteration=iteration, iterations=iterations, charts=charts, groups=groups,
            steps=steps, extremes=extremes(steps), kinds=kinds_of_steps(steps), link=link,
            data=embed_json({"charts": [asdict(chart) for chart in charts]}),
            credit=embed_json(credit_inputs(run, episodes)),
        )  # fmt: skip

    def group(self, request: Request) -> Response:
        """Show the episodes of one group as a tree."""
        run, iteration, group = self._run(request), _whole(request, "iteration"), _whole(request, "group")
        episodes = self._found(run, iteration, "group", group)
        root = tree(episodes)
        return self._page(
            "group.html.j2", run=run, iteration=iteration, group=group, episodes=episodes, root=root,
            partings=partings(root),
        )  # fmt: skip

    def compare(self, request: Request) -> Response:
        """Show two episodes beside each other."""
        sides: list[dict[str, Any]] = []
        for name in ("a", "b"):
            place = request.query_params.get(name, "").split(".")
            if len(place) != 3 or not all(_is_whole(part) for part in place):
                raise _Missing(f"{name}: expected RUN.ITERATION.EPISODE, as in a=0.1.5")
            number, iteration, episode = map(int, place)
            run = self._numbered(number)
            turns = self._found(run, iteration, "episode", episode)[0]
            sides.append({"run": run, "first": turns[0], "steps": turns, "turns": conversation(run, turns)})
        did = [[(turn["observation"], what_was_done(turn)) for turn in side["steps"]] for side in sides]
        common = next((i for i, (a, b) in enumerate(zip(*did, strict=False)) if a != b), min(map(len, did)))
        return self._page("compare.html.j2", sides=sides, length=max(map(len, did)), common=common)

    def curves(self, request: Request) -> Response:
        """Show the curves of all runs."""
        charts = self._curves(request)
        given = request.query_params
        return self._page(
            "curves.html.j2", charts=charts, data=embed_json({"charts": charts}), smooth=_smooth(request),
            bands=given.get("bands") == "1", everything=given.get("all") == "1", types=given.get("types") == "1",
        )  # fmt: skip

    def curves_json(self, request: Request) -> Response:
        """Return the numbers of the curves, for a page that follows a run."""
        return JSONResponse(encodable(self._curves(request)), headers=_HEADERS)

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def _curves(self, request: Request) -> list[dict[str, Any]]:
        given = request.query_params
        by_type = given.get("types") == "1"
        loaded, first, rest = [], dict.fromkeys(MAIN[:1]), dict.fromkeys(MAIN[1:])
        for run in self._runs:
            records = run.records()
            train, successes = train_records(records), evaluation_curves(own_evaluations(records, run.recipe), by_type)
            if by_type:
                successes += training_curves_by_type(run.episodes())
            first |= dict.fromkeys(name for record in successes for name in record if name != "iteration")
            if given.get("all") == "1":
                rest |= dict.fromkeys(name for record in train for name in record if name.partition("/")[2])
            loaded.append((run.name, run.recipe, [*train, *successes]))
        names = list(first | rest)
        charts = overlay(loaded, names, smooth=_smooth(request), bands=given.get("bands") == "1")
        return [asdict(chart) for chart in charts]

    def _run(self, request: Request) -> InspectedRun:
        return self._numbered(_whole(request, "run", 0))

    def _numbered(self, number: int) -> InspectedRun:
        if number >= len(self._runs):
            raise _Missing(f"run {number}: this inspector shows {len(self._runs)} runs, numbered from 0")
        return self._runs[number]

    @staticmethod
    def _found(run: InspectedRun, iteration: int, key: str, value: int) -> list[list[Row]]:
        """Return the episodes of an iteration with this number; say why there are none, which may be a damaged file."""
        found = [turns for turns in run.turns(iteration) if turns[0][key] == value]
        if not found:
            damaged = run.problems_of(iteration)
            raise _Missing("; ".join(damaged) or f"this iteration has no kept episode of {key} {value}")
        return found

    def _page(self, template: str, **values: Any) -> Response:
        text = self._templates.get_template(template).render(values)
        return HTMLResponse(text.encode("utf-8", "replace"), headers=_HEADERS)


def make_app(folders: Sequence[RunFolder]) -> Starlette:
    """Create the web application for some runs."""
    inspector = Inspector(folders)

    def page(path: str, render: Callable[[Request], Response]) -> Route:
        async def answer(request: Request) -> Response:  # reading files must not hold up other requests
            return await run_in_threadpool(render, request)

        return Route(path, answer)

    routes = [
        page("/", inspector.episodes),
        page("/episode", inspector.episode),
        page("/batch", inspector.batch),
        page("/group", inspector.group),
        page("/compare", inspector.compare),
        page("/curves", inspector.curves),
        page("/curves.json", inspector.curves_json),
        Mount("/static", StaticFiles(directory=_ASSETS)),
    ]
    return web_app(routes, HOST, {_Missing: _missing})


def serve(folders: Sequence[RunFolder], port: int = 8000, ready: Callable[[str], None] | None = None) -> None:
    """Serve the inspector on this machine (127.0.0.1) until Ctrl-C.

    Args:
        folders: the runs.
        port: 0 picks any free port.
        ready: receives the address as soon as the server accepts connections.

    Raises:
        UserError: the port is in use.
    """
    serve_app(make_app(folders), HOST, port, ready)


async def _missing(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"Not found: {error}\n", 404, _HEADERS)


def _whole(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not _is_whole(text):
        raise _Missing(f"{name}: expected a whole number")
    return int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _smooth(request: Request) -> int:
    text = request.query_params.get("smooth", "1")
    return min(MAX_SMOOTH, max(1, int(text))) if _is_whole(text) else 1


def _plain(value: Any) -> str:
    number = finite(value)
    return "–" if number is None else f"{number:.3f}"


def _signed(value: Any) -> str:
    number = finite(value)
    return "–" if number is None else f"{number:+.3f}".replace("-", "\u2212")


def _extent(values: Sequence[Any]) -> str:
    """Return from where to where numbers go, or the one number that all of them are."""
    return " to ".join(dict.fromkeys(map(_signed, extent(values)))) or "–"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
