"""The search expert: it follows a question's gold chain with real searches and gives a one-line thought per action.

It has access to the queries and pages of the chain, but it searches, opens and reads like the agent: a value counts as
found only after an observation showed it. It reads a long page part by part until the value was shown. It skips a page
that it cannot find. If it has not read what the answer follows from, it gives up: it answers with what it has found. It
does so at once if a passage was cut before the value, because all later turns would state facts that it did not read.
Its thoughts state the found facts and the next target. A small model copies over short distances far better than it
remembers, so it finds the words of the next query in the text it has just read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from empg.environments.base import Decision, Info
from empg.environments.deepsearch.actions import NEXT, folded, label, open_command, page_names
from empg.environments.deepsearch.world import Document, Hop, Question, State

_TRIES = 3  # search for the query, search for the title, open the title directly; then the hop is skipped
_MAX_TURNS = 10  # turns per hop, including corrupted ones
_UNKNOWN = "unknown"  # the answer if nothing was found


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
        self._chain = all(hop.value.casefold() in following.query.casefold() for hop, following in pairs)
        self._read_hops: list[Hop] = []  # hops whose pages were read
        self._cut_off = False  # whether no more of a page was shown before the value
        self._skipped = False  # whether the page of a hop was not found
        self._parts: dict[Document, dict[int, str]] = {}  # the parts of pages that were shown
        self._passages: list[str] = []  # passages in the last observation with results
        self._past = 0  # number of hops that were read or skipped
        self._tried = 0  # number of ways tried to find the current hop
        self._turns = 0  # number of turns spent on the current hop

    def act(self, observation: str, info: Info) -> Decision:
        """Return the next thought and command."""
        if not self._opens and self._look().listed and observation.startswith("Doc 1("):
            self._passages = observation.split("\n")
        if (page := self._look().page) is not None and (reading := self._look().reading) is not None:
            self._parts.setdefault(page, {})[reading.part] = reading.text
        while self._past < len(self._hops) and not self._cut_off:
            hop = self._hops[self._past]
            if (step := self._step(hop)) is not None:
                self._turns += 1
                return step
            self._past, self._tried, self._turns = self._past + 1, 0, 0
        return self._answer(self._question.answers[0] if self._knows() else self._found() or _UNKNOWN)

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Answer early with the last found value of a chain, or with the last read branch of a comparison."""
        if self._cut_off or self._past == len(self._hops):
            return None
        answer = self._found()
        return self._answer(answer) if answer else None

    def _knows(self) -> bool:
        """Return whether the answer follows from what was read: from all hops, or from the last hop of a chain."""
        last = self._hops[-1]
        read_last = self._chain and bool(last.value) and self._read_hops[-1:] == [last]
        return not self._cut_off and (not self._skipped or read_last)

    def _found(self) -> str:
        """Return the last found value of a chain, or the title of the last read branch."""
        if not self._read_hops:
            return ""
        return self._read_hops[-1].value if self._chain else self._read_hops[-1].title

    def _answer(self, answer: str) -> Decision:
        return Decision(thought=f"{self._facts()}Answer {answer}.", action=f"answer[{answer}]")

    def _step(self, hop: Hop) -> Decision | None:
        """Return the next turn towards the value of a hop, or None if the hop was read, skipped or cut off."""
        shown = self._shown(hop)
        if shown is None:
            if self._turns < _MAX_TURNS and (self._tried < _TRIES or self._listed(hop) is not None):
                return self._seek(hop)
            self._skipped = True
            return None
        text, whole = shown
        if hop.value.casefold() in text.casefold():
            self._read_hops.append(hop)
        elif whole:  # the page states the value in other words
            self._read_hops.append(replace(hop, value=""))
        elif self._opens and self._turns < _MAX_TURNS:
            return Decision(thought=f"{self._facts()}Find {hop.query}.", action=NEXT)
        else:
            self._cut_off = True
        return None

    def _seek(self, hop: Hop) -> Decision:
        """Open the page of a hop if it is listed; otherwise search for it, with different words each time."""
        aim = f"{self._facts()}Find {hop.query}."
        listed = self._listed(hop) if self._tried else None  # ignores results of an earlier hop's search
        if listed is not None and self._opens:
            return Decision(thought=aim, action=open_command(listed[1]))
        self._tried += 1
        if self._tried == _TRIES and self._opens and hop.title:
            return Decision(thought=aim, action=f"open[{hop.title}]")
        return Decision(thought=aim, action=_search(hop.title if self._tried == 2 and hop.title else hop.query))

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
        value = hop.value.casefold()
        return next((pair for pair in found if value in pair[0].text.casefold()), found[0] if found else None)


def _search(query: str) -> str:
    return f"search[{query}]"
