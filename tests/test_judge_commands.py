"""`tutelage judge` as a person types it: labels into the store, figures out, and nothing asked twice."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from judge_server import ChatServer, chat, fault, soft

from tutelage import cli
from tutelage.errors import ConfigError
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import list_runs
from tutelage.model import causal
from tutelage.model.causal import Model
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.project import Project
from tutelage.questions import Question, write_questions
from tutelage.records import Completion, Prompt, Source
from tutelage.runs import Run
from tutelage.stage import Settings

QUICK = ["--judge.endpoint.backoff", "0.01", "--judge.endpoint.attempts", "2", "--judge.endpoint.concurrency", "2"]


def question(i, count=2):
    texts = [f"answer {i} {k}" + " very good" * k for k in range(count)]
    made = tuple(Completion(id=f"{i}-{k}", text=t, source=Source(model="m")) for k, t in enumerate(texts))
    return Question(prompt=Prompt.user(f"Question {i}?"), completions=made)


@pytest.fixture
def project(tmp_path, capsys):
    folder = tmp_path / "films"
    assert cli.run(["init", str(folder), "--model", "tiny"]) == 0
    capsys.readouterr()
    return folder


def sampled(folder, questions):
    run = Run.start(folder / "runs", "sample", Settings())
    write_questions(run.path, questions)
    run.finish()
    return run


def run(capsys, folder, *tokens, expect=0):
    status = cli.run([*tokens, "--project", str(folder)])
    out, err = capsys.readouterr()
    assert status == expect, out + err
    assert "Traceback" not in err
    return out + err


def figures(capsys, folder, *tokens):
    assert cli.run([*tokens, "--json", "--project", str(folder)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def stored(folder):
    with Store(folder / "tutelage.db") as store:
        return list(store.comparisons())


def by_number(body, _):
    """The verdict A with probability 0.9 when the answer with the higher last number stands first, else 0.3."""
    first, second = (int(n) for n in re.findall(r"answer \d+ (\d)", body["messages"][0]["content"]))
    return soft(0.9 if first > second else 0.3)


def test_an_endpoint_labels_the_newest_sampling_run_and_only_once(project, capsys):
    sample = sampled(project, [question(0), question(1, count=3)])
    with ChatServer(by_number) as server:
        command = ["judge", "compare", "--judge", f"{server.url}#judge-1", *QUICK]
        command += ["--judge.endpoint.prices", "{judge-1: [1000, 2000]}"]
        found = figures(capsys, project, *command)
        assert (found["asked"], found["labelled"], found["known"]) == (4, 4, 0)
        assert found["position_bias"]["mean"] == pytest.approx(0.2)
        assert found["consistency"]["rate"] == 1.0
        (spent,) = found["bill"]
        assert (spent["calls"], spent["read"], spent["written"]) == (8, 800, 16)
        assert spent["money"] == pytest.approx(0.832)
        again = figures(capsys, project, *command)
        assert (again["asked"], again["known"], len(server.requests)) == (0, 4, 8)
        assert again["position_bias"] is None
    labels = stored(project)
    assert [label.ranks for label in labels] == [(2, 1)] * 4
    assert [label.target for label in labels] == pytest.approx([0.2] * 4)
    assert {label.annotator.name for label in labels} == {"judge-1 (helpful)"}
    made = Run.open(project / "runs" / found["run"])
    assert made.facts["parents"] == [sample.id]
    rows = [json.loads(line) for line in (made.path / "samples.jsonl").read_text().splitlines()]
    assert rows[0]["verdicts"][0]["forward"] == pytest.approx(0.3)
    assert rows[0]["verdicts"][0]["backward"] == pytest.approx(0.1)


def test_a_model_at_home_labels_and_is_measured_against_people(project, capsys, tmp_path):
    causal.save(Model(tiny_decoder(context=4096, seed=5), tiny_tokenizer(), "judge"), project / "judge")
    write_questions(tmp_path, [question(i) for i in range(3)])
    given = ["--judge", "judge", "--judge.least_mass", "0"]
    found = figures(capsys, project, "judge", "compare", "--file", str(tmp_path / "questions.jsonl"), *given)
    assert (found["labelled"], found["not_judged"]) == (3, {})
    assert 0 < stored(project)[0].target < 1
    rows = [{"prompt": f"Film {i}?", "chosen": f" good {i}", "rejected": f" bad {i} indeed"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in (["--file", str(tmp_path / "pairs.jsonl")], []):
        run(capsys, project, "import", str(tmp_path / "pairs.jsonl"), "--annotator", "ann")
        measured = figures(capsys, project, "judge", "validate", *source, "--pairs", "5", *given)
        (one,) = measured["figures"]
        assert (one["pairs"], one["judged"], one["longer_wins"]["rate"]) == (5, 5, 0.0)
        assert (Path(measured["path"]) / "eval.json").is_file()
    assert len([c for c in stored(project) if c.annotator.kind == "model"]) == 3  # validating adds nothing
    text = run(capsys, project, "judge", "validate", "--pairs", "4", *given)
    assert "calibration error" in text
    assert "so far, " in text


def test_a_panel_may_stand_in_the_settings_file(project, capsys):
    sampled(project, [question(0)])
    (project / "tutelage.yaml").write_text("model: tiny\nstore: tutelage.db\n")
    with ChatServer(by_number) as server:
        panel = f"[{server.url}#one, {server.url}#two]"
        with open(project / "tutelage.yaml", "a") as file:
            file.write(f"judge:\n  panel: ['{server.url}#one', '{server.url}#two']\n  rubric: harmless\n")
        assert figures(capsys, project, "judge", "compare")["labelled"] == 1
        assert [body["model"] for *_, body in server.requests].count("two") == 2
        figures(capsys, project, "judge", "compare", "--judge.panel", panel, "--judge.rubric", "helpful")
    assert [c.annotator.name for c in stored(project)] == ["one + two (harmless)", "one + two (helpful)"]


def test_what_was_not_judged_is_told_and_gets_no_label(project, capsys):
    sampled(project, [question(i) for i in range(3)])

    def answer(body, before):
        match re.search(r"Question (\d)", body["messages"][0]["content"])[1]:
            case "0":
                return chat("I cannot compare these.")
            case "1":
                return fault(500, "broken")
        return soft(0.8)

    with ChatServer(answer) as server:
        command = ["judge", "compare", "--judge", f"{server.url}#m", *QUICK]
        text = run(capsys, project, *command)
        assert re.search(r"not judged: refusal +2 orders", text)
        assert re.search(r"not judged: HTTP 500 +2 orders", text)
        assert len(stored(project)) == 1
        asked = len(server.requests)
        server.answer = lambda body, before: soft(0.8)
        again = figures(capsys, project, *command)
    assert (again["labelled"], again["not_judged"], len(server.requests) - asked) == (1, {"refusal": 2}, 2)
    assert len(stored(project)) == 2


def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(project, capsys):
    sampled(project, [question(i) for i in range(10)])

    def interrupted(body, before):
        if len(server.requests) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return soft(0.8)

    with ChatServer(interrupted) as server:
        command = ["judge", "compare", "--judge", f"{server.url}#m", *QUICK]
        text = run(capsys, project, *command, expect=130)
        assert "Interrupted. Every answer so far is kept: the same command goes on." in text
        server.answer = lambda body, before: soft(0.8)
        assert 3 <= len(stored(project)) < 10
        found = figures(capsys, project, *command)
        assert found["asked"] + found["known"] == 10
        assert set(server.sent.values()) == {1}
        assert len(server.sent) == 20
    assert len(stored(project)) == 10
    assert [r.status for r in list_runs(project / "runs", "judge")].count("interrupted") == 1


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["compare"], "no judge is named: give --judge a model or URL#model, or set judge.panel"),
        (["compare", "--judge", "tiny"], "sample"),
        (["validate", "--judge", "tiny"], "the store has 0 pairs that people decided"),
        (["validate", "--judge", "http://x/v1"], "a base URL, # and a model's name"),
        (["validate", "--judge", "nowhere"], "there is no model at nowhere"),
        (["validate", "--judge", "tiny", "--judge.rubric", "kind"], "judge.rubric is 'kind', which cannot be read"),
        (["validate", "--judge", "tiny", "--judge.endpoint.key_variable", "a-b"], "key_variable"),
    ],
)
def test_mistakes_are_explained(project, capsys, tokens, message):
    assert message in run(capsys, project, "judge", *tokens, expect=2)


def test_the_judge_is_a_reward_from_python(project):
    with ChatServer(lambda body, _: chat("7", [("7", {"7": 0.5, "8": 0.5})])) as server:
        opened = Project(ProjectFolder.at(project))
        reward = opened.judge_reward({"judge.panel": [f"{server.url}#m"]})
        assert reward(Prompt.user("Why?"), "Because.") == pytest.approx(2 * 6.5 / 9 - 1)
        with pytest.raises(ConfigError, match=r"a reward has one judge, judge.panel names 0"):
            opened.judge_reward()
