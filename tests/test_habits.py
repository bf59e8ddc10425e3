"""Leanings, steadiness, gold, pace, cost and drift: by hand, and at the rates that were put in."""

import numpy as np
import pytest
from quality_votes import comparison

from tutelage.evaluate.statistics import difference, median, wilson
from tutelage.quality.habits import drift, first_shown, gold_outcomes, habits, periods, repeat_outcomes
from tutelage.quality.summary import known_answers


def leaning(n, left, rng, who="a", round=None, longer=0.5):
    """Pairs in which what stands first wins this often, in random listing order."""
    rows = []
    for i in range(n):
        shown = tuple(int(j) for j in rng.permutation(2))
        winner = shown[0] if rng.random() < left else shown[1]
        texts = ["short", "longer text"] if rng.random() < longer else ["longer text", "short"]
        texts = texts if winner == 1 else texts[::-1]
        rows.append(comparison(f"p{i}", texts, (1, 2) if winner == 0 else (2, 1), who, shown=shown, round=round))
    return rows


def test_leanings_are_measured_where_they_are():
    rows = leaning(1200, 0.6, np.random.default_rng(0), longer=0.7)
    found = habits(rows)
    assert found.first_shown.rate == pytest.approx(0.6, abs=0.03)
    assert found.longer.rate == pytest.approx(0.7, abs=0.03)
    assert found.first_shown.low < 0.6 < found.first_shown.high
    assert (found.labels, found.ties.rate, found.first_shown.n) == (1200, 0.0, 1200)
    assert (found.seconds, found.cost) == (None, None)


def test_an_even_hand_is_inside_the_binomial_interval():
    found = [first_shown(leaning(100, 0.5, np.random.default_rng(seed))) for seed in range(40)]
    assert sum(rate.low <= 0.5 <= rate.high for rate in found) >= 34  # 38 expected


def test_places_of_a_ranking_by_hand():
    # Shown z, x, y. Best y, then z and x tied: y beat z and x, each shown before it; the tie says nothing.
    row = comparison("p", ["x", "y", "z"], (2, 1, 2), shown=(2, 0, 1))
    assert first_shown([row]).rate == 0
    assert first_shown([comparison("p", ["x", "y"], (1, 1))]) is None
    assert habits([row]).ties.rate == pytest.approx(1 / 3)


def test_again_the_same():
    rows = [
        comparison("p", ["x", "y"], (1, 2), "a"),
        comparison("p", ["y", "x"], (2, 1), "a"),  # sides swapped, the same verdict
        comparison("q", ["x", "y"], (1, 2), "a"),
        comparison("q", ["x", "y"], (2, 1), "a"),  # another verdict
        comparison("q", ["x", "y"], (2, 1), "b"),  # another rater
    ]
    assert [same for same, _ in repeat_outcomes(rows)] == [1.0, 0.0]
    assert len({prompt for _, prompt in repeat_outcomes(rows)}) == 2
    assert repeat_outcomes(rows[:1]) == []


def test_gold():
    gold = known_answers([comparison("p", ["x", "y"], (1, 2), "lead"), comparison("q", ["x", "y"], (1, 1), "lead")])
    rows = [comparison("p", ["y", "x"], (2, 1)), *(comparison(p, ["x", "y"], (1, 2)) for p in "qr")]
    assert gold_outcomes(rows, gold) == [(1.0, rows[0].prompt.id), (0.0, rows[1].prompt.id)]
    assert gold_outcomes(rows[2:], gold) == []


def test_an_edit_is_a_label_and_no_choice():
    rows = [
        comparison(f"p{i}", ["a better, longer text", "a text"], (1, 2), models=["human", "old"], seconds=60.0)
        for i in range(9)
    ]
    found = habits(rows, {"a": 60.0})
    assert (found.labels, found.seconds.median, found.cost.mean) == (9, 60.0, 1.0)
    assert (found.first_shown, found.longer, found.ties) == (None, None, None)
    tie = comparison("q", ["x", "y"], (1, 1))
    assert habits([*rows, tie]).ties.rate == 1


def test_the_pairs_of_a_ranking_are_one_case():
    """Nine texts in an order: 36 pairs without a tie, which Wilson would take for 36 cases, below 10 %."""
    found = habits([comparison("p", "abcdefghi", range(1, 10))]).ties
    assert (found.rate, found.n) == (0, 1)
    assert found.high > 0.5


def test_pace_and_cost():
    rows = [comparison(f"p{i}", ["x", "y"], (1, 2), "a", seconds=30.0) for i in range(9)]
    rows.append(comparison("p9", ["x", "y"], (1, 2), "b", seconds=3600.0))
    found = habits(rows, {"a": 12.0})
    assert (found.seconds.median, found.seconds.n) == (30.0, 10)
    assert found.cost.mean == pytest.approx(0.1)  # of a's labels alone: b's hour has no price
    assert habits(rows, {"a": 12.0, "b": 20.0}).cost.mean == pytest.approx((9 * 0.1 + 20) / 10)


def test_drift_is_called_where_there_is_some_and_seldom_elsewhere():
    rng = np.random.default_rng(1)
    moved = {d.figure: d for d in drift(leaning(400, 0.5, rng), leaning(400, 0.7, rng))}
    assert moved["first_shown"].change.mean == pytest.approx(0.2, abs=0.08)
    assert moved["first_shown"].clear
    still = [drift(leaning(80, 0.6, rng), leaning(80, 0.6, rng)) for _ in range(30)]
    alarms = [d.clear for found in still for d in found if d.figure == "first_shown"]
    assert sum(alarms) <= 5  # 1.5 expected


def test_periods_are_rounds_in_their_order():
    rows = [comparison("p", ["x", "y"], (1, 2), round=r) for r in (10, 2, None, 2)]
    assert {name: len(those) for name, those in periods(rows).items()} == {"no round": 1, "round 2": 2, "round 10": 1}
    assert list(periods(rows)) == ["no round", "round 2", "round 10"]


def test_difference_of_two_rates_is_newcombes():
    """Newcombe 1998, table II, (a) and (h): method 10."""
    one = difference(wilson(56, 70), wilson(48, 80))
    assert (one.mean, one.low, one.high, one.n) == pytest.approx((0.2, 0.0524, 0.3339, 150), abs=5e-5)
    other = difference(wilson(10, 10), wilson(0, 10))
    assert (other.low, other.high) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_a_median_needs_six_values_and_covers():
    assert median([3.0, 1.0, 2.0]).low == -np.inf
    six = median([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert (six.median, six.low, six.high) == (3.5, 1.0, 6.0)
    rng = np.random.default_rng(0)
    found = [median(rng.lognormal(size=41)) for _ in range(400)]
    assert 0.93 <= np.mean([m.low <= 1 <= m.high for m in found]) <= 0.99
