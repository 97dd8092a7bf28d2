"""Evaluate any model on whole panels: through transformers, or behind an OpenAI-compatible endpoint.

The result is a run folder with one evaluation at iteration 0, which `compare` reads. Each episode is kept there as soon
as it has ended, so that an evaluation that was killed continues where it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from empg.environments.base import TextEnvironment
from empg.environments.panels import Panel
from empg.environments.progress_bar import Done, no_bars
from empg.errors import UserError
from empg.policy.decode import Sampling
from empg.policy.fingerprint import fingerprint
from empg.recipe import Recipe, dump_recipe, override_recipe
from empg.recipe.recorded import flat
from empg.record.durable import write_file
from empg.record.errors import os_errors_as
from empg.record.played import PlayedEpisodes
from empg.record.records import EpisodeRow, EvalRecord, eval_records
from empg.record.runfolder import RunFolder
from empg.rollout.baselines import NoBaselineError, expert_episode, random_episode
from empg.rollout.chat_collector import Ask, ChatCollector, Usage
from empg.rollout.collector import Request
from empg.rollout.endpoint import Endpoint, is_endpoint
from empg.rollout.env_pool import make_env_pool
from empg.rollout.types import Episode
from empg.run.build import build_policy, play, resolve
from empg.run.columns import episode_rows
from empg.run.display import Stage
from empg.run.evaluate import panel_of, panel_requests, recorded_temperature, summarise
from empg.run.recipe import recipe_of

# For a model that was not trained on the format. A prompt per turn has the same length at every turn; a `merged`
# conversation costs the square of the turns.
_AGENT = {"prompt": "instruct", "history": "per_turn"}
_ROLLOUT = {"max_turn_tokens": 512, "max_episode_tokens": 4096, "slots": 8}
# Keys that a repeated evaluation may change: no result depends on them, or the record of the evaluation has them.
_FREE = ("name", "evaluation", "environment.workers", "rollout.slots", "policy.device")

_KEPT_OF_A_TURN = ("observation", "text", "action", "valid")
Keep = Callable[[Episode, Usage | None], None]


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """The evaluation of one panel.

    `usage` has the sums over all episodes; None for a local model. `baselines` has the records of `expert` and `random`
    on the same panel, without those that the environment does not have.
    """

    record: EvalRecord
    usage: Usage | None
    baselines: dict[str, EvalRecord]


def model_recipe(
    model: str, environment: str, splits: Sequence[str], episodes: int | None, temperature: float | None,
    overrides: Sequence[str],
) -> Recipe:  # fmt: skip
    """Return the recipe of an evaluation: defaults for an untrained model, and `key=value` overrides.

    Raises:
        UserError: a name, key or value is wrong.
    """
    if any(override.partition("=")[0].strip() == "evaluation.decoding" for override in overrides):
        raise UserError("evaluation.decoding: use --decoding, which evaluates one way at a time")
    chosen = {"splits": list(splits) or None, "episodes": episodes, "temperature": temperature}
    data: dict[str, Any] = {
        "name": "evaluation",
        "environment": {"id": environment},
        "policy": {"model": model},
        "agent": dict(_AGENT),
        "rollout": dict(_ROLLOUT),
        "evaluation": {key: value for key, value in chosen.items() if value is not None},
    }
    return override_recipe(data, overrides, "evaluate")


def default_folder(model: str, environment: str) -> Path:
    """Return the folder of an evaluation for which none was named."""
    name = f"{environment}/{model.rpartition('#')[2]}"
    words = [word for word in re.split(r"[^A-Za-z0-9_.-]+", name) if word.strip(".")]
    return Path("evaluations") / "-".join(words)[-120:]


def evaluate_model(
    recipe: Recipe,
    path: Path,
    decoding: str = "sampled",
    *,
    key_variable: str | None = None,
    baselines: bool = True,
    stage: Stage | None = None,
) -> list[ModelEvaluation]:
    """Evaluate the recipe's model on the recipe's panels.

    Args:
        recipe: the settings; `rollout.slots` episodes are played at once.
        path: folder of the evaluation. If it has episodes of the same evaluation, they are not played again.
        decoding: `sampled` or `greedy`.
        key_variable: environment variable with the API key of an endpoint.
        baselines: whether the expert and a random policy play the panels as well.
        stage: called with the name and the length of each panel; returns the function to call with the number of
            finished episodes.

    Raises:
        UserError: the model is unavailable, the folder has an evaluation with other settings or of other weights, or
            it is in use.
    """
    evaluations = _continue if RunFolder(path).exists else _begin
    return evaluations(recipe, path, _Options(decoding, key_variable, baselines, stage or no_bars))


@dataclass(frozen=True, slots=True)
class _Options:
    """Arguments of `evaluate_model` that no recipe has."""

    decoding: str
    key_variable: str | None
    baselines: bool
    stage: Stage


def _begin(recipe: Recipe, path: Path, options: _Options) -> list[ModelEvaluation]:
    """Evaluate into a new folder, which a wrong model does not leave behind."""
    recipe = resolve(recipe)
    player = _player(recipe, options)
    with RunFolder.reserve(path).hold():
        folder = RunFolder.create(path, dump_recipe(recipe))
        _record_model(folder, _model_fingerprint(recipe))
        return _evaluate_panels(recipe, folder, player, options)


def _continue(recipe: Recipe, path: Path, options: _Options) -> list[ModelEvaluation]:
    """Evaluate into a folder that has a recipe; if it has no episode yet, it takes the recipe of this evaluation."""
    folder = RunFolder.open(path)
    with folder.hold():
        begun = _is_begun(folder)
        recipe = resolve(recipe, recipe_of(folder) if begun else None)
        if begun:
            _require_same(folder, recipe)
        player = _player(recipe, options)
        if begun:
            _require_same_model(folder, recipe.policy.model, _model_fingerprint(recipe))
        else:
            folder.replace_recipe(dump_recipe(recipe))
            _record_model(folder, _model_fingerprint(recipe))
        return _evaluate_panels(recipe, folder, player, options)


def _evaluate_panels(recipe: Recipe, folder: RunFolder, player: _Player, options: _Options) -> list[ModelEvaluation]:
    return [_evaluate(recipe, folder, split, player, options) for split in recipe.evaluation.panels]


def _model_fingerprint(recipe: Recipe) -> str | None:
    """Return the fingerprint of a model on this machine; that of an endpoint is unknown."""
    return None if is_endpoint(recipe.policy.model) else fingerprint(recipe.policy.model)


def _evaluate(recipe: Recipe, folder: RunFolder, split: str, player: _Player, options: _Options) -> ModelEvaluation:
    panel, began = panel_of(recipe, split), time.perf_counter()
    decoding = options.decoding
    identity = {
        "iteration": 0,
        "split": split,
        "decoding": decoding,
        "panel_sha256": panel.sha256,
        "temperature": recorded_temperature(recipe, decoding),
    }
    played = PlayedEpisodes(folder.played_path(identity))
    count = len(panel.tasks)
    done = options.stage(f"evaluate {split} ({decoding})", count)
    done(len(played.lines))

    def keep(episode: Episode, usage: Usage | None) -> None:
        played.add(episode.group, _kept(episode, usage))
        done(len(played.lines))

    missing = [request for request in panel_requests(panel) if request.group not in played.lines]
    try:
        if missing:
            player(split, missing, keep)
    except UserError as error:
        finished = f"{len(played.lines)} of {count} episodes are kept in {folder.path}"
        raise UserError(f"{error}. {finished}: repeat the command to resume") from None
    lines = [played.lines[place] for place in range(count)]
    rows: list[EpisodeRow] = [line["row"] for line in lines]
    record = summarise(recipe, panel, rows, decoding=decoding, iteration=0, seconds=time.perf_counter() - began)
    before = [r for r in eval_records(folder.read_metrics()) if all(r.get(k) == v for k, v in identity.items())]
    if not before:
        folder.write_evaluation(record, rows)
        folder.append_metrics(record)
    compared = _baselines(recipe, panel, options.stage) if options.baselines else {}
    usage = _total([line.get("usage") for line in lines]) if is_endpoint(recipe.policy.model) else None
    # A record of an earlier version may lack a field.
    return ModelEvaluation({**record, **before[0]} if before else record, usage, compared)


# --- who plays -------------------------------------------------------------------------------------------------------

_Player = Callable[[str, Sequence[Request], Keep], None]
"""Plays requests of a split and keeps each episode when it ends."""


def _player(recipe: Recipe, options: _Options) -> _Player:
    key_variable = options.key_variable
    greedy, temperature, rollout = options.decoding == "greedy", recipe.evaluation.temperature, recipe.rollout
    if is_endpoint(recipe.policy.model):
        if recipe.agent.date is not None:
            raise UserError("agent.date: the server of policy.model fills in its chat template; remove the key")
        sampling = Sampling(temperature, rollout.top_p, greedy, rollout.max_turn_tokens)
        arguments = recipe.agent.template_arguments
        endpoint = Endpoint(recipe.policy.model, sampling, key_variable, template_arguments=arguments)
        return _chat_player(recipe, endpoint)
    if key_variable is not None:
        raise UserError(f"--key-variable is for openai:URL#MODEL; {recipe.policy.model!r:.80} runs on this machine")
    policy = build_policy(recipe)
    policy.model.eval()

    def local(split: str, requests: Sequence[Request], keep: Keep) -> None:
        def kept(episode: Episode) -> None:
            keep(episode, None)

        play(recipe, policy, split, requests, greedy=greedy, temperature=temperature, keep=kept)

    return local


def _chat_player(recipe: Recipe, ask: Ask) -> _Player:
    environment, rollout = recipe.environment, recipe.rollout

    def remote(split: str, requests: Sequence[Request], keep: Keep) -> None:
        pool = make_env_pool(environment.maker(split), environment.workers)
        try:
            ChatCollector(
                ask=ask,
                prompt_spec=environment.spec.prompt,
                section=recipe.agent,
                pool=pool,
                split=split,
                max_tokens=rollout.max_episode_tokens,
                slots=rollout.slots,
            ).collect(requests, keep)
        finally:
            pool.close()

    return remote


def _baselines(recipe: Recipe, panel: Panel, stage: Stage) -> dict[str, EvalRecord]:
    """Let the expert and the random policy play a panel, as far as the environment has them."""
    environment = recipe.environment.make(panel.split)
    found = {}
    try:
        for name, one in (("expert", expert_episode), ("random", random_episode)):
            done = stage(f"evaluate {panel.split} ({name})", len(panel.tasks))
            episodes = _played_with(environment, panel, one, done)
            if episodes is not None:
                rows = episode_rows(episodes)
                found[name] = summarise(recipe, panel, rows, decoding=name, iteration=0, seconds=0.0)
    finally:
        environment.close()
    return found


def _played_with(
    environment: TextEnvironment,
    panel: Panel,
    one: Callable[[TextEnvironment, int, int], Episode],
    done: Done,
) -> list[Episode] | None:
    episodes: list[Episode] = []
    try:
        for place, task in enumerate(panel.tasks):
            episodes.append(one(environment, task, place))
            done(len(episodes))
    except NoBaselineError:
        return None
    return episodes


# --- what is kept ----------------------------------------------------------------------------------------------------


def _kept(episode: Episode, usage: Usage | None) -> dict[str, Any]:
    """Return the line of an episode: its row, what it cost, and its turns for people to read."""
    [row] = episode_rows([episode])
    if usage is not None:
        row["action_tokens"], row["tokens"] = usage.completion_tokens, usage.context
    return {
        "row": row,
        "usage": None if usage is None else asdict(usage),
        "task": episode.task,
        "error": episode.error,
        "turns": [{name: getattr(turn, name) for name in _KEPT_OF_A_TURN} for turn in episode.turns],
    }


def _total(kept: list[dict[str, int] | None]) -> Usage:
    counted = [usage for usage in kept if usage is not None]
    return Usage(**{field.name: sum(usage.get(field.name, 0) for usage in counted) for field in fields(Usage)})


def _is_begun(folder: RunFolder) -> bool:
    """Return whether the folder has a record or an episode; else its settings mean nothing yet."""
    return bool(folder.read_metrics()) or folder.has_played()


def _require_same(folder: RunFolder, recipe: Recipe) -> None:
    """Make sure that the folder's evaluation has the settings of this one."""
    there, here = (
        {key: value for key, value in flat(of.model_dump(mode="json")).items() if value != {}}
        for of in (recipe_of(folder), recipe)
    )
    differing = [
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in {**there, **here}
        if there.get(key) != here.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in _FREE)
    ]
    if differing:
        shown = "; ".join(differing[:3])
        raise UserError(f"{folder.path} has an evaluation with other settings: {shown}. Name another folder with --out")


def _record_model(folder: RunFolder, model: str | None) -> None:
    if model is not None:
        write_file(folder.model, model)
        return
    with os_errors_as(f"cannot remove {folder.model}"):
        folder.model.unlink(missing_ok=True)


def _require_same_model(folder: RunFolder, name: str, model: str | None) -> None:
    """Make sure that the folder's evaluation is of these weights; `model` is their fingerprint."""
    file = folder.model
    # An evaluation of an earlier version has no such file.
    if model is not None and file.exists() and file.read_bytes() != model.encode():
        raise UserError(
            f"the files of {name} have changed since the evaluation in {folder.path}. "
            "Restore them, or name another folder with --out"
        )
