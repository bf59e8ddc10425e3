"""Soft targets and label noise: what votes together say, and that it teaches better than the votes themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
from quality_votes import comparison

from tutelage.errors import ConfigError, DataError
from tutelage.learn.reward import Groups, Ranking, RewardConfig
from tutelage.project import Project
from tutelage.quality.targets import believe, pair_targets, soft_targets
from tutelage.settings import Layer, resolve

ABILITY = {"a": 0.95, "b": 0.9, "c": 0.8, "d": 0.6, "e": 0.25}


def labelled(units, rng, per_unit=3, ability=ABILITY):
    """Pairs in which `good` is better than `bad`, called so by raters of these abilities."""
    rows, people = [], list(ability)
    for u in range(units):
        for who in rng.choice(people, per_unit, replace=False):
            right = rng.random() < ability[who]
            first, second = ("good", "bad") if rng.random() < 0.5 else ("bad", "good")
            ranks = (1, 2) if (first == "good") == right else (2, 1)
            rows.append(comparison(f"p{u}", [first, second], ranks, str(who)))
    return rows


def toward_truth(c):
    """The target that `good` is better."""
    return c.target if c.completions[0].text == "good" else 1 - c.target


def test_targets_are_probabilities_that_hold():
    rng = np.random.default_rng(0)
    rows = labelled(1500, rng)
    belief = believe(rows)
    for who, ability in ABILITY.items():
        assert belief.ability[who].rate == pytest.approx(ability, abs=0.05)
        assert belief.noise(who) == 1 - belief.ability[who].rate
    assert belief.noise("nobody") == pytest.approx(1 - np.mean([r.rate for r in belief.ability.values()]))
    soft = np.array([toward_truth(c) for c in soft_targets(rows)])
    hard = np.mean([c.completions[c.ranks.index(1)].text == "good" for c in rows])
    assert np.mean(soft > 0.5) > hard + 0.15
    sure = (soft > 0.9) | (soft < 0.1)
    assert np.mean(np.where(soft > 0.5, soft, 1 - soft)[sure]) == pytest.approx(np.mean(soft[sure] > 0.5), abs=0.02)


def test_turning_a_pair_round_turns_its_target():
    rows = labelled(200, np.random.default_rng(1))
    for before, turned in zip(soft_targets(rows), soft_targets([c.reorder((1, 0)) for c in rows]), strict=True):
        assert turned.target == pytest.approx(1 - before.target, abs=1e-9)


def test_only_what_two_people_judged_tells_of_noise():
    """Labels that nobody else saw change no ability; their target is the rater's own."""
    rng = np.random.default_rng(2)
    both = labelled(400, rng)
    alone = [comparison(f"alone {i}", ["x", "y"], (1, 2), "d") for i in range(300)]
    stranger = comparison("strange", ["x", "y"], (2, 1), "stranger")
    before, after = believe(both), believe([*both, *alone, stranger])
    assert after.ability["d"].rate == pytest.approx(before.ability["d"].rate, abs=1e-6)
    d, typical = after.ability["d"].rate, after.typical
    in_truth = np.mean([c.completions[c.ranks.index(1)].text == "good" for c in both if c.annotator.id == "d"])
    assert before.ability["d"].low < in_truth < before.ability["d"].high
    assert pair_targets(alone[0], after)[0] == pytest.approx(d, abs=1e-9)
    assert pair_targets(stranger, after)[0] == pytest.approx(1 - typical, abs=1e-9)
    with pytest.raises(DataError, match="judged by two raters"):
        believe(alone)


def test_rankings_have_a_target_a_pair_and_ties_stay_in_the_middle():
    rows = [comparison(f"p{i}", ["x", "y", "z"], (3, 1, 1), who) for i in range(30) for who in "ab"]
    x_y, x_z, y_z = pair_targets(rows[0], believe(rows))
    assert x_y == pytest.approx(x_z)
    assert x_y < 0.05
    assert y_z == pytest.approx(0.5, abs=1e-9)
    assert soft_targets(rows)[0] == rows[0]  # a ranking's record has no place for them
    pair = {"completions": rows[0].completions[:2], "ranks": (1, 2), "shown": (0, 1), "target": 0.3}
    given = rows[0].model_copy(update=pair)
    assert soft_targets([*rows, given])[-1].target == 0.3


def test_what_all_votes_say_is_the_target_of_each_pair():
    """`Groups` keeps the better one of each pair by rank first, and turns the target with it; the loss is its own."""
    rows = (tuple(range(3, 6)), tuple(range(3, 7)), tuple(range(3, 8)))
    ranking = Ranking(rows, ranks=(2, 1, 2), target=None, strength=None, pair_targets=(0.2, 0.6, 0.9))
    config = RewardConfig(label_noise=0.3)
    groups = Groups.of([replace(ranking, pair_targets=None), ranking], config)
    assert groups.better.tolist()[3:] == [4, 3, 4]
    assert groups.target.tolist() == pytest.approx([0.7, 0.5, 0.7, 0.8, 0.6, 0.9])
    with pytest.raises(ConfigError, match="set loss to 'pairs'"):
        resolve(RewardConfig, [Layer("file", {"targets": "annotators", "loss": "plackett_luce"})])


def test_a_reward_run_takes_them_and_keeps_them(tmp_path):
    project = Project.init(tmp_path / "p", model="tiny")
    rows = labelled(12, np.random.default_rng(3))
    with project.store() as store:
        store.add_all(rows)
    flags = {"reward.steps": 2, "reward.targets": "annotators", "reward.max_tokens": 32, "sampling.max_tokens": 4}
    run = project.reward(flags | {"ppo.sampling.max_tokens": 4})
    kept = json.loads((run.path / "targets.json").read_text())
    training = [c for c in rows if c.prompt.split == "train"]
    assert kept == {c.id: pytest.approx([c.target]) for c in soft_targets(training)}
    assert set(run.facts["data"]["noise"]) <= set(ABILITY)
    hard = project.reward({k: v for k, v in (flags | {"ppo.sampling.max_tokens": 4}).items() if "targets" not in k})
    losses = [json.loads((r.path / "metrics.jsonl").read_text().splitlines()[0])["reward/loss"] for r in (run, hard)]
    assert losses[0] != losses[1]
