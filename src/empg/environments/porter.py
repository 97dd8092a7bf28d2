"""Porter's stemmer, as in Lucene's PorterStemFilter.

M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980) 130-137, with the two departures of Porter's own
later programs that Lucene keeps: step 2 maps `bli` to `ble` (not `abli` to `able`) and has the rule `logi` to `log`.
Words of one or two letters stay. Snowball's `porter` follows the paper more loosely: it makes `trekk` of `trekking`
and `assembli` of `assembly`. nltk's PorterStemmer gives the same stems as this one (in its mode MARTIN_EXTENSIONS),
but importing nltk costs each process 0.7 s and 41 MB.
"""

from __future__ import annotations

from collections.abc import Iterable

_STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"),
    ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"),
    ("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"),
    ("iviti", "ive"), ("biliti", "ble"), ("logi", "log"),
)  # fmt: skip
_STEP_3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""),
)  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
)  # fmt: skip


def stem(word: str) -> str:
    """Return the stem of a lower-case word."""
    if len(word) <= 2:
        return word
    word = _past_and_gerund(_plural(word))
    if word.endswith("y") and "v" in _sounds(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(_replace(word, _STEP_2), _STEP_3)
    return _final_e_and_l(_remove_suffix(word))


def _sounds(word: str) -> str:
    """Return one letter per letter: "v" for a vowel, "c" for a consonant. A y after a consonant is a vowel."""
    sounds = ""
    for letter in word:
        sounds += "v" if letter in "aeiou" or (letter == "y" and sounds.endswith("c")) else "c"
    return sounds


def _measure(word: str) -> int:
    """Return the paper's m: how often a vowel is followed by a consonant."""
    return _sounds(word).count("vc")


def _ends_short(word: str) -> bool:
    """Return the paper's *o: whether a word ends with consonant, vowel, consonant, the last not w, x or y."""
    return _sounds(word).endswith("cvc") and word[-1] not in "wxy"


def _ends_double(word: str) -> bool:
    """Return the paper's *d: whether a word ends with a double consonant."""
    return word[-1:] == word[-2:-1] and _sounds(word).endswith("c")


def _plural(word: str) -> str:  # step 1a
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past_and_gerund(word: str) -> str:  # step 1b
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    suffix = next((suffix for suffix in ("ed", "ing") if word.endswith(suffix)), "")
    rest = word.removesuffix(suffix)
    if not suffix or "v" not in _sounds(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if _ends_double(rest):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _ends_short(rest) else rest


def _replace(word: str, rules: Iterable[tuple[str, str]]) -> str:  # steps 2 and 3
    for suffix, ending in rules:
        if word.endswith(suffix):
            rest = word.removesuffix(suffix)
            return rest + ending if _measure(rest) > 0 else word
    return word


def _remove_suffix(word: str) -> str:  # step 4
    for suffix in _STEP_4:
        if word.endswith(suffix):
            rest = word.removesuffix(suffix)
            kept = suffix == "ion" and not rest.endswith(("s", "t"))
            return word if kept or _measure(rest) <= 1 else rest
    return word


def _final_e_and_l(word: str) -> str:  # step 5
    if word.endswith("e"):
        rest = word[:-1]
        measure = _measure(rest)
        if measure > 1 or (measure == 1 and not _ends_short(rest)):
            word = rest
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word
