"""The commands, as a person types them, from an empty folder to a lineage that leads back to people."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage import cli
from tutelage.folder import ProjectFolder
from tutelage.history import list_runs
from tutelage.questions import FILE, read_questions
from tutelage.records import Prompt
from tutelage.stage import Settings

SMALL = ["--sampling.max_tokens", "8"]
TINY = ["batch_size", "4", "max_tokens", "48", "save_every", "1"]


def flags(stage: str, *pairs: str) -> list[str]:
    given = (*TINY, *pairs) if stage != "ppo" else pairs
    return [x for name, value in zip(given[::2], given[1::2], strict=True) for x in (f"--{stage}.{name}", value)]


SFT = flags("sft", "steps", "2")
REWARD = flags("reward", "steps", "2", "evaluate_every", "1")
PPO = flags("ppo", "steps", "1", "batch_size", "4", "sampling.max_tokens", "6", "epochs", "1", "save_every", "1")


class Shell:
    """Runs commands in this process, in one project folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.out = self.err = ""

    def __call__(self, *tokens: str, expect: int = 0) -> str:
        try:
            status = cli.run([*tokens, "--project", str(self.folder)] if tokens[0] != "init" else tokens)
        finally:
            self.out, self.err = self._capsys.readouterr()
        assert status == expect, self.out + self.err
        assert "Traceback" not in self.err
        return self.out

    def figures(self, *tokens: str) -> Any:
        """The last line of standard output, which must be the only one."""
        (line,) = self(*tokens, "--json").splitlines()
        return json.loads(line)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    made = Shell(tmp_path / "films", capsys)
    made("init", str(made.folder), "--model", "tiny")
    return made


@pytest.fixture
def filled(shell: Shell) -> Shell:
    written = [{"prompt": f"Film {i} was", "completion": f" good {i}"} for i in range(30)]
    pairs = [{"prompt": f"Film {i} was", "chosen": f" good {i}", "rejected": f" bad {i}"} for i in range(30)]
    for name, rows in (("written.jsonl", written), ("pairs.jsonl", pairs)):
        (shell.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        shell("import", str(shell.folder / name), "--annotator", "ann")
    return shell


def test_the_whole_way_from_files_to_a_policy_and_back_to_its_people(
    filled: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft = filled.figures("sft", *SFT)
    assert sft["metrics"]["step"] == 2
    sampled = filled.figures("sample", "--prompts", "3", "--completions", "2", *SMALL)
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\nu\n1\nq\n"))
    labelled = filled.figures("label", "--annotator", "ben")
    assert labelled == {"answered": 2, "skipped": 0, "undone": 1, "left": sampled["questions"] - 2, "annotator": "ben"}
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    assert filled.figures("label", "--annotator", "ben")["left"] == sampled["questions"] - 2
    reward = filled.figures("reward", *REWARD)
    ppo = filled.figures("ppo", *PPO)
    assert (Path(ppo["path"]) / "model" / "config.json").exists()
    tree = filled.figures("runs", "lineage", ppo["run"])
    assert [p["id"] for p in tree["parents"]] == [reward["run"], sft["run"]]
    people = {who["name"]: who["labels"] for who in tree["parents"][0]["info"]["data"]["annotators"]}
    assert people["ben"] == 2
    assert "ben (human, 2)" in filled("runs", "lineage", ppo["run"])
    assert "ben (human, 2)" in filled("runs", "show", reward["run"])

    accuracy = filled.figures("evaluate", reward["run"])
    assert 0 <= accuracy["accuracy"]["low"] <= accuracy["accuracy"]["rate"] <= accuracy["accuracy"]["high"] <= 1
    match = filled.figures("evaluate", ppo["run"], *SMALL)
    assert (match["first"], match["second"], match["judge"]) == (ppo["run"], sft["run"], reward["run"])
    assert "over-optimisation does not show" in match["judge_is"]
    assert json.loads((Path(ppo["path"]) / "eval.json").read_text()) == match
    report = Path(filled.figures("report", ppo["run"])["report"])
    assert ppo["run"] in report.read_text()

    listed = filled.figures("runs", "list")["runs"]
    assert {r["kind"]: r["status"] for r in listed} == dict.fromkeys(("sft", "sample", "reward", "ppo"), "done")
    assert "sft/loss" in filled("runs", "show", sft["run"])
    for run in listed:  # what a run was resolved to is itself a settings file that resolves to the same
        config = Path(run["path"]) / "config.yaml"
        again = ProjectFolder.at(filled.folder, config).settings(Settings)
        assert again.model_dump(mode="json") == yaml.safe_load(config.read_text()), run["kind"]
    differ = filled.figures("runs", "compare", reward["run"], sft["run"])
    assert differ["settings"]["sft.steps"] == [200, 2]


def test_what_is_exported_comes_in_again(filled: Shell) -> None:
    target = filled.folder / "all.jsonl.gz"
    wrote = filled.figures("export", str(target))
    again = filled.figures("import", str(target))
    assert (again["read"], again["added"]) == (wrote["rows"], 0)


def test_a_bad_line_is_named_and_the_rest_goes_in(shell: Shell) -> None:
    file = shell.folder / "x.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 3}\n')
    found = shell.figures("import", str(file))
    assert (found["read"], found["added"], len(found["bad"])) == (2, 1, 1)
    assert "x.jsonl, line 2, field 'prompt'" in found["bad"][0]
    shell("import", str(file), "--strict", expect=2)
    assert "line 2" in shell.err


def test_a_run_takes_its_own_config_and_flags_over_it(filled: Shell) -> None:
    first = filled.figures("sft", *SFT)
    config = str(Path(first["path"]) / "config.yaml")
    second = filled.figures("sft", "--config", config, "--sft.optimizer.learning-rate", "1e-9")
    settings = yaml.safe_load((Path(second["path"]) / "config.yaml").read_text())
    assert settings["sft"]["steps"] == 2
    assert settings["sft"]["optimizer"]["learning_rate"] == 1e-9
    assert filled.figures("runs", "compare", first["run"], second["run"])["settings"] == {
        "sft.optimizer.learning_rate": [2e-05, 1e-9]
    }


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["stf"], "there is no command 'stf'; did you mean 'sft'"),
        (["sft", "--sft.stpes", "3"], "Unknown option: --sft.stpes. Did you mean --sft.steps?"),
        (["sft", "--sft.steps", "many"], 'Invalid value for --sft.steps: unable to convert "many" into int'),
        (["sft", "--sft.optimizer.schedule", "x"], "--sft.optimizer.schedule"),
        (["sft", "--sft.train.rank", "3"], "set 'sft.train.kind' too"),
        (["sft", "--sft.steps", "0"], "flag --sft.steps: 'sft.steps' is 0, expected greater than or equal to 1"),
        (["reward", "--reward.label_noise", "0.5"], "flag --reward.label_noise: 'reward.label_noise' is 0.5, expected"),
        (["ppo", "--seed", "-1"], "Error: flag --seed: 'seed' is -1, expected greater than or equal to 0\n"),
        (["sft", "--config", "none.yaml"], "there is no settings file none.yaml"),
        (["reward", "--resume"], "no interrupted reward run"),
        (["ppo"], "there is no finished reward run"),
        (["sft", "--resume", "--sft.steps", "3"], "leave out --sft.steps"),
        (["label"], "there is no finished sample run"),
        (["evaluate"], "requires an argument"),
        (["report", "nothing"], "no run 'nothing'"),
        (["import", "missing.jsonl"], "missing.jsonl"),
        (["import"], "requires an argument"),
        (["runs", "compare", "a"], "at least two"),
        (["sft"], "no demonstrations to train on"),
        (["sft", "--model", "no/such-folder/x"], "no/such-folder/x"),
    ],
)
def test_a_mistake_is_one_clear_message(shell: Shell, tokens: list[str], message: str) -> None:
    shell(*tokens, expect=2)
    assert message in shell.err
    assert shell.out == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sft: {stpes: 3}", "tutelage.yaml: unknown key 'sft.stpes'; did you mean 'sft.steps'?"),
        ("sft: {steps: many}", "tutelage.yaml: 'sft.steps' is 'many', expected a valid integer"),
        ("sft: {save_every: 0}", "tutelage.yaml: 'sft.save_every' is 0, expected greater than or equal to 1"),
        ("ppo: {minibatches: 0}", "tutelage.yaml: 'ppo.minibatches' is 0, expected greater than or equal to 1"),
        ("ppo: {ema: 1}", "tutelage.yaml: 'ppo.ema' is 1, expected less than 1"),
        ("ppo: {kl: {target: 0}}", "tutelage.yaml: 'ppo.kl.target' is 0, expected greater than 0"),
        ("sft: {optimizer: {beta2: 1}}", "tutelage.yaml: 'sft.optimizer.beta2' is 1, expected less than 1"),
        (
            "sft: {optimizer: {epsilon: .inf}}",
            "tutelage.yaml: 'sft.optimizer.epsilon' is inf, expected a finite",
        ),
        ("sft: [", "tutelage.yaml, line"),
    ],
)
def test_a_mistake_in_the_file_names_the_file(shell: Shell, line: str, message: str) -> None:
    config = shell.folder / "tutelage.yaml"
    config.write_text(f"model: tiny\n{line}\n")
    shell("sft", expect=2)
    assert message in shell.err


def test_ctrl_c_saves_and_says_how_to_resume(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.learn import sft as stage

    real = stage.mean_loss

    def interrupting(*args: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(stage, "mean_loss", interrupting)
    config = filled.folder / "tutelage.yaml"
    config.write_text(
        "model: tiny\nsft: {steps: 4, batch_size: 4, max_tokens: 48, evaluate_every: 2, save_every: 10}\n"
    )
    filled("sft", "--json", expect=130)
    (run,) = list_runs(filled.folder / "runs")
    assert run.status == "interrupted"
    assert f"Go on with: tutelage sft --resume {run.id} --project {filled.folder}\n" in filled.err
    monkeypatch.setattr(stage, "mean_loss", real)
    done = filled.figures("sft", "--resume")
    assert (done["run"], done["metrics"]["step"]) == (run.id, 4)
    filled("sft", "--resume", run.id, expect=2)
    assert "is done" in filled.err


def test_a_hint_names_the_project_unless_it_is_the_current_folder() -> None:
    assert ProjectFolder.at(".").flag == ""
    assert ProjectFolder.at("my films").flag == " --project 'my films'"


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line_without_the_place_in_our_code(filled: Shell) -> None:
    (filled.folder / "long.jsonl").write_text(json.dumps({"prompt": "long " * 20, "completion": "x"}) + "\n")
    filled("import", str(filled.folder / "long.jsonl"), "--annotator", "ann")
    before = warnings.showwarning
    filled("sft", *flags("sft", "steps", "1"))
    (line,) = [line for line in filled.err.splitlines() if "left out" in line]
    assert re.fullmatch(r"Warning: 1 of \d+ records were left out\. The first: .*", line)
    assert "UserWarning" not in filled.err
    assert warnings.showwarning is before


def test_sampling_begins_with_what_nobody_has_ranked(shell: Shell) -> None:
    """In the order of the store the ranked ones stand first; asked for more than the rest, they come last."""
    names = [f"Film {i} was" for i in range(20)]
    ranked = [{"prompt": name, "chosen": " good", "rejected": " bad"} for name in names[:10]]
    for file, rows in (("ranked.jsonl", ranked), ("fresh.jsonl", [{"prompt": name} for name in names[10:]])):
        (shell.folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        shell("import", str(shell.folder / file))
    training = [name for name in names if Prompt.text(name).split == "train"]
    fresh = [name for name in training if name in names[10:]]

    def asked(count: int) -> list[str]:
        made = shell.figures("sample", "--prompts", str(count), "--completions", "2", *SMALL)
        questions = read_questions(Path(made["path"]) / FILE)
        return [q.prompt.messages[0].content for q in questions]

    assert asked(4) == fresh[:4]
    assert asked(len(fresh) + 2) == fresh + training[:2]


def test_calibration_is_of_nats_not_of_deviations(filled: Shell) -> None:
    """The scale a reward was saved with is a matter of display: in deviations, a hundredth of the deviation would make
    every pair's probability 0 or 1."""
    run = filled.figures("reward", *flags("reward", "steps", "1"))
    first = filled.figures("evaluate", run["run"])["calibration"]["error"]
    scale = Path(run["path"]) / "model" / "reward.json"
    was = json.loads(scale.read_text())
    scale.write_text(json.dumps({**was, "std": was["std"] / 100}))
    assert filled.figures("evaluate", run["run"])["calibration"]["error"] == pytest.approx(first, rel=1e-3)


def test_resuming_reads_what_the_run_began_with(filled: Shell) -> None:
    """Feedback that came in meanwhile must not change the batches of a run that is half done."""
    from tutelage import wire
    from tutelage.errors import Interrupted

    seen = []

    def counting(_model: Any, examples: Any, *_args: Any, **_kwargs: Any) -> None:
        seen.append(list(examples))
        if len(seen) == 1:
            raise Interrupted("stop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "sft", counting)
        filled("sft", expect=130)
        more = "".join(f'{{"prompt": "New film {i} was", "completion": " fine"}}\n' for i in range(20))
        (filled.folder / "more.jsonl").write_text(more)
        filled("import", str(filled.folder / "more.jsonl"))
        filled("sft", "--resume")
    assert seen[0] == seen[1]


def test_help_has_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ppo", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Episodes (completions) per rollout. [default: 64]" in text
    assert "in nats" in text


def test_every_setting_has_help() -> None:
    from tutelage.settings import leaves
    from tutelage.stage import Settings

    assert [leaf.key for leaf in leaves(Settings) if not leaf.help.strip()] == []


def test_dashes_and_a_bare_resume() -> None:
    assert cli.prepared(["--sft.batch-size", "3", "--dry-run", "-x", "--sft.batch-size=a-b"]) == [
        "--sft.batch_size",
        "3",
        "--dry-run",
        "-x",
        "--sft.batch_size=a-b",
    ]
    assert cli.prepared(["--resume"]) == ["--resume", "newest"]
    assert cli.prepared(["--resume", "--json"]) == ["--resume", "newest", "--json"]
    assert cli.prepared(["--resume", "sft-1"]) == ["--resume", "sft-1"]


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, tutelage.cli as c; c.run(['--help']); heavy = {'torch', 'transformers', 'sqlalchemy', 'pydantic', "
        "'numpy', 'sklearn', 'matplotlib', 'scipy'}; print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.endswith("heavy: []\n")
    assert "sft" in done.stdout
    assert min(seconds) < 0.5  # processor time; 0.25 on a quiet machine, and torch alone takes two seconds


def test_version_and_module(tmp_path: Path) -> None:
    from tutelage import __version__

    command = [sys.executable, "-m", "tutelage", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ})
    assert done.stdout.strip() == __version__
