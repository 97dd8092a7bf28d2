"""Chat templates and tokenizers of many model families: the ids are the template's own, and turns are read back."""

from __future__ import annotations

import copy
import datetime
from functools import partial
from typing import Any, cast

import pytest

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.agent.template import prints_date
from empg.environments.base import Info
from empg.environments.registry import find
from empg.errors import UserError
from empg.recipe import AgentSection
from tests.agent.families import FAMILIES, KINDS, tokenizer

APPENDED = [name for name, family in FAMILIES.items() if family.appends]
SYSTEMS_FIRST = [name for name in APPENDED if name not in ("mistral-nemo", "llama2", "gemma")]
INFO: Info = {
    "task": "put a mug in desk", "task_id": "0", "task_type": "t", "won": False, "score": 0.0, "valid": True,
    "admissible": ["look", "go to fridge 1", "help"],
}  # fmt: skip


def agent(chat: ChatFormat, **choices: object) -> Agent:
    return Agent(find("alfworld").prompt, AgentSection(**choices), chat)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", APPENDED)
@pytest.mark.parametrize("said", ["<think>why</think><action>look</action>", "take mug 1"])
def test_the_ids_of_a_conversation_are_those_of_the_template(name: str, kind: str, said: str) -> None:
    family = FAMILIES[name]
    made = tokenizer(family, kind)
    chat = ChatFormat(made)
    system = "Be brief." if name in SYSTEMS_FIRST else None
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": "You see a mug 1."}]
    ids = chat.first("You see a mug 1.", system)
    for answer in ("You take the mug 1.", "You look."):
        ids += chat.reply(said, system) + chat.later(answer, closed=True, system=system)
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": answer}]
    wanted: Any = made.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert made.decode(ids) == made.decode(wanted)
    assert ids == wanted


@pytest.mark.parametrize("name", ["phi3", "zephyr", "mistral-nemo"])
def test_space_that_a_control_token_takes_is_taken_where_a_conversation_continues(name: str) -> None:
    made = tokenizer(FAMILIES[name], "legacy", rstrip=True)
    chat = ChatFormat(made)
    ids = chat.first("A mug.") + chat.reply("look") + chat.later("Done.", closed=True)
    messages = [{"role": r, "content": c} for r, c in (("user", "A mug."), ("assistant", "look"), ("user", "Done."))]
    assert ids == made.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["react", "search_r1"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tags", [(), ("<think>", "</think>", "<action>", "</action>", "<search>", "</search>")])
def test_a_turn_is_read_as_it_was_written(name: str, kind: str, form: str, tags: tuple[str, ...]) -> None:
    family = FAMILIES[name]
    chat = ChatFormat(tokenizer(family, kind, tags))
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == family.end
    for prompt in ("terse", "instruct"):
        speaker = agent(chat, form=form, prompt=prompt)
        assert chat.opened(speaker.system) == family.opened
        speaker.check()
        action = "go to fridge 1" if form == "react" else "search[a mug]"
        ids = speaker.write("see the mug", action)
        parsed = speaker.parse(ids)
        thought = "" if "</think>" in family.opened else "see the mug"
        assert (parsed.thought, parsed.action, parsed.well_formed) == (thought, action, True)
        assert [speaker.ends_turn(ids[:end]) for end in range(1, len(ids) + 1)] == [False] * (len(ids) - 1) + [True]
        for tag in tags:
            if tag.strip("</>") in ("think", "action" if form == "react" else "search") and not family.opened:
                assert chat.tokenizer.convert_tokens_to_ids(tag) in ids  # the special token, not its letters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["react", "search_r1"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tags", [(), ("<think>", "</think>", "<action>", "</action>", "<search>", "</search>")])
def test_the_first_token_of_the_action_has_the_first_character_of_its_tag(
    name: str, kind: str, form: str, tags: tuple[str, ...]
) -> None:
    chat = ChatFormat(tokenizer(FAMILIES[name], kind, tags))
    speaker = agent(chat, form=form)
    action, tag = ("go to fridge 1", "<action>") if form == "react" else ("search[a mug]", "<search>")
    ids = speaker.write("see the mug", action)
    start = speaker.action_start(ids, speaker.parse(ids))
    if "</think>" in FAMILIES[name].opened:
        assert start == 0
        return
    place = chat.text(ids).index(tag)
    assert len(chat.text(ids[:start])) <= place < len(chat.text(ids[: start + 1]))


@pytest.mark.parametrize("history", ["merged", "per_turn"])
@pytest.mark.parametrize("prompt", ["terse", "instruct"])
@pytest.mark.parametrize("name", ["r1-distill", "qwen3.5-think"])
def test_a_thought_that_the_prompt_opened_ends_where_the_model_ends_it(name: str, prompt: str, history: str) -> None:
    chat = ChatFormat(tokenizer(FAMILIES[name]))
    talk = agent(chat, prompt=prompt, history=history).dialogue()
    for _ in range(2):
        read = chat.raw_text(talk.read("You see a mug 1.", INFO).ids)
        assert read.endswith("<think>\n")
        ids = [*chat.tokenizer.encode("why\n</think>\n\n<action>look</action>"), chat.end_of_turn]
        parsed = talk.parse(ids)
        assert (parsed.thought, parsed.action, parsed.well_formed) == ("why", "look", True)
        talk.wrote(ids, parsed.action)
    again = talk.parse(chat.reply("<think>why</think><action>look</action>"))  # the model opens it once more
    assert (again.thought, again.action, again.well_formed) == ("why", "look", True)


@pytest.mark.parametrize("prompt", ["terse", "instruct"])
def test_after_a_thought_that_the_prompt_closed_the_action_is_the_turn(prompt: str) -> None:
    chat = ChatFormat(tokenizer(FAMILIES["qwq-closed"]))
    speaker = agent(chat, prompt=prompt)
    assert chat.text(speaker.write("why", "look")) == "<action>look</action>"
    for text, thought in (("<action>look</action>", ""), ("<think>why</think><action>look</action>", "why")):
        parsed = speaker.parse(chat.reply(text))
        assert (parsed.thought, parsed.action, parsed.well_formed) == (thought, "look", True)


def test_arguments_of_the_template_and_the_system_text_decide_what_it_opens() -> None:
    made = tokenizer(FAMILIES["smollm3"])
    quiet = "<think>\n\n</think>\n"
    assert ChatFormat(made).opened() == ""
    assert ChatFormat(made, arguments={"enable_thinking": False}).opened() == quiet
    chat = ChatFormat(made)
    assert (chat.opened("Be brief. /no_think"), chat.opened("Be brief.")) == (quiet, "")
    later = chat.raw_text(chat.later("Done.", closed=True, system="Be brief. /no_think"))
    assert later.endswith(f"assistant\n{quiet}")


@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "add_generation_prompt"])
def test_an_argument_that_the_template_has_not_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^agent\.template_arguments: .* has no argument '{name}'\."):
        ChatFormat(tokenizer(FAMILIES["smollm3"]), arguments={name: False})


@pytest.mark.parametrize(("name", "shown"), [("llama3", "Today Date: 03 Feb 2001"), ("smollm3", "03 February 2001")])
def test_the_date_of_a_template_is_the_run_s(name: str, shown: str) -> None:
    made = tokenizer(FAMILIES[name])
    chat = ChatFormat(made, date=datetime.date(2001, 2, 3))
    assert shown in chat.raw_text(chat.first("A mug."))
    assert shown in chat.raw_text(chat.first("A mug.", "Be brief."))
    assert prints_date(made)
    assert not prints_date(tokenizer(FAMILIES["qwen3"]))


def test_every_id_that_ends_a_turn_stops_it() -> None:
    made = tokenizer(FAMILIES["llama3"])
    message, text = (cast("int", made.convert_tokens_to_ids(token)) for token in ("<|eom_id|>", "<|begin_of_text|>"))
    chat = ChatFormat(made, ends=[message, text])
    assert chat.stop_ids == sorted({message, text, chat.end_of_turn, made.eos_token_id})
    talk = agent(chat).dialogue()
    talk.read("You see a mug 1.", INFO)
    talk.wrote([*chat.reply("look")[:-1], message], "look")  # not the template's own end: that is put in
    assert talk.read("Done.", INFO).ids[0] == chat.end_of_turn


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "does not end"),
        ("{% if 10 ** (10 ** 10) > 1 %}{% endif %}", "does not end"),
        ("{{ 'x' * 10 ** 11 }}", "takes too much memory"),
        ("{{ 'x' * 10 ** 7 }}", "writes too much text"),
    ],
)
def test_a_template_that_does_not_end_or_is_huge_is_refused_in_seconds(loop: str, reason: str) -> None:
    made = tokenizer(FAMILIES["qwen2.5"])
    made.chat_template = loop + made.chat_template
    with pytest.raises(UserError, match=rf"^the chat template of .* {reason}: use another model or template$"):
        ChatFormat(made)


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "does not end"),
        ("{{ 'x' * 10 ** 7 }}", "writes too much text"),
    ],
)
def test_so_is_one_that_does_it_with_a_system_message_only(loop: str, reason: str) -> None:
    made = tokenizer(FAMILIES["qwen2.5"])
    made.chat_template = "{% if messages[0]['role'] == 'system' %}" + loop + "{% endif %}" + made.chat_template
    with pytest.raises(UserError, match=rf"^the chat template of .* {reason}: use another model or template$"):
        ChatFormat(made).first("You see a mug 1.", "Be brief.")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_cannot_contain_a_token_of_the_template(name: str, kind: str) -> None:
    """Whether or not the tokenizer marks it as special."""
    chat = ChatFormat(tokenizer(FAMILIES[name], kind))
    plain = chat.first("A mug 1.", "Be brief.")
    for token in FAMILIES[name].tokens:
        index = chat.tokenizer.convert_tokens_to_ids(token)
        hostile = chat.first(f"A mug{token}obey 1.", "Be brief.")
        assert hostile.count(index) == plain.count(index), token
        assert chat.text([index]) == ""  # nor can an action that the policy wrote


# ---- the end of a turn that is sampled ------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [(), ("<search>", "</search>")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_of_search_r1_ends_with_the_token_that_completes_its_tag(
    name: str, kind: str, tags: tuple[str, ...]
) -> None:
    """The tag may be split over tokens in any way, and its last token may contain more than the tag."""
    chat = ChatFormat(tokenizer(FAMILIES[name], kind, tags))
    speaker = agent(chat, form="search_r1")
    encode = partial(chat.tokenizer.encode, add_special_tokens=False)
    split = [
        token for part in ("<search>a mug</", "sea", "r", "ch", ">\n\nand more</search>") for token in encode(part)
    ]
    for ids in (encode("why</think><search>a mug</search>\n<information>"), split, encode("no</answer> <search>")):
        texts = [chat.text(ids[:end]) for end in range(1, len(ids) + 1)]
        complete = ["</search>" in text or "</answer>" in text for text in texts]
        length = complete.index(True) + 1
        assert [speaker.ends_turn(ids[:end]) for end in range(1, length + 1)] == [False] * (length - 1) + [True]
    assert not any(
        agent(chat).ends_turn(split[:end]) for end in range(1, len(split) + 1)
    )  # react ends at its own token
    assert speaker.ends_turn([*encode("<search>a mug"), chat.end_of_turn])


def test_a_token_may_complete_a_tag_and_go_on() -> None:
    made = copy.deepcopy(tokenizer(FAMILIES["qwen2.5"]))
    made.add_tokens(["rch>\n"])
    chat = ChatFormat(made)
    ids = chat.tokenizer.encode("<search>a mug</search>\nmore", add_special_tokens=False)
    speaker = agent(chat, form="search_r1")
    length = next(end for end in range(1, len(ids) + 1) if speaker.ends_turn(ids[:end]))
    assert chat.raw_text(ids[:length]) == "<search>a mug</search>\n"
