"""Questions about the encyclopaedia, each with the one chain of facts that answers it.

*Bridge* questions follow relations from one entity ("Where was the director of Silent Harbour born?"), *comparison*
questions weigh one number of two entities, *bridge-comparison* questions a number at the end of two chains. What a
question is composed of is its `Composition`. Some compositions are held out from training: those in which a relation
follows another that it never follows in training, a comparison with a wording that training lacks, and all of four
hops. Their questions are out of distribution (`valid_ood`); questions of the other compositions, about other entities
than in training, are in distribution (`valid_id`).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, Entity
from empg.environments.deepsearch.relations import INVERSE, RELATION, RELATIONS, number, plainly
from empg.environments.deepsearch.world import Hop, Question
from empg.errors import UserError

SPLITS = ("train", "valid_id", "valid_ood")
KINDS = ("1-hop", "2-hop bridge", "3-hop bridge", "4-hop bridge", "comparison", "bridge-comparison")
SOURCE = "encyclopaedia"
_HELD_OUT = 0.25  # of the pairs of relations, and of the comparisons
_FOR_VALIDATION = 0.15  # of the entities that a trained composition starts from
_GENERIC = 0.3  # of the bridge questions are worded "Who (or what) is the ... of ...?"

# Comparisons of two entities: by the number compared, and whether the larger or the smaller is asked for.
_COMPARED = {
    "birth year": (("Who was born first", min), ("Who was born last", max)),
    "population": (("Which has more people", max), ("Which has fewer people", min)),
    "founding year": (("Which was founded first", min), ("Which was founded last", max)),
    "publication year": (("Which was published first", min), ("Which was published last", max)),
    "release year": (("Which was released first", min), ("Which was released last", max)),
    "length": (("Which is longer", max), ("Which is shorter", min)),
}


@dataclass(frozen=True, slots=True)
class Composition:
    """The form of a question: its kind, the relations from the entity it names, and (for comparisons) its wording."""

    kind: str
    relations: tuple[str, ...]
    wording: int = 0

    def roles(self) -> list[tuple[str, bool]]:
        """Its relations, and of each whether it is the one asked for."""
        return [(name, place == len(self.relations)) for place, name in enumerate(self.relations, start=1)]


def compositions(kinds: Sequence[str] = KINDS) -> tuple[tuple[Composition, ...], tuple[Composition, ...]]:
    """The trained and the held-out compositions of those kinds.

    Raises:
        UserError: there is no such kind.
    """
    check_kinds(kinds, KINDS)
    every = [composition for kind in KINDS if kind in kinds for composition in _of_kind(kind)]
    held_out = tuple(composition for composition in every if _is_held_out(composition))
    return tuple(composition for composition in every if not _is_held_out(composition)), held_out


def check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Refuse kinds of questions that a world does not have.

    Raises:
        UserError: one is not `known`.
    """
    for kind in kinds:
        if kind not in known:
            raise UserError(f"kinds: there is no {kind!r}; choose from {', '.join(known)}")


def of_split(
    split: str, kinds: Sequence[str], trained: Sequence[Composition], held_out: Sequence[Composition]
) -> list[list[Composition]]:
    """What a split's questions are composed of, kind by kind: the kinds take turns.

    Raises:
        UserError: there is no such split, or nothing is held out of these kinds.
    """
    if split not in SPLITS:
        raise UserError(f"split={split!r}: one of {', '.join(SPLITS)}")
    by_kind: dict[str, list[Composition]] = {}
    for composition in held_out if split == "valid_ood" else trained:
        by_kind.setdefault(composition.kind, []).append(composition)
    if not by_kind:
        raise UserError(f"kinds={list(kinds)}: nothing for {split}; add a kind, such as '2-hop bridge'")
    return list(by_kind.values())


def make_questions(
    world: Encyclopaedia, split: str, *, count: int | None = None, kinds: Sequence[str] = KINDS, seed: int = 0
) -> tuple[Question, ...]:
    """The fixed, ordered questions of a split; no question is in two splits, and none is there twice.

    Args:
        world: what is asked about.
        split: "train", "valid_id" or "valid_ood".
        count: how many at most; None takes 4 for each page to train and 1 for each 4 pages (at least 500) to validate.
        kinds: which `KINDS`; all of them by default. They take turns.
        seed: of the choice.

    Raises:
        UserError: there is no such split or kind, or nothing is held out of these kinds.
    """
    by_kind = of_split(split, kinds, *compositions(kinds))
    pages = sum(len(entities) for entities in world.by_kind.values())
    wanted = count if count is not None else 4 * pages if split == "train" else max(500, pages // 4)
    rng = random.Random(f"questions {seed} {split}")
    questions: dict[str, Question] = {}
    for attempt in range(12 * wanted):  # a small world runs out of questions
        if len(questions) == wanted:
            break
        question = _draw(world, rng.choice(by_kind[attempt % len(by_kind)]), split, rng)
        if question is not None:
            questions.setdefault(question.id, question)
    return tuple(questions.values())


def _of_kind(kind: str) -> list[Composition]:
    if kind == "comparison":
        return [Composition(kind, (name,), wording) for name in _COMPARED for wording in (0, 1)]
    if kind == "bridge-comparison":
        pairs = [(r.name, name) for r in RELATIONS for name in _COMPARED if r.target == RELATION[name].kind]
        return [Composition(kind, pair, wording) for pair in pairs for wording in (0, 1)]
    chains: list[tuple[str, ...]] = [(relation.name,) for relation in RELATIONS]
    for _ in range(int(kind[0]) - 1):
        chains = [(*c, r.name) for c in chains for r in RELATIONS if RELATION[c[-1]].target == r.kind]
    # A person's teacher's teacher is hard to say and to read: no relation comes twice.
    return [Composition(kind, c) for c in chains if len(set(c)) == len(c) and INVERSE not in pairwise(c)]


def _hold_out(kind: str) -> list[Composition]:
    """A quarter of the compositions of a kind, by hash; each relation keeps another one in each of its roles there."""
    every = sorted(_of_kind(kind), key=lambda c: hashlib.sha256(repr(c).encode()).digest())
    left = Counter(role for composition in every for role in composition.roles())
    out: list[Composition] = []
    for composition in every:
        if len(out) < round(_HELD_OUT * len(every)) and all(left[role] > 1 for role in composition.roles()):
            out.append(composition)
            left.subtract(composition.roles())
    return out


_UNSEEN = frozenset((*_hold_out("2-hop bridge"), *_hold_out("comparison")))


def _is_held_out(composition: Composition) -> bool:
    pairs = [Composition("2-hop bridge", pair) for pair in pairwise(composition.relations)]
    return composition.kind == "4-hop bridge" or not _UNSEEN.isdisjoint((composition, *pairs))


def _draw(world: Encyclopaedia, composition: Composition, split: str, rng: random.Random) -> Question | None:
    """A question of that form about random entities; None where they have no such facts, or belong to another split."""
    roots = world.by_kind[RELATION[composition.relations[0]].kind]
    if not composition.kind.endswith("comparison"):
        return _bridge(composition, rng.choice(roots), split, rng)
    first, second = rng.choice(roots), rng.choice(roots)
    # Namesakes are not compared: the name that they share would be right whichever is asked for.
    return None if first.name == second.name else _comparison(composition, first, second, split)


def _bridge(composition: Composition, root: Entity, split: str, rng: random.Random) -> Question | None:
    hops = _hops(root, composition.relations)
    if hops is None or _belongs_elsewhere(composition, root.title, split):
        return None
    mention = root.title
    if root.alias and int(_digest(composition, root.title)[2:4], 16) % 2:
        mention = root.alias
        hops[0] = replace(hops[0], query=f"{mention} {composition.relations[0]}")
    inner = mention
    for name in composition.relations[:-1]:
        inner = f"the {name} of {inner}"
    last = RELATION[composition.relations[-1]]
    generic = int(_digest(composition, root.title)[4:6], 16) < 256 * _GENERIC
    asking = "Who" if last.target == "person" else "What"
    text = f"{asking} is the {last.name} of {inner}?" if generic else last.question.format(x=inner)
    answers = _answers(last.name, _follow(root, composition.relations)[-1].facts[last.name])
    if any(answer in text for answer in answers):
        return None  # "Which book is Silent Harbour (film) based on?" if the book is called Silent Harbour, too
    return _question(text, answers, composition.kind, hops)


def _comparison(composition: Composition, first: Entity, second: Entity, split: str) -> Question | None:
    key = " | ".join(sorted((first.title, second.title)))
    if _belongs_elsewhere(composition, key, split):
        return None
    hops = []
    values = []
    for entity in (first, second):
        own = _hops(entity, composition.relations)
        if own is None:
            return None
        hops += own
        value = _follow(entity, composition.relations)[-1].facts[composition.relations[-1]]
        assert isinstance(value, int)
        values.append(value)
    if values[0] == values[1]:
        return None
    wording, pick = _COMPARED[composition.relations[-1]][composition.wording]
    if composition.kind == "bridge-comparison":
        wording = f"Whose {composition.relations[0]} {wording.partition(' ')[2]}"
    winner = (first, second)[values.index(pick(values))]
    return _question(f"{wording}, {first.title} or {second.title}?", _answers("", winner), composition.kind, hops)


def _follow(root: Entity, relations: tuple[str, ...]) -> list[Entity]:
    """The entities that a chain passes, from the root to the one whose fact is asked for; fewer where it breaks."""
    passed = [root]
    for name in relations[:-1]:
        following = passed[-1].facts.get(name)
        if not isinstance(following, Entity):
            return []
        passed.append(following)
    return passed


def _hops(root: Entity, relations: tuple[str, ...]) -> list[Hop] | None:
    """The gold chain; None where a fact is missing, or the chain comes back to an entity."""
    passed = _follow(root, relations)
    if not passed or relations[-1] not in passed[-1].facts:
        return None
    titles = [entity.title for entity in passed]
    hops = [
        Hop(f"{e.title} {name}", e.title, e.value(name), plainly(name, e.value(name)))
        for e, name in zip(passed, relations, strict=True)
    ]
    # A chain that comes back to an entity would be answered by a page that was read, or by the question.
    return hops if len({*titles, hops[-1].value}) == len(titles) + 1 else None


def _answers(relation: str, value: Entity | int) -> tuple[str, ...]:
    if isinstance(value, Entity):
        return tuple(dict.fromkeys(name for name in (value.title, value.name, value.alias) if name))
    return tuple(dict.fromkeys((number(relation, value), str(value))))


def _question(text: str, answers: tuple[str, ...], kind: str, hops: Sequence[Hop]) -> Question:
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Question(name, text, answers, kind, SOURCE, tuple(hops))


def _belongs_elsewhere(composition: Composition, entities: str, split: str) -> bool:
    """Whether the question is one of `valid_id` and asked for in `train`, or the other way round."""
    validates = int(_digest(composition, entities)[:2], 16) < 256 * _FOR_VALIDATION
    return split != "valid_ood" and validates != (split == "valid_id")


def _digest(composition: Composition, entities: str) -> str:
    """Of a composition about entities: settles their split and wording whoever asks, in whatever order."""
    return hashlib.sha256(f"{composition!r} {entities}".encode()).hexdigest()
