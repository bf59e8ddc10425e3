"""Rates, means and the laws of best-of-n against textbook values and brute force (oracle O5)."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from tutelage.errors import DataError
from tutelage.evaluate.statistics import (
    ELO_PER_NAT,
    best_of_n,
    best_of_n_kl,
    bootstrap_mean,
    clustered_rate,
    elo,
    mean,
    paired,
    wilson,
    win_rate,
)

WHOLE = st.integers(-20, 20)


def test_wilson_equals_the_published_interval():
    # Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    rate = wilson(81, 263)
    assert (rate.low, rate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(wins=st.integers(0, 40), more=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_wilson_mirrors_when_the_sides_change(wins, more):
    n = wins + more + 1
    one, other = wilson(wins, n), wilson(n - wins, n)
    assert one.low == pytest.approx(1 - other.high)
    assert one.high == pytest.approx(1 - other.low)
    assert one.low <= one.rate <= one.high


def test_wilson_covers_at_the_promised_rate():
    rng = np.random.default_rng(0)
    rates = [wilson(int(k), 150) for k in rng.binomial(150, 0.7, 4000)]
    assert np.mean([r.low <= 0.7 <= r.high for r in rates]) == pytest.approx(0.95, abs=0.015)


def test_ties_count_half():
    assert win_rate([1, 0.5, 0.5, 0, 1, 0.5]) == wilson(3.5, 6)
    with pytest.raises(DataError, match=r"0\.5 for a tie"):
        win_rate([1, 2])
    with pytest.raises(DataError, match="at least one number"):
        win_rate([])
    with pytest.raises(DataError, match="finite"):
        win_rate([1, math.nan])


def test_copies_of_a_prompt_add_no_certainty():
    outcomes = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    names = [f"p{i}" for i in range(10)]
    once = clustered_rate(outcomes, names)
    often = clustered_rate(outcomes * 8, names * 8)
    assert often.n == 10
    assert often.rate == once.rate
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert win_rate(outcomes * 8).low > often.low + 0.1  # what ignoring the prompts would claim


def test_clustered_rate_without_clusters_is_close_to_wilson():
    outcomes = np.random.default_rng(1).random(400) < 0.63
    ours, plain = clustered_rate(outcomes, [str(i) for i in range(400)]), win_rate(outcomes)
    assert (ours.low, ours.high, ours.n) == pytest.approx((plain.low, plain.high, 400), abs=1e-3)
    sure = clustered_rate([1.0] * 30, ["a", "b", "c"] * 10)
    assert sure == wilson(3, 3)  # three prompts, however many pairs


def test_mean_has_students_interval():
    # t(0.975, 4) = 2.776; sd of 1..5 = 1.5811; half width = 2.776 * 1.5811 / sqrt(5) = 1.9632
    m = mean([1, 2, 3, 4, 5])
    assert (m.mean, m.low, m.high, m.n) == pytest.approx((3, 3 - 1.96324, 3 + 1.96324, 5), abs=1e-4)
    assert mean([7]).high == math.inf


def test_bootstrap_agrees_with_t_and_respects_groups():
    x = np.random.default_rng(2).normal(5, 2, 300)
    boot, t = bootstrap_mean(x, seed=1), mean(x)
    assert (boot.low, boot.high) == pytest.approx((t.low, t.high), abs=0.04)
    assert boot == bootstrap_mean(x, seed=1)
    grouped = bootstrap_mean(np.repeat(x, 9), groups=[str(i) for i in range(300) for _ in range(9)], seed=1)
    assert grouped.n == 300
    assert grouped.high - grouped.low == pytest.approx(boot.high - boot.low, rel=0.12)


def test_one_case_says_nothing_of_an_interval():
    """Resampling one value gives that value again and again: an interval of no width, which claims certainty."""
    for one in (bootstrap_mean([0.3]), bootstrap_mean([0.1, 0.5], groups=["a", "a"]), mean([0.3])):
        assert (one.low, one.high, one.n) == (-math.inf, math.inf, 1)
        assert str(one) == "0.300 [no interval], n = 1"
    two = bootstrap_mean([0.1, 0.5], groups=["a", "b"])
    assert (two.low, two.high, str(two)) == (0.1, 0.5, "0.300 [0.100, 0.500], n = 2")


def test_paired_sees_through_the_prompts():
    hard = np.random.default_rng(3).normal(0, 10, 100)  # prompts differ far more than systems
    result = paired(hard + 0.5, hard + np.where(np.arange(100) < 90, 0.0, 1.0))
    assert result.difference.mean == pytest.approx(0.4)
    assert result.difference.low > 0.3
    assert result.ahead == wilson(90, 100)
    assert result.p_value < 1e-15
    assert paired([1, 2], [1, 2]).p_value == 1.0
    with pytest.raises(DataError, match="both for every prompt"):
        paired([1, 2], [1])


def test_elo():
    assert pytest.approx(173.7, abs=0.05) == ELO_PER_NAT
    assert elo(10 / 11) == pytest.approx(400)
    assert elo(1 / (1 + math.exp(-1))) == pytest.approx(ELO_PER_NAT)
    assert elo(0.3) == pytest.approx(-elo(0.7))
    assert elo(0) == -math.inf
    with pytest.raises(DataError):
        elo(1.2)


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (8, 1.2), (64, 3.2), (128, 3.9), (256, 4.5), (512, 5.2)])
def test_best_of_n_kl(n, nats):
    assert best_of_n_kl(n) == pytest.approx(nats, abs=0.05)


def test_best_of_n_kl_is_the_kl_of_a_uniform_draw():
    # The best of n uniform scores has density n·u^(n−1): KL = ∫ n u^(n−1) log(n u^(n−1)) du, here by the midpoint rule.
    u = (np.arange(200_000) + 0.5) / 200_000
    density = 5 * u**4
    assert best_of_n_kl(5) == pytest.approx(float(np.mean(density * np.log(density))), abs=1e-6)


def brute_force(proxy, gold, n):
    """Mean over every subset of n of the gold score of its best, ties shared: the definition."""
    values = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        values.append(np.mean([gold[i] for i in subset if proxy[i] == top]))
    return float(np.mean(values))


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=1, max_size=12, unique_by=lambda pair: pair[0]), st.data())
@settings(max_examples=40, deadline=None)
def test_best_of_n_equals_brute_force(pairs, data):
    proxy, gold = zip(*pairs, strict=True)
    n = data.draw(st.integers(1, len(pairs)))
    assert best_of_n(proxy, gold, n) == pytest.approx(brute_force(proxy, gold, n), abs=1e-9)


def test_best_of_n_does_not_depend_on_the_order_of_ties():
    proxy, gold = [1, 2, 2, 2, 0, 1], [5.0, 1.0, -3.0, 8.0, 2.0, 0.0]
    values = {
        round(best_of_n([proxy[i] for i in o], [gold[i] for i in o], 3), 9)
        for o in ([0, 1, 2, 3, 4, 5], [5, 3, 2, 1, 0, 4])
    }
    assert values == {round(best_of_n(proxy, gold, 3), 9)}
    assert best_of_n(proxy, gold, 6) == pytest.approx(2.0)  # the three that share the top
    assert best_of_n([3, 3, 3], [1.0, 2.0, 6.0], 2) == pytest.approx(3.0)


def test_best_of_n_with_many_samples():
    proxy = norm.ppf((np.random.default_rng(4).permutation(20_000) + 0.5) / 20_000)
    assert best_of_n(proxy, proxy, 64) == pytest.approx(2.3437, abs=0.002)  # the expected maximum of 64 normals
    assert best_of_n(proxy, proxy, 1) == pytest.approx(float(proxy.mean()))
    with pytest.raises(DataError, match="n from 1 to N"):
        best_of_n([1, 2], [1, 2], 3)
