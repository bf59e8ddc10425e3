"""Soft labels in DPO and its kin: the mixture of both orders to the digit, from votes, from judges, through a run."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from preference_worlds import tasteful
from test_targets import ABILITY, labelled

import tutelage
from tutelage.errors import ConfigError
from tutelage.judge.compare import annotator_of, comparison_of, judge_pairs
from tutelage.judge.rubric import read_rubric
from tutelage.judge.scripted import ScriptedJudge, taste
from tutelage.learn.dpo import DPOConfig
from tutelage.learn.kto import likings, split
from tutelage.learn.preference import Preference, Preferences, beats, best, preference, preference_loss
from tutelage.learn.preference_losses import DPO, IPO, ORPO, Conservative, LengthNormalised, SimPO
from tutelage.learn.reference import completion_logprobs
from tutelage.learn.reward import Ranking
from tutelage.model.heads import Policy
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.quality.targets import believe, pair_targets, soft_targets
from tutelage.questions import Question
from tutelage.records import Completion, Prompt, Source
from tutelage.settings import Layer, resolve

PAIR = Preference(Ranking(((10, 97, 98, 99), (10, 100, 97)), (2, 1), None, None), 1)
SOFT = [DPO(beta=0.7), Conservative(beta=0.7, label_noise=0.1), IPO(tau=0.3), LengthNormalised(), SimPO(), ORPO()]
REFERENCE = [torch.tensor([-11.0, -14.5])]  # not the policy's own, so that the margin is not 0


def with_target(item, *targets):
    """The preference with these targets of its pairs i < j."""
    return replace(item, ranking=replace(item.ranking, pair_targets=targets))


def loss_and_gradient(loss, item):
    """What production says of one prompt, and every weight's gradient in one row."""
    policy = Policy(tiny_decoder(260, seed=1))
    packed = Preferences.of([item], REFERENCE)
    total, logged = preference_loss(policy, packed, loss, sft_weight=0.3, runaway=99)
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return float(total.detach()), gradient, logged


@pytest.mark.parametrize("loss", SOFT, ids=lambda x: x.kind)
def test_a_soft_label_is_the_mixture_of_both_orders_and_so_is_its_gradient(loss):
    """L(p) = p L(first better) + (1 − p) L(second better), for the loss and for every weight's gradient."""
    (won, there, _), (lost, back, _) = (loss_and_gradient(loss, with_target(PAIR, p)) for p in (1.0, 0.0))
    soft, gradient, _ = loss_and_gradient(loss, with_target(PAIR, 0.8))
    assert soft == pytest.approx(0.8 * won + 0.2 * lost, rel=1e-5)
    assert torch.allclose(gradient, 0.8 * there + 0.2 * back, rtol=1e-4, atol=1e-5 * float(there.abs().max()))
    assert not torch.allclose(there, back, rtol=0.1)
    hard = loss_and_gradient(loss, PAIR)  # ranked (2, 1): the second is better
    assert hard[0] == pytest.approx(lost, rel=1e-6)


def test_values_by_hand():
    (own,) = completion_logprobs(Policy(tiny_decoder(260, seed=1)), [PAIR], 100)
    likelihood = -(0.8 * float(own[0]) / 3 + 0.2 * float(own[1]) / 2)
    gap = float((own - REFERENCE[0])[0] - (own - REFERENCE[0])[1])
    nll = [math.log1p(math.exp(-0.7 * sign * gap)) for sign in (1, -1)]
    total, _, logged = loss_and_gradient(DPO(beta=0.7), with_target(PAIR, 0.8))
    assert float(logged["dpo/nll"].detach()) == pytest.approx(likelihood, abs=1e-4)
    assert total == pytest.approx(0.8 * nll[0] + 0.2 * nll[1] + 0.3 * likelihood, abs=1e-4)
    total, _, _ = loss_and_gradient(IPO(tau=0.3), with_target(PAIR, 0.8))
    squares = [(sign * gap - 1 / 0.6) ** 2 for sign in (1, -1)]
    assert total == pytest.approx(0.8 * squares[0] + 0.2 * squares[1] + 0.3 * likelihood, rel=1e-4)
    total, _, _ = loss_and_gradient(Conservative(beta=0.7, label_noise=0.1), with_target(PAIR, 0.8))
    assert total == pytest.approx(0.74 * nll[0] + 0.26 * nll[1] + 0.3 * likelihood, abs=1e-4)
    assert abs(gap) > 1


def test_three_completions_take_a_target_a_pair():
    item = with_target(tasteful(count=1, k=3)[0], 0.9, 0.6, 0.2)
    won = beats(item.ranking.ranks, None, item.ranking.pair_targets)
    assert won.flatten().tolist() == pytest.approx([0.5, 0.9, 0.6, 0.1, 0.5, 0.2, 0.4, 0.8, 0.5])
    assert likings(item.ranking.ranks, None, item.ranking.pair_targets) == pytest.approx([0.75, 0.15, 0.6])
    chance = [0.9 * 0.6, 0.1 * 0.2, 0.4 * 0.8]
    assert best(item.ranking).tolist() == pytest.approx([c / sum(chance) for c in chance])
    assert [o.desirable for o in split(item)] == pytest.approx([0.75, 0.15, 0.6])
    assert item.decides
    assert not with_target(item, 0.5, 0.5, 0.5).decides
    circle = with_target(item, 1.0, 0.0, 1.0)  # the first beats the second, that the third, and that the first
    assert best(circle.ranking).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"kind": "plackett_luce"}, "loss 'plackett_luce' cannot use"),
        ({"kind": "robust"}, "loss 'robust' cannot use"),
        ({"kind": "kto", "source": "ratings"}, "loss 'kto' of ratings cannot use"),
    ],
)
def test_losses_without_a_soft_form_refuse(loss, said):
    with pytest.raises(ConfigError, match=said):
        resolve(DPOConfig, [Layer("file", {"targets": "annotators", "loss": loss})])


# ---- through a run


def filled(folder, rows):
    project = tutelage.init(folder, model="tiny")
    with project.store() as store:
        store.add_all(rows)
    return project


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_run_takes_what_all_votes_say(tmp_path, kind):
    """The run on votes is to the digit the run on records that carry those targets themselves."""
    flags = {
        "dpo.steps": 2, "dpo.batch_size": 8, "dpo.max_tokens": 32, "dpo.loss.kind": kind, "dpo.evaluate_every": 0,
        "dpo.optimizer.learning_rate": 1e-2, "dpo.runaway": 1e6, "dpo.chosen_drop": 1e6,
    }  # fmt: skip
    rows = labelled(12, np.random.default_rng(3))
    train = [c for c in rows if c.prompt.split == "train"]
    votes = filled(tmp_path / "votes", rows)
    run = votes.dpo(flags | {"dpo.targets": "annotators"})
    given = filled(tmp_path / "given", soft_targets(train)).dpo(flags)
    found, truth = ([step["dpo/loss"] for step in r.metrics()] for r in (run, given))
    assert found == pytest.approx(truth, rel=1e-6)
    kept = json.loads((run.path / "targets.json").read_text())
    assert kept == {c.id: pytest.approx(pair_targets(c, believe(train))) for c in train}
    assert set(run.facts["data"]["noise"]) <= set(ABILITY)


def test_online_there_is_nothing_to_weigh(tmp_path):
    project = filled(tmp_path / "p", labelled(12, np.random.default_rng(3)))
    with pytest.raises(ConfigError, match="no use online"):
        project.dpo({"dpo.targets": "annotators", "dpo.max_tokens": 32}, online=lambda prompt, completions: None)


def test_an_ai_judges_probability_is_the_target():
    """Both orders of a judge of known odds: the label's target, and with it the loss, is its mean probability."""
    judge = ScriptedJudge(taste(lambda text: float(len(text)), slope=0.3, first_bias=0.5))
    done = tuple(Completion(text=t, source=Source(model="file")) for t in ("abcd", "ab"))
    question = Question(prompt=Prompt.text("xy"), completions=done)
    rubric = read_rubric("helpful")
    (judged,) = judge_pairs([question], [judge], rubric)
    label = comparison_of(judged, annotator_of([judge], rubric), rubric)
    p = [1 / (1 + math.exp(-(0.3 * 2 + bias))) for bias in (0.5, -0.5)]
    made = preference(label, tiny_tokenizer(), 100)
    assert made.ranking.target == pytest.approx(sum(p) / 2)
    assert Preferences.of([made], None).groups.target.tolist() == pytest.approx([sum(p) / 2])
    outvoted = preference(label, tiny_tokenizer(), 100, (0.1,))  # its own probability goes before what votes say
    assert Preferences.of([outvoted], None).groups.target.tolist() == pytest.approx([sum(p) / 2])
