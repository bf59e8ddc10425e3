"""What users get wrong, at the command line: one clear line, nothing lost, no traceback."""

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest
from test_cli import PPO, REWARD, SFT, SMALL, Shell, filled, flags, shell  # noqa: F401

from tutelage import cli
from tutelage.errors import ConfigError, DataError, RunError
from tutelage.evaluate.run_report import _samples
from tutelage.feedback.files import write_lines
from tutelage.folder import ProjectFolder, make_folder
from tutelage.history import find_unfinished, list_runs
from tutelage.questions import FILE, read_questions
from tutelage.records import Prompt
from tutelage.runs import Run, is_held
from tutelage.settings import Leaf, from_flag, read_yaml
from tutelage.stage import Settings

ODD = "one\u2028two\u2029three\x85four"  # str.splitlines ends lines at each of these


def interrupted(shell: Shell, *tokens: str) -> str:  # noqa: F811
    """The id of a run that was stopped before its first step."""

    def stop(*_args: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "restore", stop)
        patch.setattr(Run, "interruptible", stop)
        shell(*tokens, expect=130)
    return list_runs(shell.folder / "runs")[0].id


def test_texts_with_other_ends_of_lines_go_all_the_way(shell: Shell) -> None:  # noqa: F811
    rows = [{"prompt": f"{ODD} {i}"} for i in range(8)]
    (shell.folder / "p.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    shell("import", str(shell.folder / "p.jsonl"))
    made = shell.figures("sample", "--prompts", "2", "--completions", "2", *SMALL)
    assert all(q.prompt.messages[0].content.startswith(ODD) for q in read_questions(Path(made["path"]) / FILE))


def test_the_samples_of_a_run_are_read_and_cut_line_by_line(tmp_path: Path) -> None:
    run = Run.start(tmp_path, "ppo", Settings())
    for step in (1, 2):
        run.samples(step, [{"prompt": "p", "text": ODD}])
    run.save(1, {})
    run.restore()
    [sample] = _samples(run.path)
    assert [answer.text for answer in sample.answers] == [ODD]
    assert (run.path / "samples.jsonl").read_text().count('"step": 2') == 0


@pytest.mark.parametrize(
    ("begun", "flag"),
    [
        (("reward", *REWARD), "start"),
        (("dpo", *flags("dpo", "steps", "1")), "online"),
        (("sft", *SFT), "config"),
    ],
)
def test_a_resumed_run_takes_no_other_models_or_settings(filled: Shell, begun: tuple[str, ...], flag: str) -> None:  # noqa: F811
    name = interrupted(filled, *begun)
    other = filled.folder / "other.yaml"
    other.write_text("model: tiny\n")
    value = {"config": str(other), "online": "newest"}.get(flag, name)
    filled(begun[0], "--resume", name, f"--{flag}", value, expect=2)
    assert f"leave out --{flag}" in filled.err
    assert list_runs(filled.folder / "runs")[0].status == "interrupted"  # as it was
    filled(begun[0], "--resume", name)


def test_what_cannot_be_resumed_is_not_told_to_be(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def stop(*_args: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tutelage.wire.generate", stop)
    filled("sample", "--prompts", "3", expect=130)
    assert "--resume" not in filled.err
    assert "begin it again" in filled.err
    name = list_runs(filled.folder / "runs")[0].id
    with pytest.raises(RunError, match="runs of that kind are begun again"):
        find_unfinished(filled.folder / "runs", "sft", name)


def test_a_reward_model_is_not_asked_for_answers(filled: Shell) -> None:  # noqa: F811
    reward = filled.figures("reward", *flags("reward", "steps", "1"))["run"]
    for command in (("sample", "--run", reward), ("best-of-n", "--run", reward)):
        filled(*command, *SMALL, expect=2)
        assert "is a reward run, whose model writes no answers" in filled.err


def test_a_run_that_another_process_trains_stays_as_it_is(filled: Shell) -> None:  # noqa: F811
    name = interrupted(filled, "sft", *SFT)
    path = filled.folder / "runs" / name
    before = (path / "run.json").read_text()
    with (path / ".lock").open() as other:  # as whoever trains it would
        fcntl.flock(other, fcntl.LOCK_EX)
        filled("sft", "--resume", name, expect=2)
        assert "is being written by another process" in filled.err
        assert (path / "run.json").read_text() == before
    filled("sft", "--resume", name)


def test_a_lock_that_is_not_ours_to_write_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.start(tmp_path, "sft", Settings())
    run.finish("interrupted")
    real = os.open

    def refused(path: object, how: int, *more: int) -> int:
        if how & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, how, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    assert not is_held(run.path)
    (run.path / ".lock").unlink()
    assert not is_held(run.path)
    with pytest.raises(RunError, match="cannot be written"):
        run.hold()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: x\n", "1 is a key, but settings have names"),
        ("sft:\n  on: 3\n", "True is a key"),
        ("rules:\n  checks: [{on: 3}]\n", "True is a key"),
        ("model: a\x00b\n", "this is not YAML"),
        ("model: 2024-13-45\n", "this is not YAML"),
        ("model: [\n", "line 2: this is not YAML"),
    ],
)
def test_a_file_that_cannot_be_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tutelage.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "tutelage.yaml")


def test_a_section_with_nothing_in_it_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "tutelage.yaml").write_text("model: tiny\nsft:\n#  steps: 3\nppo: {kl: }\n")
    assert ProjectFolder.at(tmp_path).settings(Settings) == Settings(model="tiny")
    (tmp_path / "tutelage.yaml").write_text("sft: {steps: }\n")
    with pytest.raises(ConfigError, match=r"tutelage\.yaml: 'sft.steps' is None"):
        ProjectFolder.at(tmp_path).settings(Settings)


def test_a_list_in_a_flag_that_is_not_yaml() -> None:
    with pytest.raises(ConfigError, match=r"flag --rules\.checks: .* is not a list in YAML"):
        from_flag(Leaf("rules.checks", "", list[str], []), "[{kind: regex, pattern: 'x}]")


@pytest.mark.parametrize("model", ["a: b", "on", "12", "#x", "tiny"])
def test_a_new_project_can_be_read(tmp_path: Path, model: str) -> None:
    made = ProjectFolder.init(tmp_path / "p", model=model, store="tutelage.db")
    assert made.core().model == model


def test_the_next_command_is_as_a_shell_reads_it(shell: Shell) -> None:  # noqa: F811
    assert f"--project '{shell.folder}/x #1'" in shell("init", f"{shell.folder}/x #1", "--model", "tiny")


def test_where_no_folder_or_file_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        make_folder(file / "p")
    for command in (("init", str(file)), ("demo", "--mini", "--folder", str(file))):
        assert cli.run(command) == 2
        assert f"{file}" in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be written"):
        write_lines(file / "x.jsonl", ["a"])
    for wrong in (("--completions", "1"), ("--completions", "10"), ("--evaluation_prompts", "0")):
        assert cli.run(["demo", "--mini", "--folder", str(tmp_path / "d"), *wrong]) == 2
        assert f"flag {wrong[0]}" in capsys.readouterr().err
    assert cli.run(["bench", "sft", "--tiny", "--shortest", "200"]) == 2
    assert "shortest is 200 and longest 9" in capsys.readouterr().err
    assert cli.run(["bench", "sft", "--tiny", "--record", str(tmp_path)]) == 2
    assert "--record is" in capsys.readouterr().err
    file.write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match="cannot read the questions"):
        read_questions(file)


def test_best_of_n_without_prompts_held_out(shell: Shell) -> None:  # noqa: F811
    pairs = [{"prompt": f"Film {i} was", "chosen": " good", "rejected": " bad"} for i in range(40)]
    training = [row for row in pairs if Prompt.text(row["prompt"]).split == "train"]
    (shell.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in training))
    shell("import", str(shell.folder / "pairs.jsonl"), "--annotator", "ann")
    shell("reward", *flags("reward", "steps", "1"))
    shell("best-of-n", *SMALL, expect=2)
    assert "the store holds out 0 prompts" in shell.err
