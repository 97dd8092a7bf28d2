"""A solver that uses only the text of an encyclopaedia's pages and returns all answers to a question."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from empg.environments.deepsearch.relations import RELATIONS, plainly

_KINDS = {"town", "company", "book", "film", "river", "award"}  # a person's page names the trade instead
_LABELS = "|".join(relation.name.capitalize() for relation in RELATIONS)
_FORMS = [
    (relation.name, re.compile(re.escape(form).replace(r"\{x\}", "(.+)")))
    for relation in RELATIONS
    for form in (relation.question, f"Who is the {relation.name} of {{x}}?", f"What is the {relation.name} of {{x}}?")
]
_COMPARISON = re.compile(
    r"(?:Which|Who|Whose(?P<via> .+?)) (?:is|has|was) (?P<how>.+?), (?P<one>.+) or (?P<other>.+)\?"
)
_MEASURES = {
    "born": "birth year", "more people": "population", "fewer people": "population", "founded": "founding year",
    "published": "publication year", "released": "release year", "longer": "length", "shorter": "length",
}  # fmt: skip


class Solver:
    """The facts of the pages, by title.

    Attributes:
        aliases: titles by other names.
        facts: (title, relation) -> values.
        meant: the titles that each name or alias can refer to.
    """

    def __init__(self, pages: Mapping[str, str], wording: str) -> None:
        found = {title: re.search(r"Also called (.+?)\.(?: |$)", text) for title, text in pages.items()}
        self.aliases = {match[1]: title for title, match in found.items() if match}
        self.facts: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.meant: dict[str, set[str]] = defaultdict(set)
        for alias, title in self.aliases.items():
            self.meant[alias].add(title)
        for title, text in pages.items():
            self._read(title, text, plain=wording == "plain")

    def _read(self, title: str, text: str, plain: bool) -> None:
        name = re.sub(r" \(\w+( \d+)?\)$", "", title)
        self.meant[title].add(title)
        self.meant[name].add(title)
        what = re.match(re.escape(name) + r" is an? (\w+)\.", text)
        assert what
        kind = what[1] if what[1] in _KINDS else "person"
        follows = f" (?:{_LABELS}) |$" if plain else f" The | It | Its | {re.escape(name)} |$"
        for relation in RELATIONS:
            sentences = (plainly(relation.name, "{v}"),) if plain else relation.sentences
            for sentence in sentences if relation.kind == kind else ():
                pattern = re.escape(sentence).replace(r"\{n\}", re.escape(name)).replace(r"\{v\}", "(.+?)")
                found = re.search(f"(?:^| ){pattern}(?={follows})", text)
                if found and not (relation.name == "birthplace" and found[1].startswith("the year")):
                    self.facts[title, relation.name].add(found[1])

    def solve(self, text: str) -> set[str]:
        """Return all page titles or numbers that answer a question, in any reading of it."""
        comparison = _COMPARISON.fullmatch(text)
        if comparison:
            how = comparison["how"]
            measure = _MEASURES[how.removesuffix(" first").removesuffix(" last")]
            inner = f"the{comparison['via']} of " if comparison["via"] else ""
            sides = [comparison["one"], comparison["other"]]
            numbers = [
                {int(v.replace(",", "")) for v in self._values(measure, self._meant(inner + side))} for side in sides
            ]
            assert all(len(values) == 1 for values in numbers), text
            best = (max if how.endswith((" last", "more people", "longer")) else min)(numbers, key=min)
            pairs = zip(sides, numbers, strict=True)
            return {title for side, values in pairs if values == best for title in self._meant(side)}
        readings = [(name, match[1]) for name, form in _FORMS if (match := form.fullmatch(text))]
        return {value for name, phrase in readings for value in self._values(name, self._meant(phrase))}

    def _meant(self, phrase: str) -> set[str]:
        """Return the titles that a phrase can refer to: a name, an alias, or "the RELATION of PHRASE"."""
        ends = set(self.meant.get(phrase, ()))
        for relation in RELATIONS:
            if phrase.startswith(f"the {relation.name} of "):
                ends |= self._values(relation.name, self._meant(phrase.removeprefix(f"the {relation.name} of ")))
        return ends

    def _values(self, relation: str, titles: set[str]) -> set[str]:
        return {value for title in titles for value in self.facts.get((title, relation), ())}
