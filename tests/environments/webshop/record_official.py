"""Regenerate golden.json by running the original WebShop's page and reward code on the shops of shops.py.

python tests/environments/webshop/record_official.py PATH_TO_WEBSHOP

Needs a checkout of princeton-nlp/WebShop and flask, beautifulsoup4, thefuzz==0.19.0, tqdm, rich.
The random and Java parts of the original are replaced by ours: prices and price bounds, the search index, and spaCy's
tagger (by the lexicon). The pages, the clickable elements, the reward and the order of the goals are the original's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from empg.environments.webshop.goals import GoalKind
from empg.environments.webshop.nouns import lexicon_nouns
from empg.environments.webshop.shop import Shop
from tests.environments.webshop.shops import shelves_shop, small_shop, write_official, write_shelves

# Per shop: (kind of goals, the asin whose first goal is played, commands)
SMALL: list[tuple[GoalKind, str, list[str]]] = [
    (
        "synthetic",
        "B000TABLE1",
        [
            *(
                "search[console table]",
                "click[next >]",
                "click[next >]",
                "click[< prev]",
                "click[< prev]",
                "click[search]",
            ),
            *(
                "click[b000table1]",
                "click[white | grey]",
                "click[antique wood]",
                "click[54 inch]",
                "click[description]",
            ),
            *("click[< prev]", "click[reviews]", "click[< prev]", "click[features]", "nonsense", "click[buy now]"),
            *("click[< prev]", "click[Buy Now]"),
        ],
    ),
    (
        "synthetic",
        "B000SCRIPT",
        [
            *("search[lip gloss]", "CLICK[b000script]", "click[B000SCRIPT]", "click[Description]", "click[< Prev]"),
            *("click[Features]", "click[< prev]", "click[nude <i>]", "click[dark red]", "click[back to search]"),
            *("search[gloss]", "click[b000script]", "click[rose gold]", "click[buy now]"),
        ],
    ),
    (
        "synthetic",
        "B000RUGRUG",
        [
            *("search[<q> area rugs]", "click[b000rugrug]", "click[plain [2 pack]]", "click[plain]", "click[color]"),
            *("click[red]", "click[café]", "click[features]", "click[< prev]", 'search[rug "red" "plain"]'),
            *("click[b000rugrug]", "click[red]", "click[< prev]", "click[b000rugrug]", "click[buy now]"),
        ],
    ),
    (
        "synthetic",
        "B000EMPTY1",
        [
            *("search[ ]", "search[zzz]", "search[<c> beauty]", "search[bare stool]", "click[b000empty1]"),
            *("click[description]", "click[< prev]", "click[features]", "search[blank stool]", "click[b000blanks]"),
            *("click[description]", "click[< prev]", "click[features]", "click[< prev]", "click[buy now]"),
        ],
    ),
    ("human", "B000TABLE1", ["search[table]", "click[b000table1]", "click[white | grey]", "click[buy now]"]),
    ("human", "B000SCRIPT", ["search[gloss]", "click[b000script]", "click[rose gold]", "click[buy now]"]),
    ("synthetic", "B000DEAR01", ["search[marble table]", "click[b000dear01]", "click[gold]", "click[buy now]"]),
]
SHELVES: list[tuple[GoalKind, str, list[str]]] = [
    (
        "synthetic",
        "B000RANGED",
        [
            *("search[shelf]", *["click[next >]"] * 5, *["click[< prev]"] * 5, "click[next >]", "click[b000shlf12]"),
            *("click[< prev]", "search[<q> shelves]", *["click[next >]"] * 5, "search[shelf 7]", "search[ladder]"),
            *("click[b000nulled]", "click[description]", "click[< prev]", "click[features]", "click[back to search]"),
            *("search[ladder]", "click[b000ranged]", "click[search]", "click[wood | steel]", "click[wood  |  steel]"),
            *("click[tall]", "click[wood | brass]", "click[features]", "click[< prev]", "click[buy now]"),
        ],
    ),
]


def stand_in(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


def import_original(checkout: Path) -> tuple[Any, Any]:
    """Import the original's engine and text environment, with stubs for imports that are not needed here."""
    sys.path.insert(0, str(checkout))
    stand_in("cleantext")
    stand_in("rank_bm25", BM25Okapi=None)
    stand_in("gym", Env=object)
    stand_in("torch")
    for name in ("pyserini", "pyserini.search", "pyserini.search.lucene"):
        stand_in(name, LuceneSearcher=None)

    def tag(title: str) -> list[Any]:
        return [types.SimpleNamespace(text=word, pos_="NOUN") for word in lexicon_nouns(title)]

    stand_in("spacy", load=lambda name: tag)
    package = types.ModuleType("web_agent_site.envs")  # the original package would register with gym
    package.__path__ = [str(checkout / "web_agent_site" / "envs")]
    sys.modules["web_agent_site.envs"] = package
    from web_agent_site.engine import engine
    from web_agent_site.envs import web_agent_text_env

    return engine, web_agent_text_env


class Searcher:
    """Our index behind pyserini's interface."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def search(self, query: str, k: int) -> list[Any]:
        return [types.SimpleNamespace(docid=row) for row in self._shop.catalogue.index.find(query, k)]

    def doc(self, row: int) -> Any:
        return types.SimpleNamespace(raw=lambda: json.dumps({"id": self._shop.catalogue.product(row).asin}))


def play(module: Any, shop: Shop, data: Path, kind: GoalKind, asin: str, actions: list[str]) -> dict[str, Any]:
    environment = module.WebAgentTextEnv("text", str(data), human_goals=kind == "human")
    server = environment.server
    for row in range(len(shop.catalogue)):
        server.product_prices[shop.catalogue.product(row).asin] = float(shop.catalogue.prices[row])
    for number, goal in enumerate(server.goals):
        ours = shop.goal(kind, number)
        goal["instruction_text"], goal["price_upper"] = ours.instruction, ours.price_upper
    number = next(i for i, goal in enumerate(server.goals) if goal["asin"] == asin)
    environment.reset(session=number)
    turns = [look(environment, None, 0.0, False)]
    for action in actions:
        _, reward, done, _ = environment.step(action)
        turns.append(look(environment, action, reward, done))
    return {"kind": kind, "goals": [goal["asin"] for goal in server.goals], "goal": number, "turns": turns}


def look(environment: Any, action: str | None, reward: float, done: bool) -> dict[str, Any]:
    seen: dict[str, Any] = {"action": action, "reward": reward, "done": done}
    for mode in ("text", "text_rich"):
        environment.observation_mode = mode
        seen[mode] = environment.observation
    return {**seen, "clickables": environment.get_available_actions()["clickables"]}


def main() -> None:
    engine, module = import_original(Path(sys.argv[1]).resolve())
    plays = []
    for name, shop, write, specs in (
        ("small", small_shop(), write_official, SMALL),
        ("shelves", shelves_shop(), write_shelves, SHELVES),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            data = write(Path(scratch))
            engine.DEFAULT_ATTR_PATH = str(data.with_name("items_ins_v2_1000.json"))
            engine.HUMAN_ATTR_PATH = str(data.with_name("items_human_ins.json"))
            module.init_search_engine = lambda num_products=None, shop=shop: Searcher(shop)
            plays += [{"shop": name, **play(module, shop, data, *spec)} for spec in specs]
    text = json.dumps(plays, indent=1, ensure_ascii=False)
    Path(__file__).with_name("golden.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(plays)} plays, {sum(len(play['turns']) for play in plays)} pages")


if __name__ == "__main__":
    main()
