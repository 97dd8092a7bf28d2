"""Evaluations of any model: a real server that answers, fails and is asked again, and a process that is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from empg.cli import app
from empg.environments.alfworld.env import ALFWorldEnv
from empg.errors import UserError
from empg.policy.model import Policy
from empg.record.runfolder import RunFolder
from empg.record.statistics import compare
from empg.run.evaluate_model import ModelEvaluation, default_folder, evaluate_model, model_recipe
from empg.run.results import model_lines
from tests.rollout.chat_server import Body, ChatServer, chat_server, listed, turn

SMALL = ["environment.options.rooms=small", "environment.max_steps=6"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def choose(body: Body) -> str:
    """Choose a command by the text of the prompt, so that an episode is the same whenever it is played."""
    return turn(random.Random(body["messages"][-1]["content"]).choice(listed(body)))


def evaluated(server: ChatServer, folder: Path, *overrides: str, **arguments: Any) -> ModelEvaluation:
    episodes, splits = arguments.pop("episodes", 6), arguments.pop("splits", ["valid_seen"])
    recipe = model_recipe(
        f"openai:{server.url}/v1#toy", "alfworld", splits, episodes, arguments.pop("temperature", None),
        [*SMALL, *overrides],
    )  # fmt: skip
    return evaluate_model(recipe, folder, **arguments)[0]


def without_time(evaluation: ModelEvaluation) -> dict[str, Any]:
    return {key: value for key, value in evaluation.record.items() if key != "time"}


def cli(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["evaluate", *arguments], terminal_width=200)
    assert result.exit_code == code, result.output
    return result


def test_a_panel_by_task_type_with_the_expert_and_a_random_policy(tmp_path: Path) -> None:
    with chat_server(choose, delay=0.02) as server:
        found = evaluated(server, tmp_path, "rollout.slots=3")
    record, usage = found.record, found.usage
    assert (record["n"], record["panel"], record["iteration"]) == (6, "alfworld-valid_seen-6", 0)
    assert sum(part["n"] for part in record["by_type"].values()) == 6
    assert {r["panel_sha256"] for r in found.baselines.values()} == {record["panel_sha256"]}
    assert found.baselines["expert"]["success"] > found.baselines["random"]["success"] == 0.0
    assert usage is not None
    assert usage.requests == len(server.seen)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10 * usage.requests, 5 * usage.requests)
    assert server.at_once == 3
    first = server.seen[0]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("toy", 512, 1.0)
    folder = RunFolder.open(tmp_path)
    assert folder.read_evaluation(record)["action_tokens"] == [5 * n for n in folder.read_evaluation(record)["turns"]]


def test_an_episode_that_the_environment_cannot_play_counts_in_every_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: ALFWorldEnv, action: str) -> object:
        task = self._info(valid=True)["task_id"]
        if task == broken.setdefault("task", task):
            raise UserError("the judge is unavailable")
        return original(self, action)

    broken: dict[str, str] = {}
    original = ALFWorldEnv.step
    monkeypatch.setattr(ALFWorldEnv, "step", step)
    with chat_server(choose) as server:
        found = evaluated(server, tmp_path, episodes=3)
    assert found.baselines.keys() == {"expert", "random"}
    assert [record["env_errors"] for record in (found.record, *found.baselines.values())] == [1, 1, 1]
    lines = [line for line in model_lines(found, None) if "1 episodes ended in an environment error" in line]
    assert [line.split(":")[0] for line in lines] == [
        f"valid_seen ({name})" for name in ("sampled", "expert", "random")
    ]


def test_an_evaluation_that_is_complete_is_not_played_again(tmp_path: Path) -> None:
    with chat_server(choose) as server:
        first = evaluated(server, tmp_path)
        asked = len(server.seen)
        again = evaluated(server, tmp_path, "rollout.slots=2")
        assert len(server.seen) == asked
        assert again.record == first.record
        assert again.usage == first.usage
        assert len(RunFolder(tmp_path).read_metrics()) == 1
        more = evaluated(server, tmp_path, episodes=7)  # another panel is another evaluation in the same folder
        assert (more.record["n"], len(RunFolder(tmp_path).read_metrics())) == (7, 2)


def test_a_server_that_fails_leaves_the_finished_episodes(tmp_path: Path) -> None:
    broken = False

    def reply(body: Body) -> str | int:
        return 402 if broken and len(server.seen) > 20 else choose(body)

    with chat_server(reply) as server:
        whole = evaluated(server, tmp_path / "whole")
        asked = len(server.seen)
        server.seen.clear()
        broken = True
        with pytest.raises(UserError, match=r"answered 402\. (\d) of 6 episodes are kept in .*: repeat the command to"):
            evaluated(server, tmp_path / "broken", "rollout.slots=2")
        kept = (tmp_path / "broken").glob("evaluations/*.jsonl")
        finished = [json.loads(line) for file in kept for line in file.read_text().splitlines()]
        assert 0 < len(finished) < 6
        broken = False
        server.seen.clear()
        resumed = evaluated(server, tmp_path / "broken", "rollout.slots=2")
        assert len(server.seen) == asked - sum(line["usage"]["requests"] for line in finished)
    assert without_time(resumed) == without_time(whole)
    assert resumed.usage == whole.usage


def test_half_an_emoji_and_a_full_context_do_not_stop_an_evaluation(tmp_path: Path) -> None:
    full = json.dumps({"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}})

    def reply(body: Body) -> str | tuple[int, bytes]:
        begun = any(message["role"] == "assistant" for message in body["messages"])
        return (500, full.encode()) if begun and "?" in json.dumps(body["messages"][-2]) else turn("look\ud83d")

    with chat_server(reply) as server:
        evaluated(server, tmp_path, "agent.history=merged", episodes=1, baselines=False)
    [file] = tmp_path.glob("evaluations/*.jsonl")
    line = json.loads(file.read_text())
    assert line["row"]["end"] == "token_limit"
    assert [shown["text"] for shown in line["turns"]] == [turn("look?")]
    assert len(server.seen) == 2


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    with chat_server(choose) as server:
        evaluated(server, tmp_path, episodes=2)
        wanted = "other settings: agent.history is per_turn there and merged here. Name another folder with --out"
        with pytest.raises(UserError, match=wanted):
            evaluated(server, tmp_path, "agent.history=merged")
        with RunFolder(tmp_path).hold(), pytest.raises(UserError, match="is in use by another empg process"):
            evaluated(server, tmp_path, episodes=2)


def test_a_folder_without_an_episode_takes_other_settings(tmp_path: Path) -> None:
    with chat_server(lambda body: 404) as server, pytest.raises(UserError, match="0 of 6 episodes are kept"):
        evaluated(server, tmp_path)
    with chat_server(choose) as server:
        assert evaluated(server, tmp_path).record["n"] == 6
        assert server.url in RunFolder(tmp_path).recipe_text()


def test_temperature_and_decoding_are_evaluations_of_their_own(tmp_path: Path) -> None:
    with chat_server(choose) as server:
        evaluated(server, tmp_path, episodes=1)
        evaluated(server, tmp_path, episodes=1, temperature=0.5)
        greedy = evaluated(server, tmp_path, episodes=1, decoding="greedy", baselines=False)
        assert {body["temperature"] for body in server.seen} == {1.0, 0.5, 0.0}
    assert (greedy.record["temperature"], greedy.baselines) == (0.0, {})
    assert len(RunFolder(tmp_path).read_metrics()) == 3


def test_a_model_on_this_machine_resumes_with_the_same_episodes(tmp_path: Path) -> None:
    shape = "policy.tiny={hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 512}"
    limits = ["rollout.max_turn_tokens=8", "rollout.max_episode_tokens=1024", "agent.prompt=terse", "policy.device=cpu"]
    recipe = model_recipe("tiny", "alfworld", ["valid_seen"], 4, None, [*SMALL, *limits, shape])
    [whole] = evaluate_model(recipe, tmp_path / "whole")
    assert whole.usage is None
    [file] = (tmp_path / "whole").glob("evaluations/*.jsonl")
    part = tmp_path / "part"
    RunFolder.create(part, (tmp_path / "whole" / "recipe.yaml").read_text())
    (part / "evaluations").mkdir()
    lines = file.read_text().splitlines(keepends=True)
    (part / "evaluations" / file.name).write_text(lines[2] + lines[0] + lines[1][:50])
    [resumed] = evaluate_model(recipe, part)
    assert without_time(resumed) == without_time(whole)
    rows = RunFolder(part).read_evaluation(resumed.record)
    assert rows == RunFolder(tmp_path / "whole").read_evaluation(whole.record)


def test_a_folder_with_a_model_is_compared_with_an_endpoint(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "model")
    limits = ["rollout.max_turn_tokens=4", "rollout.max_episode_tokens=512", "agent.prompt=terse", "policy.device=cpu"]
    recipe = model_recipe(str(tmp_path / "model"), "alfworld", ["valid_seen"], 3, None, [*SMALL, *limits])
    [local] = evaluate_model(recipe, tmp_path / "local", baselines=False)
    with chat_server(choose) as server:
        remote = evaluated(server, tmp_path / "remote", *limits[:2], episodes=3, baselines=False)
    result = compare(RunFolder(tmp_path / "local"), RunFolder(tmp_path / "remote"), "valid_seen")
    assert result.panel_sha256 == local.record["panel_sha256"] == remote.record["panel_sha256"]
    assert (result.overall.n, result.apart) == (3, ())


def test_changed_weights_need_another_folder(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    limits = ["rollout.max_turn_tokens=4", "rollout.max_episode_tokens=512", "agent.prompt=terse", "policy.device=cpu"]
    recipe = model_recipe("model", "alfworld", ["valid_seen"], 2, None, [*SMALL, *limits])
    [first] = evaluate_model(recipe, Path("found"), baselines=False)
    assert evaluate_model(recipe, Path("found"), baselines=False)[0].record == first.record
    with torch.no_grad():
        policy.parameters[0].add_(1.0)
    policy.save(tmp_path / "model")
    wanted = "the files of .*model have changed since the evaluation in found. Restore them, or name another folder"
    with pytest.raises(UserError, match=wanted):
        evaluate_model(recipe, Path("found"), baselines=False)
    Path("found/model.txt").unlink()  # an evaluation of an earlier version
    old = RunFolder(Path("found"))
    old.replace_recipe(old.recipe_text().replace(str(tmp_path / "model"), "model"))
    assert evaluate_model(recipe, Path("found"), baselines=False)[0].record == first.record


@pytest.mark.slow
def test_a_command_that_is_killed_resumes(tmp_path: Path) -> None:
    with chat_server(choose, delay=0.05) as server:
        arguments = [
            "evaluate", "--model", f"openai:{server.url}/v1#toy", "--environment", "alfworld", "--split", "valid_seen",
            "--episodes", "12", "--key-variable", "CHAT_KEY", *SMALL, "rollout.slots=2",
        ]  # fmt: skip
        command = [sys.executable, "-m", "empg", *arguments, "--out", "there"]
        surroundings = {**os.environ, "CHAT_KEY": "k-secret-123"}
        process = subprocess.Popen(command, cwd=tmp_path, env=surroundings, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (kept := sorted((tmp_path / "there").glob("evaluations/*.jsonl"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = [json.loads(line) for line in kept[0].read_bytes().split(b"\n")[:-1]]
        assert 0 < len(finished) < 12
        server.seen.clear()
        server.delay = 0.0
        again = subprocess.run(
            [*command, "--prices", "1", "2"], cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=True
        )
        asked = len(server.seen)
        whole = evaluated(server, tmp_path / "whole", episodes=12)
    done = [json.loads(line) for line in kept[0].read_text().splitlines()]
    assert done[: len(finished)] == finished
    assert asked == sum(line["usage"]["requests"] for line in done[len(finished) :])
    [record] = RunFolder.open(tmp_path / "there").read_metrics()
    assert {**record, "time": 0} == {**without_time(whole), "time": 0}
    requests = sum(line["usage"]["requests"] for line in done)
    assert f"{requests} requests, {10 * requests:,} prompt and {5 * requests:,} completion tokens" in again.stdout
    assert f"cost {20 * requests / 1e6:.2f}\n" in again.stdout
    assert re.search(r"^success \(95% Wilson\) +episodes +model +expert +random$", again.stdout, re.MULTILINE)
    assert again.stdout.endswith("results: there\n")
    everything = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"k-secret-123" not in everything + (again.stdout + again.stderr).encode()


def test_arguments_of_the_chat_template_reach_the_server(tmp_path: Path) -> None:
    with chat_server(choose) as server:
        evaluated(server, tmp_path, "agent.template_arguments={enable_thinking: false}", episodes=1)
    assert server.seen
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.seen)


def test_the_default_folder_names_the_environment_and_the_model() -> None:
    assert default_folder("openai:http://h/v1#org/M-1", "alfworld") == Path("evaluations/alfworld-org-M-1")
    assert default_folder("../../models/M", "pkg:Env-v0") == Path("evaluations/pkg-Env-v0-models-M")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one run folder, or --model and --environment"),
        (["a", "b"], "expected one run folder, or --model and --environment"),
        (["a", "--out", "b"], "--prices and --no-baselines need --model"),
        (["--model", "m"], "--model needs --environment"),
        (["--model", "m", "--environment", "alfworld", "--checkpoint", "start"], "--checkpoint is for a run folder"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments: list[str], message: str) -> None:
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", cli(*arguments, code=2).stderr).split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "openai:x"], "invalid model name: expected openai:https://HOST/v1#MODEL"),
        (["--model", "openai:http://h/v1#m", "--key-variable", "NOT_SET"], "NOT_SET is not set: the endpoint needs"),
        (["--model", "openai:http://h/v1#m", "agent.past=x"], "unknown key 'agent.past'"),
        (
            ["--model", "openai:http://h/v1#m", "agent.date=2026-01-31"],
            "agent.date: the server of policy.model fills in",
        ),
        (["--model", "openai:http://h/v1#m", "evaluation.decoding=[greedy]"], "evaluation.decoding: use --decoding"),
        (["--model", "openai:http://h/v1#m", "--split", "none"], "split: expected one of train, valid_seen"),
        (
            ["--model", "tiny", "--key-variable", "X", "policy.tiny.max_positions=4096"],
            "--key-variable is for openai:URL#MODEL; 'tiny' runs on this",
        ),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("--environment", "alfworld", *arguments, code=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("model", ["openai:x", "./nothing"])
def test_a_wrong_model_leaves_no_folder(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli("--environment", "alfworld", "--model", model, code=1)
    assert list(tmp_path.iterdir()) == []
