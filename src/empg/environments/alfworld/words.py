"""The text that the agent reads: the sentences of alfworld 0.4.2's grammar, and the names of things."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

NOTHING_HAPPENS = "Nothing happens."

MIDDLE_OF_ROOM = "You are in the middle of a room. Looking quickly around you, you see "

HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


def display_names(ids: Iterable[str]) -> dict[str, str]:
    """Map the ids of one room to display names: "Mug_bar_..." becomes "mug 2".

    All ids of a room must be passed together. The first id of a kind in alphabetical order gets the highest number.
    An id that contains "basin" names a basin: "Sink_bar_<place>_bar_SinkBasin" is "sinkbasin 1".
    """
    ordered = sorted(ids, key=str.lower)
    kinds = {}
    for id in ordered:
        lower = id.lower()
        kind = lower.split("_bar_", 1)[0]
        kinds[id] = kind + "basin" if "basin" in lower else kind
    left = Counter(kinds.values())
    names = {}
    for id in ordered:
        kind = kinds[id]
        names[id] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names


def listing(names: Sequence[str]) -> str:
    """Join names like the grammar: "nothing", "x", "x, and y", "x, y, and z"."""
    if not names:
        return "nothing"
    if len(names) == 1:
        return names[0]
    return ", ".join(names[:-1]) + ", and " + names[-1]


def named(observation: str) -> list[str]:
    """Return all names in an observation, receptacles and items, in order."""
    return re.findall(r"\b[a-z]+ [0-9]+\b", observation)


def listed(observation: str) -> list[str]:
    """Return the names with an article in an observation, in order. These are the listed items."""
    return re.findall(r"\ba ([a-z]+ [0-9]+)\b", observation)


def things(names: Sequence[str]) -> str:
    """Join names with articles; the article is "a" even before vowels."""
    return listing(["a " + name for name in names])


def opening(scene: str, task: str) -> str:
    """Return the first observation of an episode."""
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{scene}\n\nYour task is to: {task}."


def facing(receptacles: Sequence[str], beside: Sequence[str]) -> str:
    """Return the observation of `look` at one receptacle, or at several that share a location."""
    return f"You are facing the {listing(receptacles)}. Next to it, you see {things(beside)}."


def receptacle_sight(name: str, openable: bool, is_open: bool, contents: Sequence[str]) -> str:
    """Return the visible state and contents of a receptacle at the agent's location."""
    if not openable:
        return f"On the {name}, you see {things(contents)}."
    if is_open:
        return f"The {name} is open. In it, you see {things(contents)}."
    return f"The {name} is closed."


def item_sight(name: str, *, clean: bool, hot: bool, cool: bool, sliced: bool, lit: bool) -> str:
    """Return the observation of `examine` for an item that is not a container."""
    warmth = "hot" if hot else "cool" if cool else ""
    if clean and warmth:
        state = f"{warmth} and clean"
    elif clean:
        state = "clean"
    elif warmth:
        # The only place where the grammar says "cold" instead of "cool".
        state = "cold" if cool and not hot and not sliced else warmth
    else:
        state = ""
    if sliced:
        state = f"{state} sliced" if state else "sliced"
    if state:
        return f"This is a {state} {name}."
    return f"This {name} is on." if lit else f"There's nothing special about {name}."


def container_sight(name: str, contents: Sequence[str]) -> str:
    """Return the observation of `examine` for an item that can contain others, such as a bowl."""
    return f"This is a normal {name}. In it, you see {things(contents)}."
