"""Text analysis for search: the terms of Lucene's English analyzer, as Anserini 0.14.3 uses it (Lucene 8).

A text is split into words by the rules of Lucene's StandardTokenizer. The possessive 's is removed, words are
lower-cased, 33 stop words are dropped, and Porter's stemmer is applied (`porter.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import lru_cache

import regex

from empg.environments.porter import stem

K1, B = 0.9, 0.4  # Anserini's constants of BM25

STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
    """.split()  # noqa: SIM905
)
MAX_WORD = 255  # characters; longer words are cut into pieces of this length


def _word_pattern() -> regex.Pattern[str]:
    """Return the pattern of a word (group 1): Unicode's word boundaries (UAX #29) with Lucene's additions.

    An ideograph, a hiragana character and an emoji are one word each; a run of Thai, Lao, Khmer or Burmese is one word.
    Lucene 8 has the Unicode tables of 2016. What they treat differently is spelled out: the colon between letters,
    modifier symbols, and the symbols that count as emoji. (Alone, between letters and between digits, every character
    of these tables is treated as by Lucene, except 14 of Arabic and Indic scripts. Newer letters are words here.)

    The time is linear in the text, whatever it contains, so runs that may lead nowhere are possessive (`*+`).
    """

    def followed(characters: str) -> str:  # a character and the marks on it
        return rf"(?:{characters}{marks})"

    marks = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}--[\U0001F3FB-\U0001F3FF]]*+"
    letter = followed(r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}--[\p{Sk}\u02D7\u055A-\u055E\u058A]]")
    hebrew, katakana = followed(r"\p{WB=Hebrew_Letter}"), followed(r"\p{WB=Katakana}")
    digit, joiner = followed(r"[\p{WB=Numeric}\uFF10-\uFF19]"), followed(r"\p{WB=ExtendNumLet}")
    quote, double_quote = followed(r"\p{WB=Single_Quote}"), followed(r"\p{WB=Double_Quote}")
    in_word = followed(r"[\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=Single_Quote}:\u02D7\uFE55\uFF1A--\u055F]")
    in_number = followed(r"[\p{WB=MidNum}\p{WB=MidNumLet}\p{WB=Single_Quote}\uFE10\uFE14]")
    number = rf"{digit}(?:(?:{joiner}*|{in_number}){digit})*"
    letters = rf"{letter}(?:(?:{joiner}*|{in_word}|{double_quote}(?={hebrew})){letter})*(?:(?<={hebrew}){quote})?"
    part = rf"(?:{katakana}(?:{joiner}*{katakana})*|(?:{number}|{letters})+)"
    word, joiners = rf"{joiner}*+{part}(?:{joiner}++{part})*{joiner}*", rf"{joiner}++"
    picture = (
        r"[\p{Extended_Pictographic}\p{Emoji}\u2388\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712"
        r"\u2763-\u2767\U0001F000-\U0001F0FF\U0001F249-\U0001F3FF\U0001F400-\U0001F53D\U0001F546-\U0001F64F"
        r"\U0001F680-\U0001F6FF--[\p{WB=Regional_Indicator}0-9#*]]"
    )
    emoji = rf"{followed(picture)}(?:\p{{Emoji_Modifier}}{marks})?"
    emojis = rf"(?:(?<!\u200D)\u200D*+)?+{emoji}(?:(?<=\u200D){emoji})*"
    keycap, flag = rf"[0-9#*]\uFE0F?\u20E3{marks}", followed(r"\p{WB=Regional_Indicator}") + "{2}"
    run, alone = followed(r"\p{LB=SA}") + "+", followed(r"[\p{Script=Han}\p{Script=Hiragana}]")
    plain = r"[A-Za-z]++(?=[.:]?[ ,()/-]|\Z)"  # most words: they need none of the rules, so they are tried first
    return regex.compile(f"({'|'.join((plain, word, emojis, keycap, flag, run, alone))})|{joiners}", regex.V1)


_WORD = _word_pattern()


def analyze(text: str) -> list[str]:
    """Return the terms of a text, in order."""
    return [term for word in _words(text) if (term := _term(word))]


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text, and "" for a match that is not a word."""
    for word in _WORD.findall(text):
        if len(word) <= MAX_WORD:
            yield word
        else:
            yield from _pieces(word)


def _pieces(word: str) -> Iterator[str]:
    """Cut a long word as Lucene does: a piece is what is a word in the next `MAX_WORD` characters."""
    start = 0
    while start < len(word):
        found = _WORD.search(word, start, start + MAX_WORD)
        if found is None:
            start += MAX_WORD
        else:
            piece = _WORD.match(word, found.start(), found.start() + MAX_WORD)
            yield piece[1] or ""
            start = piece.end()


@lru_cache(1 << 18)
def _term(word: str) -> str:
    """Return the term of a word, or "" for a stop word or no word."""
    if word[-2:] in ("'s", "’s", "＇s", "'S", "’S", "＇S"):
        word = word[:-2]
    word = "".join(letter.lower()[0] for letter in word)  # Java's way, one character for one
    return "" if word in STOP_WORDS else stem(word)


class TermCollector:
    """Collects streamed documents as arrays of term numbers, with four bytes per word."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self.documents: list[array[int]] = []

    def add(self, text: str) -> None:
        """Add the next document."""
        vocabulary = self.vocabulary
        self.documents.append(array("i", (vocabulary.setdefault(term, len(vocabulary)) for term in analyze(text))))
