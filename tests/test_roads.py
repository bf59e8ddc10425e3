"""The other roads from a project folder: from files to a policy by one command, online too, and back to its people."""

import json

import pytest
import torch

import tutelage
from tutelage.errors import RunError
from tutelage.evaluate.run_report import report_for_run
from tutelage.learn.rollout import EndRule
from tutelage.model.tiny import tiny_tokenizer
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source
from tutelage.roads import score_annotator
from tutelage.terminal import human
from tutelage.wire import newest_policy

SMALL = {
    "dpo.steps": 2, "dpo.batch_size": 4, "dpo.max_tokens": 48, "dpo.evaluate_every": 1, "dpo.runaway": 1e6,
    "dpo.chosen_drop": 1e6, "sampling.max_tokens": 6,
}  # fmt: skip
WHO = Annotator(id="mine", kind="model", name="mine")


@pytest.fixture
def project(tmp_path):
    """Thirty prompts, each with a pair, a demonstration and a thumb."""
    made = tutelage.init(tmp_path / "films", model="tiny")
    rows = {
        "pairs": [{"prompt": f"Film {i} was", "chosen": f" good {i}", "rejected": f" bad {i}"} for i in range(30)],
        "thumbs": [{"prompt": f"Film {i} was", "completion": f" so {i}", "label": i % 2 == 0} for i in range(30)],
        "written": [{"prompt": f"Film {i} was", "completion": f" good {i}"} for i in range(30)],
    }
    for name, lines in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        made.import_file(path, annotator=human("ann"))
    return made


def test_three_lines_train_from_the_newest_sft_run_and_the_run_is_a_policy(project):
    sft = project.sft({"sft.steps": 1, "sft.batch_size": 2, "sft.max_tokens": 40})
    run = project.dpo(SMALL)
    assert run.facts["parents"] == [sft.id]
    assert run.facts["data"]["annotators"][0]["name"] == "ann"
    last = run.metrics()[-1]
    assert {"dpo/loss", "dpo/margin", "dpo/evaluation_loss", "dpo/evaluation_accuracy", "dpo/kl"} <= last.keys()
    assert newest_policy(project.folder).id == run.id
    sampled, questions = project.sample({"sampling.max_tokens": 6}, prompts=3, completions=2)
    assert sampled.facts["parents"] == [run.id]
    assert questions > 0
    project.reward({"reward.steps": 1, "reward.batch_size": 2, "reward.max_tokens": 48})
    trial = project.evaluate(run.id, {"sampling.max_tokens": 6})
    assert (trial.figures["first"], trial.figures["second"]) == (run.id, sft.id)
    titles = [chart.title for chart in report_for_run(run.path).charts]
    assert "Pairs whose margin runs away" in titles
    assert "Better completions since the start" in titles
    assert report_for_run(run.path).title.startswith("Direct preference optimisation")


@pytest.mark.parametrize(
    ("source", "kinds"),
    [("ratings", ["ratings"]), ("comparisons", ["comparisons"]), ("both", ["comparisons", "ratings"])],
)
def test_kto_reads_thumbs_and_rankings(project, source, kinds):
    run = project.dpo(SMALL | {"dpo.loss.kind": "kto", "dpo.loss.source": source, "dpo.steps": 1, "dpo.batch_size": 4})
    assert "dpo/reference_point" in run.metrics()[0]
    with project.store() as store:
        held = {kind: store.count(kind, "train") for kind in kinds}
    seen = run.facts["data"]
    assert {kind: seen[kind] for kind in ("comparisons", "ratings") if kind in seen} == held


def test_a_reward_run_can_be_the_annotator_and_the_resumed_run_asks_the_same(project, monkeypatch):
    reward = project.reward({"reward.steps": 1, "reward.batch_size": 2, "reward.max_tokens": 48})
    settings = SMALL | {"dpo.save_every": 1}
    straight = project.dpo(settings, online="newest")
    assert straight.facts["parents"][0] == reward.id
    assert straight.metrics()[-1]["dpo/answered"] > 0

    from tutelage.learn.learner import Learner

    real = Learner.update

    def stops(self, *parts):
        if self.step == 1:
            raise KeyboardInterrupt
        return real(self, *parts)

    monkeypatch.setattr(Learner, "update", stops)
    with pytest.raises(tutelage.errors.Interrupted):
        project.dpo(settings, online=reward.id)
    monkeypatch.undo()
    again = project.dpo(resume="newest")
    assert again.metrics() == straight.metrics()


def test_a_reward_run_ranks_by_score_after_the_end_rule():
    class Fixed:
        tokenizer = tiny_tokenizer()

        def score(self, sequences):
            return torch.tensor([3.0, 1.0, 0.0][: len(sequences)])

    texts = [("cut off", "length"), ("good", "stop"), ("bad", "stop")]
    made = [Completion(text=text, finish=finish, source=Source(model="m")) for text, finish in texts]
    for end, ranks in (({"kind": "none"}, (1, 2, 3)), ({"kind": "fixed", "value": 0.5}, (3, 1, 2))):
        annotate = score_annotator(Fixed(), "reward-1", EndRule.model_validate(end))
        found = annotate(Prompt.text("Film"), made)
        assert (found.ranks, found.annotator.id) == (ranks, "reward-model-reward-1")


def test_an_annotator_of_ones_own_must_be_given_again(project):
    def stopping(prompt, completions):
        raise KeyboardInterrupt

    def longest(prompt, completions):
        lengths = [len(c.text.encode()) for c in completions]
        ranks = tuple(1 + sum(other > mine for other in lengths) for mine in lengths)
        order = tuple(range(len(ranks)))
        return Comparison(prompt=prompt, completions=tuple(completions), ranks=ranks, shown=order, annotator=WHO)

    with pytest.raises(tutelage.errors.Interrupted):
        project.dpo(SMALL, online=stopping)
    with pytest.raises(RunError, match="annotator of yours"):
        project.dpo(resume="newest")
    assert project.dpo(resume="newest", online=longest).facts["status"] == "done"


def test_by_hand_at_the_command_line(project, capsys):
    from tutelage import cli

    flags = [x for key, value in SMALL.items() for x in (f"--{key}", str(value))]
    where = ["--project", str(project.folder.path), "--json"]
    assert cli.run(["dpo", *flags, "--dpo.loss.kind", "simpo", "--dpo.loss.margin", "0.3", *where]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["metrics"]["step"] == 2
    assert cli.run(["dpo", "--dpo.loss.kind", "smpo", *where]) == 2
    assert 'Did you mean "simpo"?' in capsys.readouterr().err
    assert cli.run(["dpo", "--dpo.loss.tau", "1", *where]) == 2
    assert "set 'dpo.loss.kind' too" in capsys.readouterr().err
