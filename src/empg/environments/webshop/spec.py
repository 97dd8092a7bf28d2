"""WebShop in the registry: its options and how it is introduced to an agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, StrictBool, StrictInt

from empg.environments.base import PromptSpec
from empg.environments.options import EnvironmentOptions, FilePath
from empg.environments.spec import EnvironmentSpec
from empg.environments.webshop.nouns import NounRule, resolve_rule
from empg.environments.webshop.world import HITS

SplitScheme = Literal["paper", "verl-agent"]
Observation = Literal["text", "text_rich"]
Reward = Literal["score", "binary"]


class WebShopOptions(EnvironmentOptions):
    """Options of WebShop."""

    data: FilePath | None = Field(
        None, description="official files, their folder, or an indexed folder; null generates a shop"
    )
    products: StrictInt | None = Field(
        None,
        ge=1,
        description="products of the generated shop (null: 1,000), or how many records of the official file to read "
        "(null: all)",
    )
    seed: StrictInt = Field(0, description="seed of the generated shop")
    cache: FilePath | None = Field(
        None,
        description="the folder that keeps the index of official files (null: beside them) or of a generated shop of "
        "more than 20,000 products (null: `$XDG_CACHE_HOME/empg`)",
    )
    human_goals: StrictBool = Field(
        False, description="goals that people wrote (official files only) instead of synthetic ones"
    )
    split_scheme: SplitScheme = Field("paper", description="which goals belong to which split, see below")
    observation: Observation = Field("text", description="`text_rich` marks what was clicked")
    reward: Reward = Field("score", description="`score` is in [0, 1]; `binary` is 1 for a full score, else 0")
    nouns: NounRule = Field(
        "auto",
        description="how the reward finds the nouns of a title; `auto`: spaCy for official files if it is installed "
        "(`empg[spacy]`), else the lexicon",
    )
    results_per_page: StrictInt = Field(
        10, ge=1, le=HITS, description="products on a results page; 3 to 5 suit a small model"
    )
    show_chosen_options: StrictBool = Field(
        False, description="mark chosen values in `text` mode; the original does not show them there"
    )
    stop_at_last_page: StrictBool = Field(
        False, description="no `Next >` on the last page; the original leads on to empty pages"
    )
    reach_bracketed_values: StrictBool = Field(
        False, description="let `click[...]` name a value that holds a bracket, or is the word `search`"
    )

    def resolved(self) -> WebShopOptions:
        """Return these options with the noun rule that is used on this machine."""
        return self.model_copy(update={"nouns": resolve_rule(self.nouns, generated=_is_generated(self.data))})


def _is_generated(data: Path | None) -> bool:
    """Return whether a shop is generated: without data, or from the indexed folder of a generated shop."""
    if data is None:
        return True
    file = data / "catalogue.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError:
        return False  # the file is damaged, which is an error when the catalogue is opened
    return isinstance(about, dict) and bool(about.get("generated"))


SPEC = EnvironmentSpec(
    id="webshop",
    entry_point="empg.environments.webshop.env:WebShopEnv",
    options=WebShopOptions,
    preparation="empg.environments.webshop.preparation:estimate",
    prompt=PromptSpec(
        role="You shop in an online store by text commands. Search, compare, choose the options that are asked for, "
        "and buy what fits best, in as few steps as you can.",
        example="<think>I need red lip gloss.</think><action>search[red lip gloss]</action>",
        commands=("search[words]", "click[button, product or value]"),
        told_by_observation=True,
    ),
    panels=("dev", "test"),
    gymnasium_id="empg/WebShop-v1",
)
