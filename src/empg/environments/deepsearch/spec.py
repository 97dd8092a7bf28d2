"""Deep Search in the registry: how it is introduced to an agent. Its options are in `options.py`."""

from __future__ import annotations

from empg.environments.base import PromptSpec
from empg.environments.deepsearch.options import DeepSearchOptions
from empg.environments.spec import EnvironmentSpec

SPEC = EnvironmentSpec(
    id="deepsearch",
    entry_point="empg.environments.deepsearch.env:DeepSearchEnv",
    options=DeepSearchOptions,
    preparation="empg.environments.deepsearch.preparation:estimate",
    prompt=PromptSpec(
        role="You answer a question by text commands: search[query] lists pages, open[title] shows one of them, next "
        "shows the next part of a long page, and answer[text] ends the task. Answer in as few words as the question "
        "needs, and only what you have read.",
        commands=("search[query]", "open[title]", "next", "answer[text]"),
        example="<think>I need to know who wrote The Salt Road.</think><action>search[The Salt Road]</action>",
    ),
    panels=("valid_id", "valid_ood"),
    gymnasium_id="empg/DeepSearch-v1",
)
