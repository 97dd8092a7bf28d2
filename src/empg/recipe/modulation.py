"""`credit.modulation` of a recipe: a rule of `empg.credit.MODULATIONS` by name, and its options beside the name.

The options are checked by the rule's own dataclass, so a new rule needs no change here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from empg.validation import OptionError, did_you_mean, read_settings

if TYPE_CHECKING:
    from empg.credit import Modulation

KEY = "credit.modulation"


def named(given: Any, key: str = KEY) -> Any:
    """Return the section that a value of the key stands for: a text is a name, `none` as a name is None.

    Raises:
        OptionError: options are given for `none`.
    """
    section = {"name": given} if isinstance(given, str) else given
    if not isinstance(section, dict) or section.get("name", "empg") not in (None, "none"):
        return section
    if options := [str(option) for option in section if option != "name"]:
        raise OptionError([f"{key}: name: none takes no options, got {', '.join(options):.80}"])
    return None


def read_modulation(section: Mapping[str, Any], key: str = KEY) -> Any:
    """Return the options of a section as the dataclass of its rule, with all defaults; errors name `key`.

    Raises:
        OptionError: the rule or an option is unknown, or an option has a wrong value.
    """
    name, known = section.get("name", "empg"), modulations()
    if not isinstance(name, str) or name not in known:
        end = did_you_mean(name, known)
        raise OptionError([f"{key}.name: expected one of {', '.join(known)} or null, got {name!r:.80}{end}"])
    return read_settings(known[name].options, {option: section[option] for option in section if option != "name"}, key)


def require_turn_entropy(section: Mapping[str, Any], key: str = KEY) -> None:
    """Reject a section that needs the entropy of actions, for a trainer that sees tokens and not what they say.

    Raises:
        OptionError: its option `entropy` is `action`.
    """
    if section.get("entropy") == "action":
        raise OptionError([f"{key}.entropy: expected turn, because this trainer cannot tell the action, got action"])


def named_in(recipe: Any) -> dict[str, Any]:
    """Turn names into sections of `credit`, in place, so that overrides reach into them; return a copy of this one.

    A rule that is null becomes that of the name `none`, so that an override of an option does not switch on another.
    """
    credit = recipe.get("credit")
    if not isinstance(credit, dict):
        return {}
    for key in ("modulation", "advantage", "process_reward"):
        if isinstance(credit.get(key), str):
            credit[key] = {"name": credit[key]}
    if credit.get("modulation", {}) is None:
        credit["modulation"] = {"name": "none"}
    section = credit.get("modulation")
    return dict(section) if isinstance(section, dict) else {}


def drop_options_of_the_other_rule(recipe: dict[str, Any], before: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Remove options that belong to the rule of the file where overrides chose another rule, in place.

    An option that both rules have keeps the value of the file. An option that an override sets stays, so that it is an
    error if the chosen rule does not have it. So does an option of the file that its own rule does not have, and the
    whole section if an override gave it.

    Args:
        recipe: the mapping with the overrides applied.
        before: the section of the file, before the overrides.
        overrides: `key.path=value`.
    """
    after = named_in(recipe)
    old, new = (section.get("name", "empg") for section in (before, after))
    if not before or not after or old == new:
        return
    known = modulations()
    had, has = ({f.name for f in fields(known[n].options)} if n in known else set() for n in (str(old), str(new)))
    given = {override.partition("=")[0] for override in overrides}
    if given & {KEY, "credit"}:
        return
    for option in before:
        if option in had - has and f"{KEY}.{option}" not in given:
            recipe["credit"]["modulation"].pop(option, None)


def modulations() -> Mapping[str, Modulation[Any]]:
    """Load the table, and torch with it, only for a recipe that needs it: `empg --help` stays fast."""
    from empg.credit.modulations import MODULATIONS

    return MODULATIONS
