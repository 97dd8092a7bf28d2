"""The commands of the command line."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer import Exit
from typer.testing import CliRunner, Result

import empg as package
from empg.__main__ import main
from empg.cli import app
from empg.cli.training import Engine, _require_runnable
from empg.recipe import parse_recipe
from empg.record.runfolder import RunFolder

Call = Callable[..., Result]

RECIPE = """
name: mini
iterations: 1
checkpoint_every: 1
environment: {options: {rooms: small}, max_steps: 4}
policy:
  model: tiny
  tiny: {hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 512}
warm_start: {episodes: 16, episodes_per_step: 8}
rollout: {groups: 2, group_size: 2, max_turn_tokens: 16, max_episode_tokens: 512}
evaluation: {splits: [valid_seen], episodes: 4}
"""


COMMANDS = [
    "train",
    "doctor",
    "study",
    "results",
    "evaluate",
    "compare",
    "credit",
    "entropy",
    "report",
    "figure",
    "play",
]
EMPG = str(Path(sys.executable).with_name("empg"))


def empg(*arguments: str, cwd: Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in its own process."""
    variables = {"XDG_CACHE_HOME": str(cwd / "cache"), "PYTHONWARNINGS": "error::UserWarning", **variables}
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [EMPG, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a recipe and its finished run, and the output of the run."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "mini.yaml").write_text(RECIPE)
    return folder, empg("train", "mini.yaml", cwd=folder).stdout


@pytest.fixture
def call(trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call a command in this process, where torch is already imported, next to the finished run."""
    monkeypatch.chdir(trained[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained[0] / "cache"))

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), terminal_width=120)
        assert result.exit_code == code, result.output
        return result

    return run


class TestHelp:
    def test_it_lists_the_commands_and_imports_nothing_heavy(self) -> None:
        heavy = {"torch", "numpy", "transformers", "pydantic", "gymnasium", "pyarrow", "jinja2", "yaml"}
        program = (
            "import sys\n"
            "from empg.__main__ import main\n"
            "sys.argv = ['empg', '--help']\n"
            "try: main()\n"
            f"finally: print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        commands = re.findall(r"^  (\w+) ", done.stdout.partition("Commands:")[2], re.MULTILINE)
        assert commands == COMMANDS
        assert done.stderr == "[]\n"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, command: str) -> None:
        assert len(CliRunner().invoke(app, [command, "--help"]).stdout.splitlines()) > 8

    def test_version(self, tmp_path: Path) -> None:
        assert empg("--version", cwd=tmp_path).stdout.strip() == package.__version__


class TestTrain:
    def test_it_prints_progress_from_the_recipe_to_the_report(self, trained: tuple[Path, str]) -> None:
        folder, output = trained
        lines = output.splitlines()
        assert lines[0] == "mini: mini.yaml into runs/mini; starting one worker"
        assert any(line.startswith("iteration 1/1 ") for line in lines)
        assert re.search(r"^valid_seen \(sampled\) +4 .* points$", output, re.MULTILINE)
        assert lines[-1] == "report: runs/mini/report.html"
        assert (folder / "runs/mini/report.html").is_file()

    def test_a_run_is_not_overwritten_by_accident(self, call: Call) -> None:
        done = call("train", "mini.yaml", code=1)
        assert done.stderr == (
            "empg: runs/mini already holds a run; use --resume to continue, --force to overwrite, "
            "or name another folder\n"
        )

    def test_a_finished_run_resumes_to_its_end(self, call: Call) -> None:
        output = call("train", "mini.yaml", "--resume").stdout
        assert output.splitlines()[-1] == "report: runs/mini/report.html"

    def test_a_run_resumes_only_with_its_own_recipe(self, call: Call) -> None:
        done = call("train", "mini.yaml", "--resume", "seed=3", "loss.clip_low=0.1", code=1)
        assert done.stderr == (
            "empg: runs/mini cannot be resumed with seed=3 (the run has 0), loss.clip_low=0.1 (the run has 0.2): "
            "use the values of the run, or fork it into another folder: --from RUN/checkpoints/NAME --run NEW\n"
        )

    def test_a_dry_run_prints_the_resolved_recipe_and_writes_nothing(self, call: Call) -> None:
        printed = yaml.safe_load(call("train", "mini.yaml", "seed=3", "--run", "dry", "--dry-run").stdout)
        assert parse_recipe(printed).model_dump() == parse_recipe({**yaml.safe_load(RECIPE), "seed": 3}).model_dump()
        assert not Path("dry").exists()

    def test_a_recipe_that_cannot_run_does_not_start(self, call: Call) -> None:
        changes = ["environment.options.games=/nowhere", "--run", "broken"]
        done = call("train", "mini.yaml", *changes, code=1)
        assert "/nowhere" in done.stderr
        assert "Traceback" not in done.stderr
        assert not Path("broken").exists()


class TestOneLineErrors:
    def test_a_message_is_cut_and_its_control_characters_are_shown(self, call: Call) -> None:
        message = call("report", "x\u202e" + "y" * 5_000, code=1).stderr
        assert message.startswith("empg: cannot read x⟦U+202E⟧yyy")
        assert re.search(r"y \.\.\. \([0-9],[0-9]{3} more characters\) \.\.\. y+: File name too long\n$", message)
        assert len(message) < 2_100

    def test_a_folder_that_its_user_may_not_read_is_named(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        def closed(path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(RunFolder, "open", closed)
        assert call("report", "closed/run", code=1).stderr == "empg: Permission denied: closed/run\n"

    def test_an_empty_path_is_not_the_current_folder(self, call: Call) -> None:
        assert "expected a path, got an empty text" in call("train", "mini.yaml", "--run", "", code=2).stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["train", "none.yaml"], "cannot read none.yaml: No such file or directory"),
            (["train", "mini.yaml", "seeds=3"], "mini.yaml: unknown key 'seeds'; did you mean 'seed'?"),
            (
                ["train", "mini.yaml", "name=a/b"],
                "name: 'a/b' is not a valid folder name; set the run folder with --run",
            ),
            (["train", "mini.yaml", "name=.."], "name: '..' is not a valid folder name; set the run folder with --run"),
            (["train", "mini.yaml", "name=", "--force"], "mini.yaml: name: expected a text, got None"),
            (["train", "mini.yaml", "name='.'"], "name: '.' is not a valid folder name; set the run folder with --run"),
            (
                ["train", "mini.yaml", "--run", ".", "--force"],
                ". is not empty and is not a run folder; name another folder",
            ),
            (
                ["train", "mini.yaml", "--from", "iter-000001", "--run", "new"],
                "--from iter-000001: expected the path of a checkpoint in a run, e.g. "
                "runs/demo/checkpoints/iter-000040; to go back within a run, add --resume and give the name alone",
            ),
            (
                ["train", "mini.yaml", "--resume", "--from", "iter-000009"],
                "runs/mini has no checkpoint 'iter-000009': expected one of start, iter-000000, iter-000001",
            ),
            (["train", "mini.yaml", "--resume", "--run", "none"], "none does not exist; name the folder of a run"),
            (["report", "none"], "none does not exist; name the folder of a run"),
            (["report", "runs/mini", "none", "--serve"], "none does not exist; name the folder of a run"),
            (["figure", "none", "--out", "x.svg"], "none does not exist; name the folder of a run"),
            (["evaluate", "none"], "none does not exist; name the folder of a run"),
            (["study", "none.yaml"], "cannot read none.yaml: No such file or directory"),
            (
                ["results", "none"],
                "none is not a folder of results: it has no study.yaml. Name one that empg study wrote",
            ),
            (["evaluate", "runs/mini/recipe.yaml"], "runs/mini/recipe.yaml is a file; name the folder of a run"),
            (["compare", "runs/mini", "none"], "none does not exist; name the folder of a run"),
            (
                ["evaluate", "runs/mini", "--split", "test"],
                "split: expected one of train, valid_seen, valid_unseen, got 'test'",
            ),
            (
                ["play", "alfworld", "--split", "test"],
                "split: expected one of train, valid_seen, valid_unseen, got 'test'",
            ),
            (["play", "alfworld", "rooms=big"], "rooms: expected 'small' or 'full', got 'big'"),
            (["play", "alfworld", "--web"], "this environment has no web pages: remove --web"),
            (["play", "alfworld", "--task", "1000000"], "task 1000000 does not exist: expected 0 to 99999 in train"),
        ],
    )
    def test_user_errors(self, arguments: list[str], message: str, call: Call) -> None:
        assert call(*arguments, code=1).stderr == f"empg: {message}\n"

    @pytest.mark.parametrize("engine", ["local", "verl"])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("credit.process_reward=foo:bar", "fail  credit.process_reward=foo:bar: No module named 'foo'"),
            ("evaluation.splits=[nope]", "fail  environment alfworld, nope: split: expected one of train"),
            ("rollout.max_turn_tokens=4096", "fail  rollout.max_turn_tokens=4096 does not leave space"),
        ],
    )
    def test_every_engine_finds_a_wrong_recipe_before_any_work(
        self, engine: str, change: str, message: str, call: Call
    ) -> None:
        stderr = call("train", "mini.yaml", change, "--run", "never", "--engine", engine, code=1).stderr
        assert stderr.startswith(message)
        assert not Path("never").exists()

    def test_a_missing_checkpoint_is_named(self, call: Call) -> None:
        done = call("evaluate", "runs/mini", "--checkpoint", "iter-000099", code=1)
        assert done.stderr.startswith("empg: runs/mini has no checkpoint 'iter-000099': expected one of start, iter-")
        assert done.stderr.count("\n") == 1

    def test_a_wrong_option_is_a_usage_error(self, call: Call) -> None:
        assert "--resume" in call("train", "mini.yaml", "--resume", "--force", code=2).stderr
        assert "--engine local" in call("train", "mini.yaml", "--engine", "trl", "--from", "x", code=2).stderr
        assert "rude" in call("evaluate", "runs/mini", "--decoding", "rude", code=2).stderr
        assert "ends in .svg" in call("figure", "runs/mini", "--out", "x.png", code=2).stderr
        assert "Add --serve" in call("report", "runs/mini", "--port", "1", code=2).stderr


def test_a_home_folder_is_expanded_where_no_shell_does_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    printed = f"{Path.cwd()}/runs/mini"
    assert call("report", "~/runs/mini").stdout == f"{printed}/report.html\n"
    assert call("figure", "~/runs/mini", "--out=~/home.svg").stdout == f"{Path.cwd()}/home.svg\n"
    assert call("compare", "~/runs/mini", "runs/mini", "--iteration-a=0").stdout.startswith(f"A: {printed} at")
    for arguments, named in (
        (["evaluate", "~/runs/none"], "runs/none does not exist; name the folder of a run"),
        (["train", "mini.yaml", "--run=~/runs/mini"], "runs/mini already holds a run; use --resume"),
        (
            ["train", "mini.yaml", "--run=x", "--from=~/runs/mini/checkpoints/iter-000009"],
            "runs/mini has no checkpoint",
        ),
    ):
        assert call(*arguments, code=1).stderr.startswith(f"empg: {Path.cwd()}/{named}")
    assert not Path("~").exists()


class TestRun:
    def test_evaluate_then_compare(self, call: Call) -> None:
        for checkpoint in ("start", "iter-000001"):
            options = ["--checkpoint", checkpoint, "--split", "valid_unseen", "--episodes", "3"]
            output = call("evaluate", "runs/mini", *options, "--decoding", "greedy").stdout
            assert re.search(r"^valid_unseen \(greedy\) +3 +\d", output, re.MULTILINE)
        options = ["--split", "valid_unseen", "--decoding", "greedy", "--iteration-a", "0"]
        output = call("compare", "runs/mini", "runs/mini", *options).stdout
        assert output.startswith("A: runs/mini at iteration 0\nB: runs/mini at iteration 1\n")
        assert re.search(r"^valid_unseen +3 ", output, re.MULTILINE)
        assert "warning" not in output

    def test_compare_uses_every_split_that_both_runs_have(self, call: Call) -> None:
        for checkpoint in ("start", "iter-000001"):
            options = ["--split", "valid_seen", "--split", "valid_unseen", "--episodes", "2", "--decoding", "greedy"]
            call("evaluate", "runs/mini", "--checkpoint", checkpoint, *options)
        output = call("compare", "runs/mini", "runs/mini", "--iteration-a", "0", "--decoding", "greedy").stdout
        assert sorted(re.findall(r"^(valid_\w+) ", output, re.MULTILINE)) == ["valid_seen", "valid_unseen"]
        nothing = call("compare", "runs/mini", "runs/mini", "--split", "test", code=1).stderr
        assert "no evaluation of test (sampled); it has valid_seen at iteration 0" in nothing
        never = call("compare", "runs/mini", "runs/mini", "--iteration-a", "9", "--decoding", "greedy", code=1).stderr
        assert "(greedy) at iteration 9; it has valid_seen at iteration 0" in never

    def test_compare_reports_differing_settings(self, call: Call) -> None:
        options = ["--split", "valid_unseen", "--episodes", "3"]
        call("evaluate", "runs/mini", *options, "--checkpoint", "start", "--temperature", "0.5")
        call("evaluate", "runs/mini", *options)
        output = call("compare", "runs/mini", "runs/mini", "--split", "valid_unseen", "--iteration-a", "0").stdout
        wanted = "the policies alone: temperature is 0.5 in A and 1.0 in B\n"
        assert output.endswith(wanted)

    def test_report(self, call: Call) -> None:
        assert call("report", "runs/mini").stdout == "runs/mini/report.html\n"

    def test_figure(self, call: Call) -> None:
        shutil.copytree("runs/mini", "copies/mini")
        options = ["--out", "figures/mini.svg", "--title", "A & B", "--label", "first", "--label", "again"]
        assert call("figure", "runs/mini", "copies/mini", *options).stdout == "figures/mini.svg\n"
        drawn = [element.text for element in ET.parse("figures/mini.svg").iter()]
        assert {"A & B", "first", "again"} <= set(drawn)
        assert "--label" in call("figure", "runs/mini", *options, code=2).stderr
        assert "is named 2 times" in call("figure", "runs/mini", "runs/mini", *options, code=1).stderr

    def test_doctor(self, call: Call) -> None:
        assert call("doctor", "mini.yaml").stdout.endswith("mini.yaml can run here\n")
        done = call("doctor", "mini.yaml", "environment.options.games=/nowhere", code=1)
        assert "fail  environment alfworld, train: /nowhere" in done.stdout
        assert done.stdout.endswith("mini.yaml cannot run here: 2 problems to fix\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--decoding", "greedy", "--temperature", "1"], "--temperature needs --decoding sampled"),
        (["run", "--no-baselines"], "--no-baselines need --model"),
        (["--model", "tiny", "--environment", "alfworld", "--prices", "1", "2"], "--prices is for openai:URL#MODEL"),
    ],
)
def test_an_option_without_an_effect_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", *arguments], terminal_width=120)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_cannot_show_a_character_ends_no_command(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "mini.yaml").write_text(RECIPE)
    arguments = ["train", "mini.yaml", "environment.options.games=/nowhere", "--run", "Lauf→1"]
    done = empg(*arguments, cwd=tmp_path, code=1, PYTHONIOENCODING=encoding)
    assert done.stdout == "mini: mini.yaml into Lauf?1; starting one worker\n"
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_modules_are_imported_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "empg.cli", Interrupted("empg.cli"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_bugs_keep_their_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("empg.report.page.render_page", lambda run: "".index("x"))
    assert isinstance(call("report", "runs/mini", code=1).exception, ValueError)


def test_a_run_with_a_warm_start_does_without_its_recordings(tmp_path: Path) -> None:
    shop = {"id": "webshop", "options": {"products": 200}}
    gone = parse_recipe({"environment": shop, "warm_start": {"recordings": str(tmp_path / "none.jsonl")}})
    with pytest.raises(Exit):
        _require_runnable(gone, tmp_path, Engine.trl, begun=False)
    _require_runnable(gone, tmp_path, Engine.trl, begun=True)
