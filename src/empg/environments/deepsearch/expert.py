"""An expert that follows a question's gold chain by real searches, and thinks aloud in a line.

It knows what to look for and on which page it stands, but it searches, opens and reads as the agent must: a value
counts as known once it was shown. Of a page that cannot be found it says nothing; where a page was cut before the value
it ends with what it has, for all that follows would say what it did not read. Its thought says
what is known and what is sought next, so that a small model, which copies over short distances far better than it
remembers, finds the next query's words in what it has just read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from empg.environments.base import Decision, Info
from empg.environments.deepsearch.actions import folded, open_command, page_names
from empg.environments.deepsearch.world import Document, Hop, Question, State

_TRIES = 3  # by the query, by the title, and by opening the title unseen; then the hop is given up
_PATIENCE = 10  # turns for one hop, those that slipped among them
_UNKNOWN = "unknown"  # its answer where it found nothing at all


class SearchingExpert:
    """Plays one episode.

    Args:
        question: with its chain, which is not empty.
        look: gives the present state.
        opens: pages are to be opened; else a search shows them whole.
    """

    satisfied = False  # an answer ends the episode

    def __init__(self, question: Question, look: Callable[[], State], *, opens: bool) -> None:
        self._question, self._look, self._opens = question, look, opens
        self._hops = question.hops
        # In a chain each value leads to the next, and no other is needed again; of branches all are compared at last.
        pairs = zip(self._hops, self._hops[1:], strict=False)
        self._chain = all(hop.value.casefold() in following.query.casefold() for hop, following in pairs)
        self._known: list[Hop] = []  # whose pages were read
        self._cut_off = False  # whether a page was shown without the value that stands on it
        self._passages: list[str] = []  # as the last search that found something showed them
        self._past = 0  # hops that were read, or given up
        self._tried = 0  # ways to find the present hop
        self._turns = 0  # spent on it

    def act(self, observation: str, info: Info) -> Decision:
        """The next thought and command."""
        if not self._opens and self._look().listed and observation.startswith("Doc 1("):
            self._passages = observation.split("\n")
        while self._past < len(self._hops) and not self._cut_off:
            hop = self._hops[self._past]
            shown = self._shown(hop, observation)
            if shown is not None:
                self._read(hop, *shown)
            elif self._turns < _PATIENCE and (self._tried < _TRIES or self._listed(hop) is not None):
                self._turns += 1
                return self._seek(hop)
            self._past, self._tried, self._turns = self._past + 1, 0, 0
        return self._answer((self._found() or _UNKNOWN) if self._cut_off else self._question.answers[0])

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Answer with the last that was found, though more is to be looked up: a chain's value, one of the branches."""
        if self._cut_off or self._past == len(self._hops):
            return None
        answer = self._found()
        return self._answer(answer) if answer else None

    def _found(self) -> str:
        """The last that was found."""
        if not self._known:
            return ""
        return self._known[-1].value if self._chain else self._known[-1].title

    def _answer(self, answer: str) -> Decision:
        return Decision(thought=f"{self._facts()}Answer {answer}.", action=f"answer[{answer}]")

    def _seek(self, hop: Hop) -> Decision:
        """Open the page of a hop if it is listed; else search for it, in other words each time."""
        aim = f"{self._facts()}Find {hop.query}."
        listed = self._listed(hop) if self._tried else None  # what an earlier hop's search listed is far away by now
        if listed is not None and self._opens:
            return Decision(thought=aim, action=open_command(listed[1]))
        self._tried += 1
        if self._tried == _TRIES and self._opens and hop.title:
            return Decision(thought=aim, action=f"open[{hop.title}]")
        return Decision(thought=aim, action=_search(hop.title if self._tried == 2 and hop.title else hop.query))

    def _facts(self) -> str:
        """What the next step needs: of a chain the last fact, as a page might say it; of branches all, and of whom."""
        if self._chain:
            return "".join(f"{hop.fact or f'{hop.query}: {hop.value}.'} " for hop in self._known[-1:] if hop.value)
        return "".join(f"{hop.query}: {hop.value}. " for hop in self._known if hop.value)

    def _shown(self, hop: Hop, observation: str) -> tuple[Document, str] | None:
        """The page of a hop if it was shown, and what was shown of it."""
        listed, page = self._listed(hop), self._look().page
        if not self._opens:
            return None if listed is None else (listed[0], self._passages[self._look().listed.index(listed[0])])
        return (page, observation) if page is not None and folded(page.title) == folded(hop.title) else None

    def _read(self, hop: Hop, page: Document, shown: str) -> None:
        """Note what the page told. One that was shown whole may say it in other words, which are not repeated."""
        shown = " ".join(shown.split())
        if hop.value.casefold() in shown.casefold():
            self._known.append(hop)
        elif " ".join(page.text.split()) in shown:
            self._known.append(replace(hop, value=""))
        else:
            self._cut_off = True

    def _listed(self, hop: Hop) -> tuple[Document, str] | None:
        """The passage of a hop among the results, and its name: of several with its title the one with the value."""
        listed = self._look().listed
        found = [
            pair for pair in zip(listed, page_names(listed), strict=True) if folded(pair[0].title) == folded(hop.title)
        ]
        value = hop.value.casefold()
        return next((pair for pair in found if value in pair[0].text.casefold()), found[0] if found else None)


def _search(query: str) -> str:
    return f"search[{query}]"
