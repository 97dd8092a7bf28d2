"""How right an answer is: exact match, token F1 and cover match, with the field's normalisation.

As in the evaluation scripts of SQuAD and HotpotQA: lower case, no punctuation, no articles, single spaces. Where a
question has several right answers, the best counts. A right answer of which nothing would be left ("The The") is
compared as it is, in lower case: else saying nothing would be as good.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Metric = Literal["em", "f1", "cover_em"]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_VERDICTS = frozenset({"yes", "no", "noanswer"})


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score(answer: str, answers: Sequence[str], metric: Metric = "em") -> float:
    """How right `answer` is, in [0, 1]: the best over `answers`, the ones that count as right.

    Args:
        answer: what was said.
        answers: what is right; none of them makes everything wrong.
        metric: "em": equal after normalisation; "f1": harmonic mean of token precision and recall; "cover_em": a right
            answer stands, as whole words, in what was said.
    """
    measure = {"em": _exact, "f1": _f1, "cover_em": _covers}[metric]
    return max((measure(*_comparable(answer, right)) for right in answers), default=0.0)


def _comparable(said: str, right: str) -> tuple[str, str]:
    if kept := normalize(right):
        return normalize(said), kept
    return " ".join(said.lower().split()), " ".join(right.lower().split())


def _exact(said: str, right: str) -> float:
    return float(said == right)


def _f1(said: str, right: str) -> float:
    if said != right and _VERDICTS & {said, right}:
        return 0.0  # "no" is not half of "no answer"
    tokens, gold = said.split(), right.split()
    if not tokens or not gold:
        return float(tokens == gold)
    common = sum((Counter(tokens) & Counter(gold)).values())
    return 2 * common / (len(tokens) + len(gold))


def _covers(said: str, right: str) -> float:
    return float(said == right or (right != "" and f" {right} " in f" {said} "))
