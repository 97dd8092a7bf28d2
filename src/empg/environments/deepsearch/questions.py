"""Generate questions about the encyclopaedia, each with the unique chain of facts that answers it.

*Bridge* questions follow relations from one entity ("Where was the director of Silent Harbour born?"). *Comparison*
questions compare one number of two entities. *Bridge-comparison* questions compare a number at the end of two chains.
The `Composition` of a question is its kind, relations and wording. Some compositions are held out from training: those
with a pair of consecutive relations that never occurs in training, comparisons with a wording that never occurs in
training, and all questions of four hops. They are the out-of-distribution split (`valid_ood`). The in-distribution
split (`valid_id`) has trained compositions about other entities than in training.
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
_HELD_OUT = 0.25  # share of the pairs of relations, and of the comparisons
_FOR_VALIDATION = 0.15  # share of the start entities of each trained composition
_GENERIC = 0.3  # share of the bridge questions that are worded "Who (or what) is the ... of ...?"

# Comparisons by compared number: wordings that ask for the smaller or the larger one.
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
    """The form of a question: kind, relations from the named entity, and (for comparisons) the index of its wording.

    Its `repr` is an input of hashes: renaming the class or a field changes the generated questions.
    """

    kind: str
    relations: tuple[str, ...]
    wording: int = 0

    def roles(self) -> list[tuple[str, bool]]:
        """Return the relations, each with whether the question asks for it."""
        return [(name, place == len(self.relations)) for place, name in enumerate(self.relations, start=1)]


def compositions(kinds: Sequence[str] = KINDS) -> tuple[tuple[Composition, ...], tuple[Composition, ...]]:
    """Return the trained and the held-out compositions of these kinds.

    Raises:
        UserError: a kind is unknown.
    """
    check_kinds(kinds, KINDS)
    every = [composition for kind in KINDS if kind in kinds for composition in _of_kind(kind)]
    held_out = tuple(composition for composition in every if _is_held_out(composition))
    return tuple(composition for composition in every if not _is_held_out(composition)), held_out


def check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Check that all kinds of questions are known.

    Raises:
        UserError: a kind is not in `known`.
    """
    for kind in kinds:
        if kind not in known:
            raise UserError(f"kinds: unknown kind {kind!r}: expected one of {', '.join(known)}")


def of_split(
    split: str, kinds: Sequence[str], trained: Sequence[Composition], held_out: Sequence[Composition]
) -> list[list[Composition]]:
    """Return the compositions of a split, grouped by kind. Questions are generated from the groups in turn.

    Raises:
        UserError: the split is unknown, or these kinds have no compositions for it.
    """
    if split not in SPLITS:
        raise UserError(f"split: expected one of {', '.join(SPLITS)}, got {split!r:.80}")
    by_kind: dict[str, list[Composition]] = {}
    for composition in held_out if split == "valid_ood" else trained:
        by_kind.setdefault(composition.kind, []).append(composition)
    if not by_kind:
        raise UserError(f"kinds={list(kinds)}: no questions for {split}. Add a kind, such as '2-hop bridge'")
    return list(by_kind.values())


def make_questions(
    world: Encyclopaedia, split: str, *, count: int | None = None, kinds: Sequence[str] = KINDS, seed: int = 0
) -> tuple[Question, ...]:
    """Generate the fixed, ordered questions of a split. No question is in two splits, and none is repeated.

    Args:
        world: the encyclopaedia that the questions are about.
        split: "train", "valid_id" or "valid_ood".
        count: maximal number of questions; None means 4 per page for training and 1 per 4 pages (at least 500) for
            validation.
        kinds: subset of `KINDS`; all of them by default. They are generated in turn.
        seed: seed of the random choice.

    Raises:
        UserError: the split or a kind is unknown, or these kinds have no compositions for the split.
    """
    by_kind = of_split(split, kinds, *compositions(kinds))
    pages = sum(len(entities) for entities in world.by_kind.values())
    wanted = count if count is not None else 4 * pages if split == "train" else max(500, pages // 4)
    rng = random.Random(f"questions {seed} {split}")
    questions: dict[str, Question] = {}
    for attempt in range(12 * wanted):  # limited, because a small encyclopaedia runs out of questions
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
    # No relation is repeated, because "the teacher of the teacher of" is hard to write and to read.
    return [Composition(kind, c) for c in chains if len(set(c)) == len(c) and INVERSE not in pairwise(c)]


def _hold_out(kind: str) -> list[Composition]:
    """Select a quarter of the compositions of a kind by hash, so that each relation stays in training in each role."""
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
    """Draw a question of this form about random entities; None if facts are missing or it is of another split."""
    roots = world.by_kind[RELATION[composition.relations[0]].kind]
    if not composition.kind.endswith("comparison"):
        return _bridge(composition, rng.choice(roots), split, rng)
    first, second = rng.choice(roots), rng.choice(roots)
    # Entities with the same name are not compared, because the shared name would always be a correct answer.
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
        return None  # "Which book is Silent Harbour (film) based on?" if the book is also called Silent Harbour
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
    """Return the entities of a chain, from the root to the one whose fact is asked for; empty if a fact is missing."""
    passed = [root]
    for name in relations[:-1]:
        following = passed[-1].facts.get(name)
        if not isinstance(following, Entity):
            return []
        passed.append(following)
    return passed


def _hops(root: Entity, relations: tuple[str, ...]) -> list[Hop] | None:
    """Return the gold chain; None if a fact is missing or the chain returns to an entity."""
    passed = _follow(root, relations)
    if not passed or relations[-1] not in passed[-1].facts:
        return None
    titles = [entity.title for entity in passed]
    hops = [
        Hop(f"{e.title} {name}", e.title, e.value(name), plainly(name, e.value(name)))
        for e, name in zip(passed, relations, strict=True)
    ]
    # A chain that returns to an entity would be answered by a page that was already read, or by the question.
    return hops if len({*titles, hops[-1].value}) == len(titles) + 1 else None


def _answers(relation: str, value: Entity | int) -> tuple[str, ...]:
    if isinstance(value, Entity):
        return tuple(dict.fromkeys(name for name in (value.title, value.name, value.alias) if name))
    return tuple(dict.fromkeys((number(relation, value), str(value))))


def _question(text: str, answers: tuple[str, ...], kind: str, hops: Sequence[Hop]) -> Question:
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Question(name, text, answers, kind, SOURCE, tuple(hops))


def _belongs_elsewhere(composition: Composition, entities: str, split: str) -> bool:
    """Return whether a question belongs to `valid_id` but is drawn for `train`, or the other way round."""
    validates = int(_digest(composition, entities)[:2], 16) < 256 * _FOR_VALIDATION
    return split != "valid_ood" and validates != (split == "valid_id")


def _digest(composition: Composition, entities: str) -> str:
    """Hash a composition and its entities. The hash decides their split and wording, independent of any order."""
    return hashlib.sha256(f"{composition!r} {entities}".encode()).hexdigest()
