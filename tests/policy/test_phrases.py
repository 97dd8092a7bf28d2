"""Phrases that are one token each: frequent in an environment, never across names that a policy copies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.policy.phrases import find_phrases
from empg.policy.tiny import make_tokenizer

THINGS = ["mug", "apple", "soapbottle", "pan", "key", "towel", "vase", "candle", "egg", "potato"]
ROOM = [
    f"You arrive at shelf {place}. On the shelf {place}, you see a {thing} {place}, and a {other} 1."
    for place in range(1, 6)
    for thing in THINGS
    for other in THINGS
]


def test_frequent_phrases_are_found() -> None:
    found = find_phrases(ROOM, 64)
    assert "You arrive at shelf" in found  # the shelf is the only place of this world
    assert " On the shelf" in found
    assert ", you see a" in found
    assert ", and a" in found


def test_names_and_numbers_stay_apart() -> None:
    for phrase in find_phrases(ROOM, 64):
        assert not any(character.isdigit() for character in phrase)
        assert not any(thing in phrase for thing in THINGS)


def test_the_greatest_saving_comes_first_and_no_more_than_asked() -> None:
    everything = find_phrases(ROOM, 64)
    assert find_phrases(ROOM, 2) == everything[:2]
    assert find_phrases(ROOM, 0) == []


def test_a_phrase_is_not_the_beginning_of_a_longer_word() -> None:
    texts = ["go to the sofa now"] * 50 + ["go to thereabouts now"] * 50
    assert not any(phrase.endswith(" the") for phrase in find_phrases(texts, 64))


def test_a_phrase_ends_with_its_sentence() -> None:
    assert not any(mark in phrase[:-1] for phrase in find_phrases(ROOM, 64) for mark in ".:")


def test_texts_without_repetition_have_no_phrases() -> None:
    assert find_phrases(["one two", "three four", "five six"], 64) == []
    assert find_phrases([], 64) == []


def test_a_name_has_the_same_tokens_next_to_a_phrase_and_elsewhere() -> None:
    tokenizer = make_tokenizer(ROOM, 330, phrases=16)
    name = tokenizer.encode(" soapbottle 3")
    for text in ("On the shelf 1, you see a soapbottle 3", "take soapbottle 3", "no soapbottle 3"):
        assert tokenizer.encode(text)[-len(name) :] == name


def test_phrases_shorten_a_text_within_the_vocabulary() -> None:
    plain, short = make_tokenizer(ROOM, 330, phrases=0), make_tokenizer(ROOM, 330, phrases=16)
    assert len(short) <= len(plain) == 330
    assert len(short.encode(ROOM[7])) < 0.75 * len(plain.encode(ROOM[7]))


_TOKENIZER = make_tokenizer(ROOM, 330, phrases=16)


PARTS = [*find_phrases(ROOM, 16), *THINGS, " ", "\n", "é", "<think>", "1", "[", "click[Mug]", "(", '"', "-", "_"]


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_any_mixture_of_phrases_reads_back_in_lower_case(parts: list[str]) -> None:
    text = "".join(parts)
    assert _TOKENIZER.decode(_TOKENIZER.encode(text)) == text.lower()


TEXTS = ["click[Mug]", "(mug)", "a non-mug", '"mug"', "<action>mug</action>", "x\nmug", "$MUG."]


@pytest.mark.parametrize("text", TEXTS)
def test_a_word_has_the_same_tokens_after_a_mark_and_after_a_space(text: str) -> None:
    word = _TOKENIZER.encode(" mug")
    ids = _TOKENIZER.encode(text)
    assert any(ids[place : place + len(word)] == word for place in range(len(ids)))
    assert _TOKENIZER.decode(ids) == text.lower()


def test_text_with_word_joiners_of_its_own_loses_them() -> None:
    assert _TOKENIZER.decode(_TOKENIZER.encode("a\u2060b")) == "ab"


def test_the_tags_of_a_turn_are_one_token_each() -> None:
    bare = _TOKENIZER.encode(" mug") + _TOKENIZER.encode(" key")
    assert len(_TOKENIZER.encode("<think>mug</think><action>key</action>")) == len(bare) + 4
