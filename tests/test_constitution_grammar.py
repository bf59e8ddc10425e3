"""Critics of known accuracy in a world where harm can be counted: what revision, ensembling and RL-CAI must bring."""

from itertools import pairwise

import pytest
from harm_loop import answers, label_accuracy, pairs, revised_rounds, whole_loop


@pytest.mark.parametrize("seed", range(3))
def test_harm_falls_with_every_round_and_little_help_is_lost(seed):
    found = revised_rounds(answers(seed), seed, accuracy=0.9)
    harmless, helpful = ([side.mean for side in column] for column in zip(*found, strict=True))
    assert len(harmless) == 5
    assert all(after > before + 0.02 for before, after in pairwise(harmless))
    assert harmless[-1] > harmless[0] + 0.4
    assert helpful[-1] >= 0.9 * helpful[0]


def test_an_inverted_critic_does_harm():
    found = revised_rounds(answers(0), 0, accuracy=0.9, inverted=True)
    assert found[-1][0].mean < found[0][0].mean - 0.1
    assert found[-1][1].mean < 0.9 * found[0][1].mean


def share(right):
    return sum(right) / len(right)


def test_sixteen_principles_together_are_right_more_often_than_one():
    asked = pairs(0, 400)
    one, many = (share(label_accuracy(asked, k, seed=0)) for k in (1, 16))
    assert one == pytest.approx(0.65, abs=0.05)
    assert many >= one + 0.05
    wrong = share(label_accuracy(asked, 16, seed=0, inverted=True))
    assert wrong < 0.4


def test_principles_that_all_err_alike_bring_nothing():
    asked = pairs(1, 200)
    one, many = (share(label_accuracy(asked, k, seed=1, shared=1.0)) for k in (1, 16))
    assert one == many


FRESH = (3, 4, 5)  # seeds that nobody looked at while the recipe was made


@pytest.mark.slow
@pytest.mark.parametrize("seed", FRESH)
def test_rl_cai_is_above_sl_cai_above_base_and_does_not_evade(tmp_path, seed):
    *_, stands = whole_loop(tmp_path, seed)
    base, supervised, trained = (stands[name] for name in ("base", "SL-CAI", "RL-CAI"))
    assert supervised.harmlessness.mean > base.harmlessness.mean + 0.2
    assert trained.harmlessness.mean >= supervised.harmlessness.mean
    assert trained.evasion.evasive.rate <= 0.05
    assert trained.helpfulness.mean >= 0.8 * base.helpfulness.mean


@pytest.mark.slow
def test_an_inverted_critic_makes_the_model_worse(tmp_path):
    *_, stands = whole_loop(tmp_path, 0, inverted=True)
    assert stands["SL-CAI"].harmlessness.mean < stands["base"].harmlessness.mean
    assert stands["RL-CAI"].harmlessness.mean <= stands["SL-CAI"].harmlessness.mean + 0.02
