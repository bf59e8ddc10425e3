"""Dawid and Skene: oracle O12, exact points, crowd-kit as a reference, and intervals that hold what they promise."""

import numpy as np
import pandas as pd
import pytest
from quality_votes import crowd

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import flip_rate
from tutelage.quality.dawid_skene import abilities, dawid_skene, posterior
from tutelage.quality.votes import Votes

EIGHT = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.55, 0.2]


def share_right(truth, votes, belief):
    """Of the units, ties broken towards the lower answer; units are numbered as they come."""
    return float(np.mean(belief.argmax(axis=1) == truth[list(votes.units)]))


def test_eight_annotators_with_three_votes():
    """Oracle O12: a majority of three is right on .802, EM on .901; no estimate can beat knowing the raters."""
    truth, votes = crowd(EIGHT, 4000, 3, np.random.default_rng(0))
    coin = dawid_skene(votes, one_coin=True)
    majority, em = share_right(truth, votes, votes.counts), share_right(truth, votes, coin.posterior)
    known = np.array([[[p, 1 - p], [1 - p, p]] for p in EIGHT])
    best = share_right(truth, votes, posterior(votes, [0.5, 0.5], known))
    assert majority == pytest.approx(0.802, abs=0.015)
    assert em == pytest.approx(0.901, abs=0.012)
    assert em <= best + 0.004
    assert share_right(truth, votes, dawid_skene(votes).posterior) == pytest.approx(em, abs=0.01)
    assert coin.confusion[:, 0, 0] == pytest.approx(EIGHT, abs=0.04)


def test_two_equal_raters_give_the_closed_form():
    """Who agree A of the time, each flip (1 - sqrt(2A - 1))/2 (oracle O7): the likelihood has that maximum."""
    said = [(u, r, v if r == "a" or u % 10 >= 3 else 1 - v) for u in range(1000) for v in [u // 10 % 2] for r in "ab"]
    fitted = dawid_skene(Votes.of(said), one_coin=True, shares=(0.5, 0.5), pseudo_votes=0)
    assert 1 - fitted.confusion[:, 0, 0] == pytest.approx([flip_rate(0.7)] * 2, abs=1e-4)


def frame(votes):
    who = [votes.raters[r] for r in votes.rater]
    said = [votes.labels[v] for v in votes.label]
    return pd.DataFrame({"task": [votes.units[u] for u in votes.unit], "worker": who, "label": said})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("one_coin", [True, False])
def test_it_equals_crowd_kit(one_coin):
    from crowdkit.aggregation import DawidSkene, OneCoinDawidSkene

    _, votes = crowd(EIGHT, 120, 5, np.random.default_rng(5))
    ours = dawid_skene(votes, one_coin=one_coin, pseudo_votes=0)
    theirs = (OneCoinDawidSkene if one_coin else DawidSkene)(n_iter=400, tol=1e-10)
    shares = theirs.fit_predict_proba(frame(votes)).loc[list(votes.units), list(votes.labels)].to_numpy()
    assert ours.posterior == pytest.approx(shares, abs=5e-4)
    if one_coin:
        assert ours.confusion[:, 0, 0] == pytest.approx(theirs.skills_.loc[list(votes.raters)].to_numpy(), abs=1e-4)


def test_likelihood_and_posterior_equal_a_loop():
    _, votes = crowd([0.9, 0.6, 0.7], 30, 2, np.random.default_rng(2), num_labels=3)
    fitted = dawid_skene(votes)
    total = 0.0
    for u in range(30):
        joint = fitted.shares.copy()
        for r, v, w in zip(votes.rater, votes.label, votes.unit, strict=True):
            if w == u:
                joint *= fitted.confusion[r, :, v]
        total += np.log(joint.sum())
        assert fitted.posterior[u] == pytest.approx(joint / joint.sum(), abs=1e-4)
    assert fitted.log_likelihood == pytest.approx(total, abs=1e-4)
    assert fitted.confusion.sum(axis=2) == pytest.approx(np.ones((3, 3)))


def test_intervals_of_ability_cover_the_truth():
    inside = total = 0
    for seed in range(40):
        _, votes = crowd(EIGHT[:7], 150, 3, np.random.default_rng(seed))
        for truth, rate in zip(EIGHT[:7], abilities(votes, dawid_skene(votes, one_coin=True)), strict=True):
            inside += rate.low <= truth <= rate.high
            total += 1
    assert 0.9 <= inside / total <= 0.99  # 95 % promised; a binomial interval that took the truth for known gives 77 %


def test_who_never_voted_has_no_ability():
    votes = Votes.of([(u, r, u % 2) for u in range(20) for r in "ab"] + [(99, "c", 1)]).shared()
    a, b, c = abilities(votes, dawid_skene(votes, one_coin=True))
    assert a.rate == b.rate > 0.9
    assert a.n == 20
    assert c is None


def test_nothing_to_weigh():
    with pytest.raises(DataError, match="nothing to weigh"):
        dawid_skene(Votes.of([(1, "a", 1), (1, "b", 1)]))
