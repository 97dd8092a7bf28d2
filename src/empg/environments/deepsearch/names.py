"""Generated names of people, towns, companies, books, films, rivers and awards, from a small set of parts.

The parts are few and common, so that the subword vocabulary of a small model splits any name into two to four tokens.
"""

from __future__ import annotations

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _words("""
    Ada Alma Anton Arno Basil Bela Boris Carla Cato Clara Cora Dario Della Edda Elio Emil Enno Erna Fabio Felix
    Fina Gerda Gino Greta Hanno Hedda Hugo Ida Ines Ivo Jana Jonas Juno Karin Karl Kira Lars Leo Lina Lotta Luca
    Mara Marek Milo Mina Nadia Nico Nora Odo Olga Oskar Otto Paula Petra Pia Quinn Rafe Rita Rolf Rosa Sami
    Selma Sven Tara Theo Tilda Timo Ugo Ulla Vera Viktor Wanda Willi Yara Yves Zeno Zora
""")
_LAST = _words("""
    Abel Adler Arden Bauer Beck Berger Blum Brandt Busch Castle Conrad Cross Dahl Dorn Drake Ebert Ellis Engel
    Falk Fink Fisher Forst Frey Garner Gold Graf Grimm Haas Hale Hart Heller Hirsch Hollis Jansen Jarvis Kern
    Kessler Klein Koch Kramer Lang Lenz Lindt Lorenz Maier Marsh Moll Moser Nash Noll North Olsen Ott Page
    Palmer Pohl Quill Raab Rausch Reed Richter Roth Rowan Sander Sauer Sharp Sommer Stark Stein Storm Tanner
    Thorn Ullman Vance Vogel Voss Wagner Walsh Weber Winter Wolf York Zander
""")
_PLACE_BEGINS = _words("""
    Alder Amber Ash Birch Bold Bright Broad Clear Cold Dun East Elm Fair Far Fern Frost Glen Gold Green Grey
    Haven High Holm Iron Kings Lake Lang Long Marl Mill Moor New North Oak Old Pine Queens Red Rock Rose Salt
    Sand Silver South Spring Stone Sun Swan Thorn Wall West White Wild Wind Wood
""")
_PLACE_ENDS = _words("""
    bay borough bridge brook bury by cliff combe dale den field fleet ford gate ham haven hurst leigh mere more
    mouth ness port stead stow ton wall well wick worth
""")
_RIVER_BEGINS = _words("""
    Al Bra Do El Fa Ga Is Ka Lo Ne Or Pa Sa Te Ul Zi
""")
_RIVER_ENDS = _words("""
    ban dra kel lin mar mun nor ren sel tar ver vin
""")
_RIVER_KINDS = _words("""
    Black Cold Great Little Lower North South Upper
""")
_COMPANY_ENDS = _words("""
    Bank Boats Cement Dairy Energy Foods Glass Looms Mills Mines Motors Paper Press Rail Steel Tools
""")
_ADJECTIVES = _words("""
    Bitter Blue Broken Burning Crooked Dark Distant Empty Faithful Final First Frozen Gentle Golden Hidden
    Hollow Hungry Iron Last Lonely Lost Narrow Open Painted Patient Quiet Restless Scarlet Second Secret Silent
    Simple Sleeping Stolen Summer Thirsty Tired Velvet Winter
""")
_NOUNS = _words("""
    Album Anchor Bridge Candle Circus Clock Coast Crown Door Dream Engine Feast Fire Forest Garden Guest Harbour
    Hill Hour Island Journey Kingdom Ladder Lake Lantern Letter Light Market Mirror Moon Mountain Night Orchard
    Piano Promise Queen Road Room Season Shadow Ship Song Stone Storm Street Summer Tower Train Valley Voice
    Wall Window
""")
_LETTERS = "BCDEFGHJKLMNOPRSTUVW"  # without "A.", which the scoring of answers would drop as an article


def person(rng: random.Random) -> str:
    """Draw a first name and a last name; one in ten has a middle initial."""
    initial = f"{rng.choice(_LETTERS)}. " if rng.random() < 0.1 else ""
    return f"{rng.choice(_FIRST)} {initial}{rng.choice(_LAST)}"


def town(rng: random.Random) -> str:
    """Draw the name of a town: one word of two parts."""
    return rng.choice(_PLACE_BEGINS) + rng.choice(_PLACE_ENDS)


def river(rng: random.Random) -> str:
    """Draw the name of a river: two syllables, and in two of three cases a distinguishing first word."""
    kind = f"{rng.choice(_RIVER_KINDS)} " if rng.random() < 2 / 3 else ""
    return f"{kind}{rng.choice(_RIVER_BEGINS)}{rng.choice(_RIVER_ENDS)}"


def company(rng: random.Random) -> str:
    """Draw the name of a company: a last name or a town, and a trade."""
    head = rng.choice(_LAST) if rng.random() < 0.6 else town(rng)
    return f"{head} {rng.choice(_COMPANY_ENDS)}"


def work(rng: random.Random) -> str:
    """Draw the title of a book or film."""
    return f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"


def award(rng: random.Random) -> str:
    """Draw the name of an award: a last name and a kind of prize."""
    return f"{rng.choice(_LAST)} {rng.choice(('Prize', 'Medal', 'Award', 'Cup'))}"


def nickname(rng: random.Random, name: str) -> str:
    """Draw an alias of the person `name`."""
    return f"{rng.choice(_ADJECTIVES)} {name.split()[-1]}"
