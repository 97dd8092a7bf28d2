"""Record similarities of the real thefuzz 0.19 (with difflib), WebShop's measure, as facts for the tests of the reward.

    pip install thefuzz==0.19.0
    python scripts/record_thefuzz.py

Writes tests/environments/webshop/thefuzz.json: a list of [phrase, phrase, token_set_ratio], the same on each run.
python-Levenshtein must not be installed: with it, thefuzz does not use difflib.
"""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

from thefuzz import fuzz

from empg.environments.webshop.generator import generate

TARGET = Path(__file__).parents[1] / "tests/environments/webshop/thefuzz.json"
ODD = (
    "women’s", "women's", "womens", "size_8", "8", "_", "5″ wide", "5 wide", "café", "cafe", "caf", "½ cup", "1/2 cup",
    "ﬁne", "FINE", "Straße", "strasse", "漢字", "漢", "x-large", "xx-large", "large", "", " ", "!!!", "a b c", "c b a",
    "non gmo", "gmo free", "easy clean", "easy to clean", "easy cleaning", "long lasting", "long-lasting",
    "white | grey", "('color', 'white | grey')", "('size', '10.5 wide')", "10.5", "10 5", "İstanbul", "istanbul",
    "color\xa0red", "a" * 250, "ab" * 125,
)  # fmt: skip


def pairs() -> list[tuple[str, str]]:
    """Return pairs of odd phrases, and of attributes and options of the generated shop."""
    draw = random.Random(0)
    phrases: set[str] = set()
    for item in generate(100, 0):
        phrases.update(item.attributes)
        for name, values in item.options.items():
            phrases.update(values)
            phrases.update(str((name, value)) for value in values)
    listed = sorted(phrases)
    found = draw.sample(list(product(ODD, ODD)), 500)
    found += [(draw.choice(listed), draw.choice(listed)) for _ in range(500)]
    for phrase in draw.sample(
        listed, min(len(listed), 150)
    ):  # near misses: a letter is missing, two words change places
        place, words = draw.randrange(len(phrase)), phrase.split()
        found.append((phrase, phrase[:place] + phrase[place + 1 :]))
        found.append((phrase, " ".join([*words[1:], words[0] + "s"])))
    return found


def main() -> None:
    """Ask thefuzz and write its answers."""
    if fuzz.SequenceMatcher.__module__ != "difflib":
        raise SystemExit("python-Levenshtein is installed: uninstall it")
    lines = [json.dumps([*pair, fuzz.token_set_ratio(*pair)], ensure_ascii=False) for pair in pairs()]
    TARGET.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
