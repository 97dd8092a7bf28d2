"""An expert that follows a question's gold chain by real searches, and thinks aloud in a line.

It knows what to look for and on which page it stands, but it searches, opens and reads as the agent must: a value
counts as known once the page that states it was shown. Of a page that cannot be found it says nothing. Its thought says
what is known and what is sought next, so that a small model, which copies over short distances far better than it
remembers, finds the next query's words in what it has just read or written.
"""

from __future__ import annotations

from collections.abc import Callable

from empg.environments.base import Decision, Info
from empg.environments.deepsearch.actions import folded, open_command
from empg.environments.deepsearch.world import Document, Hop, Question, State

_TRIES = 3  # by the query, by the title, and by opening the title unseen; then the hop is given up
_PATIENCE = 10  # turns for one hop, those that slipped among them


class SearchingExpert:
    """Plays one episode.

    Args:
        question: with its chain.
        look: gives the present state.
        opens: pages are to be opened; else a search shows them whole.
    """

    def __init__(self, question: Question, look: Callable[[], State], *, opens: bool) -> None:
        self._question, self._look, self._opens = question, look, opens
        self._hops = question.hops
        # In a chain each value leads to the next, and no other is needed again; of branches all are compared at last.
        pairs = zip(self._hops, self._hops[1:], strict=False)
        self._chain = all(hop.value.casefold() in following.query.casefold() for hop, following in pairs)
        self._known: list[Hop] = []  # whose pages were read
        self._past = 0  # hops that were read, or given up
        self._tried = 0  # ways to find the present hop
        self._turns = 0  # spent on it

    def act(self, observation: str, info: Info) -> Decision:
        """The next thought and command."""
        while self._past < len(self._hops):
            hop = self._hops[self._past]
            if self._reads(hop):
                self._known.append(hop)
            elif self._turns < _PATIENCE and (self._tried < _TRIES or self._listed(hop) is not None):
                self._turns += 1
                return self._seek(hop)
            self._past, self._tried, self._turns = self._past + 1, 0, 0
        if not self._hops and not self._look().steps:
            question = self._question.text
            return Decision(thought="Search the question.", action=_search(question))
        return self._answer(self._question.answers[0])

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Answer with the last that was found, though more is to be looked up: a chain's value, one of the branches."""
        if not self._known or self._past == len(self._hops):
            return None
        last = self._known[-1]
        answer = last.value if self._chain else last.title
        return self._answer(answer) if answer else None

    def _answer(self, answer: str) -> Decision:
        return Decision(thought=f"{self._facts()}Answer {answer}.", action=f"answer[{answer}]")

    def _seek(self, hop: Hop) -> Decision:
        """Open the page of a hop if it is listed; else search for it, in other words each time."""
        aim = f"{self._facts()}Find {hop.query}."
        listed = self._listed(hop) if self._tried else None  # what an earlier hop's search listed is far away by now
        if listed is not None and self._opens:
            return Decision(thought=aim, action=open_command(listed))
        self._tried += 1
        if self._tried == _TRIES and self._opens and hop.title:
            return Decision(thought=aim, action=f"open[{hop.title}]")
        return Decision(thought=aim, action=_search(hop.title if self._tried == 2 and hop.title else hop.query))

    def _facts(self) -> str:
        """What the next step needs: of a chain the last fact, as a page might say it; of branches all, and of whom."""
        if self._chain:
            return "".join(f"{hop.fact or f'{hop.query}: {hop.value}.'} " for hop in self._known[-1:] if hop.value)
        return "".join(f"{hop.query}: {hop.value}. " for hop in self._known if hop.value)

    def _reads(self, hop: Hop) -> bool:
        """Whether the last observation shows the page of a hop."""
        if not self._opens:
            return self._listed(hop) is not None
        page = self._look().page
        return page is not None and folded(page.title) == folded(hop.title)

    def _listed(self, hop: Hop) -> Document | None:
        return next((d for d in self._look().listed if folded(d.title) == folded(hop.title)), None)


def _search(query: str) -> str:
    return f"search[{query}]"
