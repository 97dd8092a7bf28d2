"""The search expert: it follows a question's gold chain with real searches and gives a one-line thought per action.

It has access to the queries and pages of the chain, but it searches, opens and reads like the agent: a value counts as
found only after an observation showed it. It reads a long page part by part until the value was shown, or to the end
if the data names no value. If a passage lacks the value, it looks for another one with the same title. It skips a hop
without such a page. If it has not read what the answer follows from, it gives up: it answers with what it has found. It
does so at once if a passage was cut before the value, because all later turns would state facts that it did not read.
Its thoughts state the found facts and the next target. A small model copies over short distances far better than it
remembers, so it finds the words of the next query in the text it has just read or written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from empg.environments.base import Decision, Info
from empg.environments.deepsearch.actions import NEXT, folded, label, open_command, page_names, parse_command
from empg.environments.deepsearch.question_records import VERDICTS, states
from empg.environments.deepsearch.world import Document, Hop, Question, State

_MAX_TURNS = 10  # turns per hop, including corrupted ones
_UNKNOWN = "unknown"  # the answer if nothing was found
_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class _Attempt:
    """What was done to find and read the page of one hop."""

    ways: int = 0  # number of ways tried to find it
    turns: int = 0
    in_vain: bool = False  # whether a page that lacks the value was read


class SearchingExpert:
    """Plays one episode.

    Args:
        question: a question with a non-empty gold chain.
        look: returns the current state.
        opens: whether pages must be opened; otherwise a search shows them whole.
    """

    satisfied = False  # an answer ends the episode

    def __init__(self, question: Question, look: Callable[[], State], *, opens: bool) -> None:
        self._question, self._look, self._opens = question, look, opens
        self._hops = question.hops
        # In a chain, each value occurs in the next query and is not needed again. Branches are compared at the end.
        pairs = zip(self._hops, self._hops[1:], strict=False)
        self._chain = all(hop.value and hop.value.casefold() in following.query.casefold() for hop, following in pairs)
        self._read_hops: list[Hop] = []  # hops whose pages were read
        self._stated = ""  # the correct answer that a page stated, if one did
        self._cut_off = False  # whether no more of a page was shown before the value
        self._skipped = False  # whether no page with the value of a hop was found
        self._parts: dict[Document, dict[int, str]] = {}  # the parts of pages that were shown
        self._passages: list[str] = []  # passages in the last observation with results
        self._past = 0  # number of hops that were read or skipped
        self._attempt = _Attempt()  # at the current hop

    def act(self, observation: str, info: Info) -> Decision:
        """Return the next thought and command."""
        if not self._opens and self._look().listed and observation.startswith("Doc 1("):
            self._passages = observation.split("\n")
        if (page := self._look().page) is not None and (reading := self._look().reading) is not None:
            self._parts.setdefault(page, {})[reading.part] = reading.text
        while self._past < len(self._hops) and not self._cut_off:
            hop = self._hops[self._past]
            if (step := self._step(hop)) is not None:
                self._attempt.turns += 1
                return step
            self._past, self._attempt = self._past + 1, _Attempt()
        known = (self._stated or self._question.answers[0]) if self._knows() else ""
        return self._answer(next(filter(self._sayable, (known, self._found())), _UNKNOWN))

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Answer early with the last found value of a chain, or with the last read branch of a comparison."""
        if self._cut_off or self._past == len(self._hops):
            return None
        answer = self._found()
        return self._answer(answer) if self._sayable(answer) else None

    def _knows(self) -> bool:
        """Return whether the answer follows from what was read.

        In a chain it does if a page stated it. Otherwise all hops must have been read; if the data leaves the value of
        one of them open, a page must also have stated the answer, unless that is yes or no.
        """
        if self._cut_off or self._skipped:
            return not self._cut_off and self._chain and bool(self._stated)
        is_judged = all(hop.value for hop in self._hops) or self._question.answers[0].casefold() in VERDICTS
        return is_judged or bool(self._stated)

    def _found(self) -> str:
        """Return the last found value of a chain, or the title of the last read branch."""
        if not self._read_hops:
            return ""
        return self._read_hops[-1].value if self._chain else self._read_hops[-1].title

    def _sayable(self, answer: str) -> bool:
        return bool(answer) and self._valid(_answer(answer))

    def _valid(self, action: str) -> bool:
        """Return whether the environment accepts a command: where pages are opened, its length is limited."""
        return parse_command(action, any_text=not self._opens) is not None

    def _answer(self, answer: str) -> Decision:
        return Decision(thought=f"{self._facts()}Answer {answer}.", action=_answer(answer))

    def _step(self, hop: Hop) -> Decision | None:
        """Return the next turn towards the value of a hop, or None if the hop was read, skipped or cut off."""
        aim = f"{self._facts()}Find {hop.query}."
        if (shown := self._shown(hop)) is not None:
            text, whole = shown
            if states(text, hop.value):
                self._read(hop, hop.value, self._question.answers[0])
                return None
            if not whole and self._opens and self._attempt.turns < _MAX_TURNS:
                return Decision(thought=aim, action=NEXT)
            if not whole:
                self._cut_off = True
                return None
            answer = next((answer for answer in self._question.answers if states(text, answer)), "")
            if not hop.value or (answer and self._is_asked(hop)) or _states_date(text, hop.value):
                self._read(hop, "", answer)
                return None
            self._attempt.in_vain = True
        action = self._seek(hop) if self._attempt.turns < _MAX_TURNS else None
        self._skipped |= action is None
        return None if action is None else Decision(thought=aim, action=action)

    def _read(self, hop: Hop, value: str, answer: str) -> None:
        """Count a hop as read. `value` is empty if the page has it in other words; `answer` is what the page states."""
        self._read_hops.append(replace(hop, value=value))
        if not hop.value or hop == self._hops[-1]:
            self._stated = answer or self._stated

    def _is_asked(self, hop: Hop) -> bool:
        """Return whether the value of a hop is the answer to the question, in the words of the data."""
        last = hop == self._hops[-1]
        return last and (self._chain or folded(hop.value) in map(folded, self._question.answers))

    def _seek(self, hop: Hop) -> str | None:
        """Return a command that opens the page of a hop if it is listed, else one that may find it, else None.

        The ways to find a page are a search for the query, a search for the title, and to open the title. If the query
        is the title, the question is searched instead. A title that was read in vain is not opened again.
        """
        again = hop.title if folded(hop.title) != folded(hop.query) else self._question.text
        ways = [_search(hop.query), _search(again or hop.query)]
        if not self._attempt.in_vain:
            ways.append(f"open[{hop.title}]" if self._opens and hop.title else _search(hop.query))
        ways = [action for action in ways if self._valid(action)]
        # Before the first search of a hop, the results on the page are those of an earlier one.
        listed = self._listed(hop) if self._attempt.ways or not ways else None
        if listed is not None and self._opens:
            return open_command(listed[1])
        self._attempt.ways += 1
        return ways[self._attempt.ways - 1] if self._attempt.ways <= len(ways) else None

    def _facts(self) -> str:
        """Return the facts that the next step needs: the last fact of a chain, or the facts of all read branches."""
        if self._chain:
            return "".join(f"{hop.fact or f'{hop.query}: {hop.value}.'} " for hop in self._read_hops[-1:] if hop.value)
        return "".join(f"{hop.query}: {hop.value}. " for hop in self._read_hops if hop.value)

    def _shown(self, hop: Hop) -> tuple[str, bool] | None:
        """Return what was shown of the page of a hop, and whether that is all of it; None if it is not shown now."""
        state, listed = self._look(), self._listed(hop)
        if not self._opens:
            if listed is None:
                return None
            passage = " ".join(self._passages[state.listed.index(listed[0])].split())
            return passage, " ".join(listed[0].text.split()) in passage
        if state.page is None or state.reading is None or folded(state.page.title) != folded(hop.title):
            return None
        parts = self._parts[state.page]
        text = " ".join(parts[number] for number in sorted(parts))
        return f"{label(state.page.title)}: {text}", len(parts) == state.reading.parts

    def _listed(self, hop: Hop) -> tuple[Document, str] | None:
        """Return the passage of a hop in the results and its name; of several, preferably the one with the value."""
        listed = self._look().listed
        found = [
            pair for pair in zip(listed, page_names(listed), strict=True) if folded(pair[0].title) == folded(hop.title)
        ]
        first = found[0] if found and not self._attempt.in_vain else None
        return next((pair for pair in found if states(pair[0].text, hop.value)), first)


def _search(query: str) -> str:
    return f"search[{query}]"


def _answer(text: str) -> str:
    return f"answer[{text}]"


def _states_date(text: str, value: str) -> bool:
    """Return whether a text has all words of a date or another value with digits: "May 12, 1962" for "12 May 1962"."""
    words = set(_WORD.findall(value.casefold()))
    return any(map(str.isdigit, words)) and words <= set(_WORD.findall(text.casefold()))
