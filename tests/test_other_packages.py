"""Environments of other packages, by the command: played, checked, warm-started, trained; no file changed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from empg.policy.load import load_policy
from empg.recipe import PolicySection
from tests.conftest import WORDS
from tests.packages import ECHO, install_lamproom

EMPG = str(Path(sys.executable).with_name("empg"))

RECIPE = """
name: lamps
iterations: 2
checkpoint_every: 2
workers: {workers}
environment: {{id: lamproom, workers: {processes}, options: {{presses: 2, log: made.txt}}}}
policy:
  device: cpu
  tiny: {{hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 400}}
warm_start: {{episodes: 16, episodes_per_step: 8}}
rollout: {{groups: 2, group_size: 3, max_turn_tokens: 16, max_episode_tokens: 256, slots: 6}}
evaluation: {{episodes: 4}}
"""

ECHO_RECIPE = """
name: echo
iterations: 2
checkpoint_every: 2
environment: {id: "echoing:Echo-v0", max_steps: 3}
policy: {model: policy, device: cpu}
rollout: {groups: 2, group_size: 2, max_turn_tokens: 12, max_episode_tokens: 256}
evaluation: {episodes: 3}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to work in; `packages` below it is where other people's packages are installed."""
    (tmp_path / "packages").mkdir()
    return tmp_path


def empg(place: Path, *arguments: str, code: int = 0, said: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(place / "packages"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(place / "cache")}
    done = subprocess.run(
        [EMPG, *arguments], cwd=place, env=environment, input=said, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write(place: Path, *, workers: int = 1, processes: int = 0) -> None:
    install_lamproom(place / "packages")
    (place / "lamps.yaml").write_text(RECIPE.format(workers=workers, processes=processes))


def trains(place: Path) -> None:
    empg(place, "train", "lamps.yaml")
    records = metrics(place / "runs" / "lamps")
    assert [record["iteration"] for record in records if record["kind"] == "train"] == [1, 2]
    evaluations = [record for record in records if record["kind"] == "eval"]
    assert {(record["split"], record["n"], record["env_errors"]) for record in evaluations} == {("night", 4, 0)}
    assert any(record["kind"] == "warm_start" for record in records)
    assert (place / "runs" / "lamps" / "report.html").is_file()


def test_a_package_brings_a_fourth_environment(place: Path) -> None:
    write(place, processes=1)
    assert "alfworld, webshop, deepsearch, lamproom" in empg(place, "play", "--help").stdout
    played = empg(place, "play", "lamproom", "presses=1", "--split", "night", "--task", "1", said="press 3\n").stdout
    assert played.startswith("night, task 1 (press), 4 steps.")
    assert played.endswith("solved after 1 step\n")
    assert "solved after" in empg(place, "play", "lamproom", "--task", "1", "--expert").stdout
    wrong = empg(place, "play", "lamproom", "presss=1", code=1).stderr
    assert wrong == "empg: unknown key 'presss'; did you mean 'presses'?\n"
    checked = empg(place, "doctor", "lamps.yaml").stdout
    assert "ok    environment lamproom, train: 40 tasks" in checked
    assert "environment lamproom, night: 6 tasks" in checked
    (place / "made.txt").unlink()

    trains(place)
    recipe = yaml.safe_load((place / "runs" / "lamps" / "recipe.yaml").read_text())
    assert recipe["environment"]["options"] == {"presses": 2, "log": "made.txt"}
    assert recipe["evaluation"]["splits"] == ["night"]
    made = [line.split() for line in (place / "made.txt").read_text().splitlines()]
    heavy = {process: set(names) for process, *names in made}
    assert set() in heavy.values()  # the processes that step environments have neither torch nor the recipe
    assert len(heavy) > 1
    assert all(names in (set(), {"torch", "empg.recipe"}) for names in heavy.values())


@pytest.mark.slow
def test_and_two_workers_train_on_it(place: Path) -> None:
    write(place, workers=2)
    trains(place)


def test_a_gymnasium_environment_of_text_trains_without_a_warm_start(place: Path, tiny_section: PolicySection) -> None:
    (place / "packages" / "echoing.py").write_text(ECHO)
    (place / "echo.yaml").write_text(ECHO_RECIPE)
    load_policy(tiny_section, WORDS, seed=0).save(place / "policy")
    played = empg(place, "play", "echoing:Echo-v0", "--task", "0", said="?\n").stdout
    assert "  say 0\n  say 1\n  say 2\n" in played

    refused = empg(place, "train", "echo.yaml", "warm_start={}", code=1).stderr
    assert refused.startswith("fail  environment echoing:Echo-v0, train: echoing:Echo-v0 has no expert, which warm_st")
    assert "Traceback" not in refused
    assert not (place / "runs").exists()
    assert "no expert" in empg(place, "play", "echoing:Echo-v0", "--expert", code=1).stderr

    empg(place, "train", "echo.yaml")
    records = metrics(place / "runs" / "echo")
    assert [record["iteration"] for record in records if record["kind"] == "train"] == [1, 2]
    evaluations = [record for record in records if record["kind"] == "eval"]
    assert {(record["split"], record["n"], record["env_errors"]) for record in evaluations} == {("valid", 3, 0)}
