"""Answer metrics: exact match, token F1, cover match and substring match, with the field's normalisation.

The normalisation is that of the evaluation scripts of SQuAD and HotpotQA: lower case, no punctuation, no articles,
single spaces. If a question has several correct answers, the best match counts. If normalisation would leave nothing of
a correct answer ("The The"), it is only lower-cased; otherwise an empty answer would be correct.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Metric = Literal["em", "f1", "cover_em", "sub_em"]
REPORTED: tuple[Metric, ...] = ("em", "f1", "sub_em")  # of every evaluation, whatever the reward is
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_VERDICTS = frozenset({"yes", "no", "noanswer"})


def normalize(text: str) -> str:
    """Normalise a text: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score(answer: str, answers: Sequence[str], metric: Metric = "em") -> float:
    """Score `answer` in [0, 1]: the best match over the correct `answers`.

    Args:
        answer: the given answer.
        answers: the correct answers; if empty, the score is 0.
        metric: "em": equal after normalisation; "f1": harmonic mean of token precision and recall; "cover_em": the
            given answer contains a correct one as whole words; "sub_em": it contains a correct one as a substring, as
            in Search-R1's `subem_check`, so "nor" contains "no".
    """
    measure = {"em": _exact, "f1": _f1, "cover_em": _covers, "sub_em": _contains}[metric]
    return max((measure(*_comparable(answer, right)) for right in answers), default=0.0)


def _comparable(given: str, right: str) -> tuple[str, str]:
    if normalized := normalize(right):
        return normalize(given), normalized
    return " ".join(given.lower().split()), " ".join(right.lower().split())


def _exact(given: str, right: str) -> float:
    return float(given == right)


def _f1(given: str, right: str) -> float:
    if given != right and _VERDICTS & {given, right}:
        return 0.0  # "no" is not half of "no answer"
    tokens, gold = given.split(), right.split()
    if not tokens or not gold:
        return float(tokens == gold)
    common = sum((Counter(tokens) & Counter(gold)).values())
    return 2 * common / (len(tokens) + len(gold))


def _contains(given: str, right: str) -> float:
    return float(given == right or (right != "" and right in given))


def _covers(given: str, right: str) -> float:
    return float(given == right or (right != "" and f" {right} " in f" {given} "))
