"""The shop as a local web site: the same engine with HTML pages. Finished sessions are recorded as episodes.

Every session has its own environment. A GET request renders a page from its state. A button sends the same command
that an agent would send (POST) and then redirects the browser to the page, so reloading never repeats a command.
"""

from __future__ import annotations

import random
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from empg.environments.base import Decision
from empg.environments.webshop import recording
from empg.environments.webshop.episode import ShopEpisode
from empg.environments.webshop.pages import BACK, BUY, NEXT, PREVIOUS, SUB_PAGES
from empg.environments.webshop.recording import Recording
from empg.environments.webshop.shop import squeeze
from empg.environments.webshop.world import Page
from empg.web.serving import BodyTooLargeError, read_body, serve_app, web_app

SESSIONS_KEPT = 1_000  # the least recently used session is dropped first
MAX_FORM, MAX_FIELDS = 10_000, 20  # bytes; fields (no form of this site has as many)
MAX_QUERY = 400  # characters; less than the longest command that the shop accepts
UNWRITTEN_KEPT = 1_000  # episodes kept in memory while the recordings file cannot be written
_NO_BRACKETS = str.maketrans("[]", "  ")
_HOST = "127.0.0.1"
_HEADERS = {
    # Product text is escaped. If escaping ever fails, this policy keeps it from running, loading or sending anything.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(slots=True)
class Session:
    """One visitor's episode."""

    environment: ShopEpisode
    task: int
    turns: list[Decision] = field(default_factory=list)
    notice: str = ""
    ended: str = ""  # why the episode ended; empty while it runs


class Site:
    """The application's state: its shop, its sessions, and the file of finished episodes.

    Every visible button must work, so the shop uses the rule `reach_bracketed_values`.
    """

    def __init__(self, environment: ShopEpisode, record_to: Path | None) -> None:
        if record_to is not None:
            recording.require_writable(record_to)
        self._environment, self._record_to = environment.with_reachable_values(), record_to
        self._unwritten: deque[Recording] = deque(maxlen=UNWRITTEN_KEPT)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        loader = PackageLoader("empg.environments.webshop", "templates")
        self._templates = Environment(loader=loader, autoescape=select_autoescape(["html"]), trim_blocks=True)
        self._templates.globals |= {"MAX_QUERY": MAX_QUERY}
        self._templates.globals |= {"BACK": BACK, "BUY": BUY, "NEXT": NEXT, "PREVIOUS": PREVIOUS, "SUBS": SUB_PAGES}

    # ---- pages -----------------------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """Show the page where a task is chosen."""
        return self._page("home.html", split=self._environment.split, tasks=self._environment.num_tasks)

    async def start(self, request: Request) -> Response:
        """Start an episode with the task in the form, or with a random one if the field is empty."""
        form = await _form(request)
        named = form.get("task", "").strip()
        tasks = self._environment.num_tasks
        if named and not (named.isascii() and named.isdigit() and len(named) < 10 and int(named) < tasks):
            return self._page("home.html", 400, split=self._environment.split, tasks=tasks, notice=_unknown_task(tasks))
        task = int(named) if named else random.randrange(tasks)
        environment = self._environment.clone()
        environment.reset(options={"task": task})
        key = secrets.token_urlsafe(12)
        self._sessions[key] = Session(environment, task)
        while len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)
        return RedirectResponse(f"/s/{key}", 303)

    async def show(self, request: Request) -> Response:
        """Show the current page of a session."""
        key = request.path_params["key"]
        session = self._find(key)
        if session is None:
            return self._page("home.html", 404, split=self._environment.split, tasks=self._environment.num_tasks,
                              notice="This session has ended. Start a new one.")  # fmt: skip
        environment, notice = session.environment, session.notice
        session.notice = ""
        shop, state, goal = environment.shop, environment.state, environment.goal
        about: dict[str, Any] = {"key": key, "goal": goal, "state": state, "notice": notice, "ended": session.ended}
        if state.page is Page.RESULTS:
            about["results"] = shop.results(state, goal)
        elif state.page in (Page.ITEM, Page.SUB, Page.DONE):
            about["product"] = shop.product(state)
        if state.page is Page.DONE:
            about["score"] = shop.score(state, goal)
        left = environment.max_steps - state.steps
        return self._page(f"{state.page.value}.html", **about, left=left, turns=session.turns)

    async def act(self, request: Request) -> Response:
        """Apply one command, in the form in which an agent sends it."""
        key = request.path_params["key"]
        session = self._find(key)
        if session is None:
            return RedirectResponse("/", 303)
        form = await _form(request)
        # A bracket would end the command. Search ignores brackets anyway.
        query = squeeze(form.get("query", "").translate(_NO_BRACKETS))
        action = f"search[{query}]" if query else squeeze(form.get("action", ""))
        if not session.ended and len(query) > MAX_QUERY:
            session.notice = f"The search is too long: enter at most {MAX_QUERY} characters."
        elif not session.ended and action:
            self._step(session, action)
        return RedirectResponse(f"/s/{key}", 303)

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def _step(self, session: Session, action: str) -> None:
        environment = session.environment
        _, _, bought, out_of_steps, info = environment.step(action)
        session.turns.append(Decision(thought="", action=action))
        if not info["valid"]:
            is_search = action.startswith("search[")
            session.notice = "This is not a valid search." if is_search else "This button is no longer on the page."
        if bought or out_of_steps:
            session.ended = "bought" if bought else "out of steps"
            self._record(session)

    def _record(self, session: Session) -> None:
        """Append the episode to the file. If that fails, show a notice and retry with the next episode."""
        if self._record_to is None:
            return
        self._unwritten.append(recording.record(session.environment, session.task, session.turns))
        try:
            recording.append(self._record_to, self._unwritten)
        except OSError as error:
            session.notice = f"This episode is not recorded yet: {error.strerror or error}."
        else:
            self._unwritten.clear()

    def _find(self, key: str) -> Session | None:
        session = self._sessions.get(key)
        if session is not None:
            self._sessions.move_to_end(key)
        return session

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(values), status, _HEADERS)


def make_app(environment: ShopEpisode, record_to: Path | None = None) -> Starlette:
    """Create the web application of a shop. Finished episodes are appended to the file `record_to` (`recording.py`).

    Raises:
        UserError: `record_to` is not writable.
    """
    site = Site(environment, record_to)
    routes = [
        Route("/", site.home),
        Route("/start", site.start, methods=["POST"]),
        Route("/s/{key}", site.show),
        Route("/s/{key}/act", site.act, methods=["POST"]),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
    ]
    return web_app(routes, _HOST, {_BadForm: _refuse})


def serve(
    environment: ShopEpisode,
    port: int = 8000,
    record_to: Path | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a shop on this machine (127.0.0.1) until Ctrl-C.

    Args:
        environment: the environment whose shop, split and rules are served.
        port: 0 picks any free port.
        record_to: file to which finished episodes are appended.
        ready: receives the address as soon as the server accepts connections.

    Raises:
        UserError: the port is in use, or `record_to` is not writable.
    """
    serve_app(make_app(environment, record_to), _HOST, port, ready)


class _BadForm(Exception):
    """A form that no page of this site sends; `args` are the response text and the status code."""


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form. If a name occurs several times, the last value is used."""
    try:
        body = await read_body(request, MAX_FORM)
    except BodyTooLargeError:
        raise _BadForm("The form is too long.", 413) from None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)
    except ValueError:
        raise _BadForm("The form has too many fields.", 400) from None
    return {name: values[-1] for name, values in fields.items()}


async def _refuse(request: Request, error: Exception) -> Response:
    text, status = error.args
    return PlainTextResponse(text, status, _HEADERS)


def _unknown_task(tasks: int) -> str:
    return f"Unknown task: enter a number from 0 to {tasks - 1}."
