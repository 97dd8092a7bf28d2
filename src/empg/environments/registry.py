"""Environments by name: this package's own, those that other packages declare, and any gymnasium id that speaks text.

A name is looked up in this order:

1. environments passed to `register`, including this package's;
2. the entry points of the group `empg.environments` of all installed packages: the name of an entry point is the id,
   its value `package.module:SPEC` an `EnvironmentSpec`. One that cannot be loaded is an error only for its own id;
3. gymnasium ids (`Name-v0`, or `package.module:Name-v0`, which imports the module first).

Nothing here imports an environment before it is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import gymnasium

from empg.environments.base import TextEnvironment
from empg.environments.gymnasium_text import gymnasium_spec, open_gymnasium
from empg.environments.options import EnvironmentOptions, read_options
from empg.environments.preparation import Preparation
from empg.environments.spec import EnvironmentSpec
from empg.errors import UserError, described, failures_as
from empg.validation import nearest

__all__ = ["EnvironmentSpec", "Maker", "find", "known_ids", "make", "preparation", "register", "register_own"]

GROUP = "empg.environments"


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes environments of one kind and split. It can be sent to another process, which then imports no recipe."""

    spec: EnvironmentSpec
    split: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int | None = None

    def __call__(self) -> TextEnvironment:
        """Make a new environment.

        Raises:
            UserError: the options, the split or the limit do not fit it, or something that it needs is missing.
        """
        options = read_options(self.spec.options, self.options).model_dump()
        if self.spec.entry_point is None:
            return open_gymnasium(str(self.spec.gymnasium_id), self.split, options, self.max_steps)
        limit = {} if self.max_steps is None else {"max_steps": self.max_steps}
        made = _load(self.spec.id, self.spec.entry_point)(split=self.split, **limit, **options)
        if not isinstance(made, TextEnvironment):
            kind = type(made).__name__
            place = self.spec.entry_point
            raise UserError(f"environment {self.spec.id!r}: expected a TextEnvironment from {place}, got a {kind}")
        return made


def preparation(spec: EnvironmentSpec, options: EnvironmentOptions) -> Preparation | None:
    """Return what must be built before the first episode of an environment; None if nothing, or if it is quick.

    Raises:
        UserError: something that the options name is not there, or is wrong; or the spec names no function.
    """
    if spec.preparation is None:
        return None
    found: Preparation | None = _load(spec.id, spec.preparation)(options)
    return found


# A place (`package.module:SPEC`) becomes a spec when it is first asked for.
_registered: dict[str, str | EnvironmentSpec] = {
    "alfworld": "empg.environments.alfworld.spec:SPEC",
    "webshop": "empg.environments.webshop.spec:SPEC",
    "deepsearch": "empg.environments.deepsearch.spec:SPEC",
}


def register(spec: EnvironmentSpec) -> None:
    """Make an environment known in this process, under its id and its gymnasium id.

    An installed package declares an entry point instead: then every process knows it, workers included.

    Raises:
        UserError: the id or the gymnasium id is taken by another environment, or gymnasium refuses it. Nothing is kept
            then.
    """
    known = _registered.get(spec.id)
    if known is not None and _resolved(spec.id, known) != spec:
        raise UserError(f"the environment id {spec.id!r} is taken already; choose another")
    _keep(spec)


def known_ids() -> list[str]:
    """Return every id that was registered or declared, without loading any."""
    return list(dict.fromkeys([*_registered, *(point.name for point in entry_points(group=GROUP))]))


def find(id_: str) -> EnvironmentSpec:
    """Return the environment of that name.

    Raises:
        UserError: there is none, or its declaration cannot be loaded.
    """
    if id_ in _registered:
        return _resolved(id_, _registered[id_])
    declared = list(entry_points(group=GROUP, name=id_))
    if declared:
        return _declared(id_, declared)
    for known, place in list(_registered.items()):
        spec = _resolved(known, place)
        if spec.gymnasium_id == id_:
            return spec
    return gymnasium_spec(id_) or _unknown(id_)


def make(
    id_: str, split: str, options: Mapping[str, Any] | None = None, max_steps: int | None = None
) -> TextEnvironment:
    """Make an environment for one split.

    Args:
        id_: see `find`.
        split: which tasks.
        options: other arguments of its constructor; what is left out has its default.
        max_steps: turns per episode; None takes the environment's own limit.

    Raises:
        UserError: there is no such environment, or the arguments do not fit it.
    """
    return Maker(find(id_), split, options or {}, max_steps)()


def _resolved(id_: str, place: str | EnvironmentSpec) -> EnvironmentSpec:
    if isinstance(place, str):
        place = _registered[id_] = _load(id_, place)
        assert isinstance(place, EnvironmentSpec)
    return place


def _keep(spec: EnvironmentSpec) -> None:
    """Store a spec, and register it with gymnasium first, so that nothing is stored if that fails."""
    if spec.gymnasium_id is not None:
        _register_with_gymnasium(spec, spec.gymnasium_id)
    _registered[spec.id] = spec


def _register_with_gymnasium(spec: EnvironmentSpec, id_: str) -> None:
    if spec.entry_point is None:
        if id_.rpartition(":")[2] not in gymnasium.registry:
            raise UserError(f"environment {spec.id!r}: gymnasium has no {id_}; give an entry_point")
    elif id_ not in gymnasium.registry:
        try:
            gymnasium.register(id_, entry_point=spec.entry_point, disable_env_checker=True)
        except gymnasium.error.Error as error:
            raise UserError(
                f"environment {spec.id!r}: gymnasium refuses its id {id_!r:.80}: {described(error)}"
            ) from None
    elif _place(gymnasium.registry[id_].entry_point) != spec.entry_point:
        raise UserError(f"environment {spec.id!r}: the gymnasium id {id_!r} is taken already; choose another")


def _place(entry_point: Any) -> str:
    """Write an entry point of gymnasium, a text or the class itself, as `package.module:Class`."""
    return f"{entry_point.__module__}:{entry_point.__qualname__}" if callable(entry_point) else str(entry_point)


def _declared(id_: str, points: list[EntryPoint]) -> EnvironmentSpec:
    where = " and ".join(_distribution(point) for point in points)
    if len(points) > 1:
        raise UserError(f"environment {id_!r} is declared by {where}: uninstall one of them")
    try:
        spec = points[0].load()
    except (Exception, SystemExit) as error:  # whatever another package raises must not stop the rest
        place = points[0].value
        raise UserError(f"environment {id_!r} of {where} cannot be loaded from {place}: {described(error)}") from error
    if not isinstance(spec, EnvironmentSpec) or spec.id != id_:
        got = f"one of id {spec.id!r}" if isinstance(spec, EnvironmentSpec) else f"a {type(spec).__name__}"
        raise UserError(f"environment {id_!r} of {where}: expected an EnvironmentSpec of that id, got {got}")
    _keep(spec)
    return spec


def _distribution(point: EntryPoint) -> str:
    return "an unnamed distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _unknown(id_: str) -> EnvironmentSpec:
    known = known_ids()
    module, colon, _ = id_.rpartition(":")  # a name is unknown without the module that registers it
    meant = nearest(id_, [*known, *gymnasium.registry, *(f"{module}{colon}{name}" for name in gymnasium.registry)])
    hint = f"; did you mean {meant!r}?" if meant is not None else "."
    raise UserError(
        f"unknown environment {id_!r:.80}{hint} Known: {', '.join(known)}, and gymnasium ids whose observations and "
        "actions are text"
    )


def _load(id_: str, place: str) -> Any:
    """Return what stands at a place of an environment.

    Raises:
        UserError: there is no such place, or its module cannot be imported; the message names both.
    """
    module, _, name = place.partition(":")
    with failures_as(lambda error: f"environment {id_!r} cannot be loaded from {place}: {described(error)}"):
        return getattr(importlib.import_module(module), name)


def register_own() -> None:
    """Register this package's environments with gymnasium; to be called once, at import."""
    for id_, place in list(_registered.items()):
        _keep(_resolved(id_, place))
