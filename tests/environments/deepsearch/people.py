"""A small corpus about invented people, with queries for it."""

from __future__ import annotations

import random

from empg.environments.deepsearch.world import Document

_SYLLABLES = ("bra", "den", "fol", "gar", "hel", "kin", "lor", "mar", "nes", "pol", "ros", "sten", "tor", "ul", "ver")
_TRADES = ("painter", "botanist", "engineer", "composer", "sailor", "physician", "novelist", "astronomer")
_SUBJECTS = ("bridges", "ferns", "canals", "operas", "lighthouses", "fevers", "orchards", "comets")


def people(count: int, seed: int = 0) -> tuple[list[Document], list[tuple[str, str]]]:
    """Generate pages about invented people, and a pair (query, title of the page with the answer) for each of them."""
    rng = random.Random(seed)

    def name() -> str:
        return "".join(rng.choice(_SYLLABLES) for _ in range(3)).title()

    names = list(dict.fromkeys(f"{name()} {name()}" for _ in range(2 * count)))[:count]
    towns = [name() for _ in range(count // 5 + 1)]
    documents, asked = [], []
    for number, person in enumerate(names):
        town, trade = rng.choice(towns), rng.choice(_TRADES)
        subject, year = rng.choice(_SUBJECTS), rng.randrange(1700, 1990)
        text = (
            f"{person} was a {trade} born in {town} in {year}. {person.split()[0]} is known for work on {subject}, "
            f"and taught many a younger {rng.choice(_TRADES)} in {rng.choice(towns)}."
        )
        documents.append(Document(f"p{number}", person, text))
        asked.append((f"In which year was {person}, the {trade}, born?", person))
    return documents, asked
