"""Record real results of Anserini 0.14.3, the search engine of WebShop, as facts for the tests of our search.

    pip download --no-deps pyserini==0.17.0 && unzip pyserini-0.17.0-py3-none-any.whl '*.jar'
    python scripts/record_anserini.py pyserini/resources/jars/anserini-0.14.3-fatjar.jar

Needs Java 17 (a JDK, for `Anserini.java`). Writes tests/environments/anserini.json, with the same bytes on each run:
`documents` (id to text), `hits` (query to [id, score], in Anserini's order), `terms` (text to terms), `stems` (word to
stem) and `lengths` (length to the length that Lucene stores).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from pathlib import Path

from empg.environments.webshop.generator import generate
from empg.environments.webshop.search import product_text

TARGET = Path(__file__).parents[1] / "tests/environments/anserini.json"
HITS = 20  # kept per query
TEXTS = """\
The Women's shoes are for running, women’s and MEN'S and boys＇s
easy-clean, machine/washable t-shirt x-large xs us s xx-small
4.5 inch 1,000 pieces 1.5.2 3;4 9'6 5'10" 24w x 36h 10.5oz ½ cup 100% 2x4 3-pack #1 -5 $20.00
u.s.a. o'neill color:red size:xl a.b.c. e-mail@example.com https://example.com/a_b?c=d size_8 _ __a__ 1_000
café cafe\u0301 naïve ﬁne Straße ΣΊΣΥΦΟΣ İstanbul co\u00adoperate zero\u200bwidth non\u00a0breaking
漢字と red カメラ한국어 usb充電器3個 タブレット用 ひらがな々 ﾃﾚﾋﾞ ＡＢＣ１２３ 〇
ตลาดน้ำ ภาษาไทย123 ມື້ ខ្មែរ မြန်မာ हिन्दी தமிழ் العربية ١٢٣ עברית צה"ל ג'ירף
★★★ five☆star ❤ ❤️ 👍 👍🏽 👩‍👩‍👧 🇺🇸 1️⃣ #️⃣ © ® ™ ✔ a✓b • ♥love♥ ☎call 🅰 Ⓜ ㊗
m² x³ 10µm 50Ω 30°c ±5 a·b l·l 3×4 36″ 5′ “quoted” ‘single’ don’t rock’n’roll a–b a—b a…b
it's its' 's ' '' the's dress's boss’ it’s’s no.1 no. 5,000,000.00 1,2,a a,1 a.1 1.a .5 5.
assembly trekking technology feed agreed hopping falling filing happy sky relational vietnamization
"""
STEMS = (
    "y", "by", "tr", "ee", "hopp", "fall", "siz", "conflat", "happ", "play", "relat", "condition", "digit", "oper",
    "form", "depend", "trekk", "assem", "snow", "controll",
)  # fmt: skip
SUFFIXES = (
    "", "s", "es", "ies", "sses", "ss", "ed", "ing", "eed", "ated", "y", "ly", "e", "l", "ll", "ational", "tional",
    "enci", "anci", "izer", "bly", "alli", "entli", "eli", "ousli", "ization", "ation", "ator", "alism", "iveness",
    "fulness", "ousness", "aliti", "iviti", "biliti", "ology", "icate", "ative", "alize", "iciti", "ical", "ful",
    "ness", "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "sion", "tion", "ion",
    "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def documents() -> dict[str, str]:
    """Return texts by id: product texts, some repeated, with words of `TEXTS` among them, and two without terms."""
    draw = random.Random(0)
    odd = TEXTS.lower().split()
    found = {"EMPTY": "", "STOPWORDS": "the of"}
    for product in generate(100, 0):
        words = product_text(product).split()
        for _ in range(draw.randrange(4)):
            words.insert(draw.randrange(len(words) + 1), draw.choice(odd))
        found[product.asin] = " ".join(words * draw.choice((1, 1, 1, 1, 1, 2, 3)))
    return found


def queries(texts: list[str]) -> list[str]:
    """Return queries: instructions, words of the documents (some twice), and words of `TEXTS`."""
    draw = random.Random(1)
    asked = [str(product.instruction) for product in list(generate(100, 0))[::4]]
    asked += [" ".join(draw.choices(text.split(), k=4)) for text in texts[2::3]]
    return asked + TEXTS.lower().splitlines() + ["", "the of", "unknownword", "table table lamp", "table lamp lamp"]


def main() -> None:
    """Ask Anserini and write its answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jar", type=Path, help="anserini-0.14.3-fatjar.jar")
    jar = parser.parse_args().jar
    texts = documents()
    asked, lines = queries(list(texts.values())), [*TEXTS.splitlines(), "a" * 255 + "b" * 300]
    words = sorted({stem + suffix for stem in STEMS for suffix in SUFFIXES})
    lengths = [*range(100), *(2**power + extra for power in range(7, 31) for extra in (-1, 0, 1, 24))]
    questions = {"documents": texts, "queries": asked, "texts": [*lines, *words], "lengths": lengths}
    with tempfile.TemporaryDirectory() as folder:
        source, answers = Path(folder, "questions.json"), Path(folder, "answers.json")
        source.write_text(json.dumps(questions), encoding="utf-8")
        program = Path(__file__).with_name("Anserini.java")
        subprocess.run(["java", "-cp", jar, program, source, answers], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(answers.read_text(encoding="utf-8"))
    terms = dict(zip(questions["texts"], found["terms"], strict=True))
    facts = {
        "source": "Anserini 0.14.3 (pyserini 0.17.0 on PyPI), recorded by scripts/record_anserini.py",
        "documents": texts,
        "hits": {query: hits[:HITS] for query, hits in zip(asked, found["hits"], strict=True)},
        "terms": {line: terms[line] for line in lines},
        "stems": {word: " ".join(terms[word]) for word in words},
        "lengths": dict(zip(map(str, lengths), found["lengths"], strict=True)),
    }
    parts = (f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
    TARGET.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
