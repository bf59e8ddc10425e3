"""Group methods, rejection sampling and the best-of-n curve from a project folder, by reward run and by rule."""

import json
import warnings

import pytest
from judge_server import ChatServer, chat
from test_cli import Shell

import tutelage
from tutelage.errors import ConfigError, RunError
from tutelage.learn.best_of_n import score
from tutelage.model import causal
from tutelage.records import Prompt
from tutelage.runs import Run
from tutelage.scoring import Reader

SHORT = {"sampling.max_tokens": 8}
GROUP = {"group.steps": 1, "group.batch_size": 8, "group.sampling.max_tokens": 8, "group.evaluate_every": 1}
RAFT = {"raft.rounds": 1, "raft.prompts": 4, "raft.samples": 3, "raft.steps": 2, "raft.sampling.max_tokens": 8}
LETTER = {"rules.checks": [{"kind": "regex", "pattern": "e", "weight": 2.0}]}
ANSWER = {"rules.checks": [{"kind": "number"}]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny project with demonstrations, rankings, and a reward run."""
    folder = tmp_path_factory.mktemp("rl")
    made = tutelage.init(folder / "p", model="tiny")
    rows = [{"prompt": f"Say {i}: ", "completion": f"#### {i}"} for i in range(40)]
    pairs = [{"prompt": f"Say {i}: ", "chosen": "eee", "rejected": "zzz"} for i in range(40)]
    for name, content in (("written.jsonl", rows), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
        made.import_file(folder / name, annotator=tutelage_human())
    few = {"reward.batch_size": 4, "reward.max_tokens": 48, "reward.steps": 2}
    made.reward(few)
    made.reward(few)
    return made


def tutelage_human():
    from tutelage.terminal import human

    return human("ann")


def test_group_by_reward_run_and_by_rules(project):
    scorer = project.runs("reward")[0].id
    by_model = project.group(GROUP)
    assert by_model.facts["parents"] == [scorer]
    by_rules = project.group({**GROUP, **LETTER, "group.reward": "rules"})
    assert by_rules.facts["parents"] == []
    by_both = project.group({**GROUP, **LETTER, "group.reward": "both"}, scorer=scorer)
    rows = [run.metrics()[-1] for run in (by_model, by_rules, by_both)]
    assert rows[2]["group/score"] == pytest.approx(rows[0]["group/score"] + rows[1]["group/score"], abs=1e-4)
    assert {"group/evaluation_score", "group/evaluation_kl"} <= rows[0].keys()
    assert by_rules.final.is_dir()


def test_two_reward_runs_score_as_one(project):
    helpful, safe = (run.id for run in project.runs("reward")[:2])
    alone = project.group(GROUP, scorer=helpful).metrics()[-1]["group/score"]
    run = project.group(GROUP, scorer=helpful, safety=safe)
    assert run.facts["parents"] == [helpful, safe]
    scale = json.loads((run.path / "two-rewards.json").read_text())
    assert scale["std"] > 0
    row = run.metrics()[-1]["group/score"]
    assert row != pytest.approx(alone, abs=1e-3)
    assert abs(row) < 3  # whitened on samples like these
    with pytest.raises(ConfigError, match="scorer and safety at once"):
        project.group(GROUP, scorer=helpful, safety=helpful)


def test_a_judge_s_grade_is_a_reward(project):
    with ChatServer(lambda body, _: chat("7", [("7", {"7": 0.5, "8": 0.5})])) as server:
        asks = {"group.reward": "judge", "judge.panel": [f"{server.url}#m"], "group.end.kind": "none"}
        run = project.group({**GROUP, **asks})
        asked = len(server.requests)
    assert run.facts["parents"] == []
    assert run.metrics()[-1]["group/score"] == pytest.approx(2 * 6.5 / 9 - 1)
    assert 0 < asked <= 8 * 2  # 8 answers, and those to the held-out prompts
    assert run.facts["data"]["judges"]


def test_propositions_are_graded_weighed_and_added_to_the_reward_run(project, tmp_path):
    book = {
        "behaviours": {"comply": "do it"},
        "propositions": [
            {"id": "yes", "text": "It says yes.", "desired": ["comply"]},
            {"id": "sorry", "text": "It says sorry.", "undesired": ["comply"]},
        ],
    }
    (tmp_path / "book.yaml").write_text(json.dumps(book))
    said = {"yes indeed": {"yes": True, "sorry": False}, "sorry never": {"yes": False, "sorry": True}}
    rows = [
        {"prompt": f"Say {i}: ", "completion": text, "behaviour": "comply", "propositions": truth}
        for i in range(20)
        for text, truth in said.items()
    ]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = {
        "propositions.rulebook": str(tmp_path / "book.yaml"),
        "propositions.labelled": str(tmp_path / "labelled.jsonl"),
    }
    scorer = project.runs("reward")[0].id
    found = project.propositions(rules, scorer=scorer)
    assert found.figures is not None
    assert found.figures.auc.mean == 1
    assert found.weighing is not None
    assert [(w.proposition, w.weight > 0) for w in found.weighing.weights] == [("yes", True), ("sorry", False)]
    assert (found.weighing.pairs, found.weighing.accuracy) == (20, 1)
    assert found.weighing.hinge < found.weighing.hinge_without

    alone = project.group(GROUP, scorer=scorer).metrics()[-1]["group/score"]
    run = project.group({**GROUP, **rules, "group.reward": "propositions"}, scorer=scorer)
    kept = json.loads((run.path / "propositions.json").read_text())
    weights = [row["weight"] for row in kept["weights"]]
    assert weights == pytest.approx([w.weight for w in found.weighing.weights])
    added = run.metrics()[-1]["group/score"] - alone  # both graded uncertain: of such letters neither is said
    assert weights[1] < added < weights[0]
    assert added != 0


def test_evaluate_works_on_their_runs(project):
    run = project.group({**GROUP, **LETTER, "group.reward": "rules"})
    trial = project.evaluate(run.id, {**SHORT, "evaluate.prompts": 4})
    assert trial.figures["win_rate"]["n"] == 4
    assert trial.figures["judge_is"] == "a reward model the policy was not trained against"
    raft = project.raft({**RAFT, **LETTER, "raft.reward": "rules"})
    assert project.evaluate(raft.id, {**SHORT, "evaluate.prompts": 4}).figures["run"] == raft.id


def test_raft_probes_held_out_demonstrations(project):
    rows = project.raft(RAFT).metrics()
    assert [row["step"] for row in rows] == [0, 2]
    assert all(row["raft/probe_loss"] > 0 for row in rows)
    assert rows[1]["raft/kept"] == 4


def test_prompts_without_an_answer_are_left_out(project, tmp_path):
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": "Nobody answered this one "}) + "\n")
    other = tutelage.init(tmp_path / "p", model="tiny")
    (tmp_path / "written.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {i}: ", "completion": f"#### {i}"}) + "\n" for i in range(20))
    )
    other.import_file(tmp_path / "written.jsonl", annotator=tutelage_human())
    other.import_file(tmp_path / "asked.jsonl", annotator=tutelage_human())
    total = other.store().count("prompts", "train")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = other.group({**GROUP, **ANSWER, "group.reward": "rules"})
    side = Prompt.text("Nobody answered this one ").split
    assert run.facts["data"]["prompts"] == total - (side == "train")
    assert any("import a demonstration" in str(one.message) for one in told)


def test_a_reward_of_texts_hears_prompt_and_answer(project):
    model = causal.load("tiny")
    heard = []

    class Listener:
        def rewards(self, answers):
            heard.extend(answers)
            return [1.0] * len(answers)

    reader = Reader(model, 8)
    reward = reader.reward(None, Listener())
    prompt = Prompt.text("Say: ")
    tokens = reader.tokens(prompt)
    answer = model.tokenizer.completion("hé, e")
    assert score(reward, [tokens], [answer]).tolist() == [1.0]
    assert heard == [(prompt, "hé, e")]


@pytest.mark.parametrize(
    ("settings", "scorer", "message"),
    [
        ({"group.reward": "rules"}, None, "rules.checks is empty"),
        ({"group.reward": "rules", **LETTER}, "reward-1", "is not asked"),
    ],
)
def test_rewards_that_are_not_there_are_named(project, settings, scorer, message):
    with pytest.raises(ConfigError, match=message):
        project.group({**GROUP, **settings}, scorer=scorer)


def test_without_a_reward_run_it_says_so(tmp_path):
    with pytest.raises(RunError, match="tutelage reward"):
        tutelage.init(tmp_path / "p", model="tiny").raft(RAFT)


def test_the_curve_from_the_command_line(project, capsys):
    shell = Shell(project.folder.path, capsys)
    newer, older = (run.id for run in project.runs("reward"))
    flags = ["--sampling.max_tokens", "6", "--evaluate.prompts", "5", "--samples", "4"]
    found = shell.figures("best-of-n", *flags, "--gold", older)
    assert [point["n"] for point in found["points"]] == [1, 2, 4]
    assert all(point["proxy"]["n"] == 5 for point in found["points"])
    proxies = [point["proxy"]["mean"] for point in found["points"]]
    assert proxies == sorted(proxies)
    assert proxies[-1] > proxies[0]
    made = project.runs("curve")[0]
    assert newer in made.parents
    assert older in made.parents
    page = (made.path / "curve.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page
    assert json.loads((made.path / "eval.json").read_text(encoding="utf-8"))["points"] == found["points"]
    by_rule = shell.figures(
        "best-of-n", *flags, "--scorer", "rules", "--rules.checks", "[{kind: regex, pattern: '[a-m]'}]"
    )
    assert 0 <= by_rule["points"][0]["proxy"]["mean"] <= by_rule["points"][-1]["proxy"]["mean"] <= 1


def test_an_interrupted_run_resumes_with_its_own_rules(project):
    run = project.group({**GROUP, **LETTER, "group.reward": "rules", "group.steps": 2, "group.save_every": 1})
    facts = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    (run.path / "run.json").write_text(json.dumps(facts | {"status": "interrupted"}))
    again = project.group(resume=run.id)
    assert [row["step"] for row in Run.open(again.path).metrics()] == [1, 2]
    assert again.facts["status"] == "done"
