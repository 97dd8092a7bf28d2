"""Parse records of the known datasets as questions with answers and gold chains, and as paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.aliases import aliases_beside
from empg.environments.deepsearch.dataset_names import dataset_name, dataset_of_path
from empg.environments.deepsearch.record_files import listed
from empg.environments.deepsearch.world import Hop, Question
from empg.web.text import clean_text

WITH_CONTEXT = ("hotpotqa", "2wiki", "musique")
MAX_QUESTION = 4_000  # characters; the longest of these datasets have about 400
NO_ANSWER = "no answer"
VERDICTS = ("yes", "no")  # answers that follow from pages without being stated on them
_STEP = re.compile(r"#(\d+)")  # MuSiQue's notation for "the answer of this step"
_TRAINER = ("env_kwargs", "reward_model", "reward_spec")  # where rows of verl, verl-agent and SkyRL keep the answers
EXPECTED_FIELDS = "Expected the fields of a published dataset, or question with golden_answers, answers or answer"


class MalformedError(Exception):
    """A record does not match its schema."""


def recognise(record: Mapping[str, Any]) -> str | None:
    """Return the dataset whose schema a record with lower-case keys has; None if it does not contain a question.

    Fields that anyone's own file may have, such as `question` and `answer`, are "generic".
    """
    if "question" not in record and _asked(record) is None:
        return None
    if "golden_answers" in record:
        return "generic"
    if "paragraphs" in record or "question_decomposition" in record:
        return "musique"
    if "context" in record and ("supporting_facts" in record or "_id" in record):
        return "2wiki" if "evidences" in record or "entity_ids" in record else "hotpotqa"
    if "possible_answers" in record:
        return "popqa"
    if "root_url" in record:
        return "webwalker"
    if "wiki_links" in record or "wikipedia_link_1" in record:
        return "frames"
    if isinstance(record.get("answer"), dict):
        return "triviaqa"
    return "generic" if not record.keys().isdisjoint(("answer", "answers", *_TRAINER)) else None


def row_dataset(record: Mapping[str, Any]) -> str | None:
    """Return the dataset that a record names itself (`data_source`), if it does."""
    for place in (record, record.get("env_kwargs")):
        name = place.get("data_source") if isinstance(place, Mapping) else None
        if isinstance(name, str) and name.strip():
            return dataset_name(name)
    return None


def parse_question(record: Mapping[str, Any], name: str, path: Path, row: int) -> Question:
    """Parse a record with lower-case keys.

    Args:
        record: the record.
        name: its dataset. For "generic", the record, the name of the file or of its folder gives the source.
        path: the file.
        row: the place in the file, for an id where the record has none.

    Raises:
        MalformedError: the record does not match its schema.
    """
    text = _text(_asked(record), "question")
    if len(text) > MAX_QUESTION:
        raise MalformedError(f"question has more than {MAX_QUESTION:,} characters")
    source = (row_dataset(record) or dataset_of_path(path)) if name == "generic" else name
    answers = _answers(record)
    if name == "2wiki" and isinstance(answer_id := record.get("answer_id"), str):
        answers = tuple(dict.fromkeys((*answers, *aliases_beside(path).get(answer_id, ()))))
    ids = (record.get(key) for key in ("_id", "id", "question_id", "questionid"))
    identity = next((clean_text(str(own)) for own in ids if isinstance(own, (str, int)) and own != ""), "")
    kind = _kind(record, name, identity)
    hops: tuple[Hop, ...] = ()
    if name == "musique" and "question_decomposition" in record:
        hops = _steps(record)
    elif name == "2wiki" and record.get("evidences"):
        hops = _evidences(record)
    elif name in ("hotpotqa", "2wiki") and record.get("supporting_facts"):
        hops = _supporting(record, answers[0])
    return Question(identity or f"{source}-{row}", text, answers, kind or source, source, hops)


def _kind(record: Mapping[str, Any], name: str, identity: str) -> str:
    """Return the dataset's own term for the kind of question, or "" if it has none."""
    if name == "musique" and "__" in identity:
        return identity.partition("__")[0]  # "3hop1": three hops, first shape
    nested = record.get("metadata") or record.get("info")
    for where, key in ((record, "type"), (record, "prop"), (nested, "type")):
        value = where.get(key) if isinstance(where, Mapping) else None
        if isinstance(value, str) and value.strip():
            return clean_text(value.strip())
    return ""


def _asked(record: Mapping[str, Any]) -> Any:
    """Return the question; of a chat (`prompt`), what its last user message asks after "Question:", if it has that."""
    for place in (record, record.get("env_kwargs"), record.get("extra_info")):
        if isinstance(place, Mapping) and place.get("question") is not None:
            return place["question"]
    prompt = record.get("prompt")
    if not isinstance(prompt, list):
        return prompt
    said = [message.get("content") for message in prompt if isinstance(message, dict) and message.get("role") == "user"]
    return said[-1].rpartition("Question:")[2] if said and isinstance(said[-1], str) else None


def _given_answers(record: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the answers and the name of their field."""
    for key in ("golden_answers", "possible_answers", "answers", "answer"):
        if record.get(key) not in (None, "", []):
            return key, record[key]
    for key in _TRAINER:
        place = record.get(key)
        truth = place.get("ground_truth") if isinstance(place, Mapping) else None
        if truth is not None:
            return f"{key}.ground_truth", truth.get("target") if isinstance(truth, Mapping) else truth
    return "answer", None


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the distinct correct answers, the canonical one first."""
    key, given = _given_answers(record)
    if key == "possible_answers" and isinstance(given, str):
        given = listed(given)
        if isinstance(given, str):
            raise MalformedError("possible_answers must be a list")
    if isinstance(given, Mapping):  # TriviaQA
        lower = {str(name).lower(): value for name, value in given.items()}
        given = [*_as_list(lower.get("value")), *_as_list(lower.get("aliases"))]
    found: dict[str, None] = {}
    for answer in [*_as_list(given), *_as_list(record.get("answer_aliases"))]:
        if isinstance(answer, bool) or not isinstance(answer, (str, int)):
            raise MalformedError(f"{key} must contain only strings or integers")
        try:
            text = str(answer)
        except ValueError:  # Python does not print integers with thousands of digits
            raise MalformedError(f"{key} contains a number that is too long") from None
        found[" ".join(clean_text(text).split())] = None
    found.pop("", None)
    if not found:
        raise MalformedError(NO_ANSWER)
    return tuple(found)


def _steps(record: Mapping[str, Any]) -> tuple[Hop, ...]:
    """Parse MuSiQue's decomposition, with "#1" replaced by the answer of the first step."""
    titles = {
        place: _text(paragraph.get("title"), "paragraph title")
        for place, paragraph in _indexed(record.get("paragraphs", []))
    }
    steps = record["question_decomposition"]
    if not isinstance(steps, list):
        raise MalformedError("question_decomposition must be a list")
    hops: list[Hop] = []
    for step in steps:
        if not isinstance(step, dict):
            raise MalformedError("each step of question_decomposition must be an object")
        asked = _text(step.get("question"), "step question").replace(" >> ", " ")

        def earlier(match: re.Match[str], known: int = len(hops)) -> str:
            number = int(match[1]) if len(match[1]) < 3 else 0
            return hops[number - 1].value if 1 <= number <= known else match[0]

        place = step.get("paragraph_support_idx")
        title = titles.get(place, "") if isinstance(place, int) else ""
        hops.append(Hop(_STEP.sub(earlier, asked), title, _text(step.get("answer"), "step answer")))
    return tuple(hops)


def _evidences(record: Mapping[str, Any]) -> tuple[Hop, ...]:
    """Parse 2WikiMultiHopQA's triples. The title of a subject's page may be longer: "Sahara (1943 film)"."""
    titles = [title for title, _ in parse_paragraphs(record)]
    hops = []
    for triple in _as_list(record["evidences"]):
        if not isinstance(triple, list) or len(triple) != 3:
            raise MalformedError("each entry of evidences must be a triple")
        subject, relation, value = (_text(part, "evidence") for part in triple)
        longer = next((title for title in titles if title.startswith(f"{subject} (")), subject)
        hops.append(Hop(f"{subject} {relation}", subject if subject in titles else longer, value))
    return tuple(hops)


def _supporting(record: Mapping[str, Any], answer: str) -> tuple[Hop, ...]:
    """Return HotpotQA's gold pages as hops; pages that contain the answer come last.

    The data does not name the fact on a page. The value of a hop is the title of the next page if the page states it,
    else the answer if the page states it, else empty. No page states a "yes" or a "no", which is a conclusion.
    """
    facts = record["supporting_facts"]
    if isinstance(facts, dict):  # the format of Parquet files
        named = _as_list(facts.get("title"))
    else:
        named = [fact[0] if isinstance(fact, list) and fact else None for fact in _as_list(facts)]
    titles = list(dict.fromkeys(_text(title, "supporting title") for title in named))
    texts = dict(parse_paragraphs(record))
    stated = "" if answer.casefold() in VERDICTS else answer
    titles.sort(key=lambda title: states(texts.get(title, ""), stated))  # stable
    hops = []
    for title, following in zip(titles, [*titles, None][1:], strict=True):
        text = texts.get(title, "")
        value = next((own for own in (following, stated) if own is not None and states(text, own)), "")
        hops.append(Hop(title, title, value))
    return tuple(hops)


def states(text: str, value: str) -> bool:
    """Return whether a text contains a non-empty value as whole words, without regard to case."""
    return bool(value) and re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", text.casefold()) is not None


def parse_paragraphs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return title and text of the paragraphs that come with a question."""
    if "paragraphs" in record:
        pairs = [(p.get("title"), p.get("paragraph_text")) for _, p in _indexed(record["paragraphs"])]
    else:
        context = record.get("context")
        if isinstance(context, dict):  # the format of Parquet files
            texts = context.get("sentences", context.get("content"))
            if not isinstance(context.get("title"), list) or not isinstance(texts, list):
                raise MalformedError("context must be a list of paragraphs")
            context = [list(pair) for pair in zip(context["title"], texts, strict=False)]
        if not isinstance(context, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in context):
            raise MalformedError("context must be a list of paragraphs")
        pairs = [(title, text) for title, text in context]
    read = []
    for title, text in pairs:
        sentences = [_text(part, "paragraph text", empty=True) for part in _as_list(text)]
        read.append((_text(title, "paragraph title"), " ".join(sentence for sentence in sentences if sentence)))
    return read


def _indexed(paragraphs: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not isinstance(paragraphs, list) or not all(isinstance(paragraph, dict) for paragraph in paragraphs):
        raise MalformedError("paragraphs must be a list of objects")
    for place, paragraph in enumerate(paragraphs):
        index = paragraph.get("idx", place)
        yield (index if isinstance(index, int) else place), paragraph


def _text(value: Any, name: str, empty: bool = False) -> str:
    """Return a text on one line."""
    if not isinstance(value, str):
        raise MalformedError(f"{name} must be a string")
    text = " ".join(clean_text(value).split())
    if not text and not empty:
        raise MalformedError(f"{name} is empty")
    return text


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
