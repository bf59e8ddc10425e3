"""Accuracy with ceiling and baselines (O7), calibration (O8), and two real data sets."""

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.evaluate import accuracy
from tutelage.evaluate.accuracy import TextPair
from tutelage.evaluate.calibration import calibrate, fit_temperature
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def comparison(prompt, texts, ranks, who="a"):
    done = tuple(Completion(text=t, source=Source(model="file")) for t in texts)
    annotator = Annotator(id=who, kind="human", name=who)
    return Comparison(
        prompt=Prompt.text(prompt), completions=done, ranks=ranks, shown=tuple(range(len(texts))), annotator=annotator
    )


# O7: label noise


def test_ceiling_and_agreement_are_what_simulated_annotators_reach():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 1, 200_000)
    one, other = rng.random(p.size) < p, rng.random(p.size) < p
    assert accuracy.ceiling(p) == pytest.approx(np.mean((p > 0.5) == one), abs=0.004)
    assert accuracy.agreement(p) == pytest.approx(np.mean(one == other), abs=0.004)
    assert accuracy.ceiling([1, 0, 0.5, 0.8]) == pytest.approx((1 + 1 + 0.5 + 0.8) / 4)
    assert accuracy.agreement([1, 0, 0.5, 0.8]) == pytest.approx((1 + 1 + 0.5 + 0.68) / 4)


def test_flip_rate():
    assert accuracy.flip_rate(0.726) == pytest.approx(0.164, abs=5e-4)
    assert accuracy.flip_rate(1.0) == 0
    assert accuracy.flip_rate(0.5) == 0.5
    with pytest.raises(DataError, match=r"between 0\.5 and 1"):
        accuracy.flip_rate(0.4)


@given(st.floats(0, 0.5))
@settings(max_examples=20, deadline=None)
def test_flip_rate_inverts_the_agreement_it_causes(e):
    assert accuracy.flip_rate(e**2 + (1 - e) ** 2) == pytest.approx(e, abs=1e-6)


def test_accuracy_against_flipped_labels():
    rng = np.random.default_rng(1)
    right, flipped = rng.random(200_000) < 0.8, rng.random(200_000) < 0.164
    assert accuracy.agreement_with_labels(0.8, 0.164) == pytest.approx(np.mean(right != flipped), abs=0.004)


def test_annotator_agreement_counts_verdicts_not_orders():
    rows = [
        comparison("p", ["x", "y", "z"], (1, 2, 2), "ann"),
        comparison("p", ["z", "x", "y"], (3, 1, 2), "bob"),  # x>y same, x>z same, y=z against y>z
        comparison("q", ["x", "y"], (1, 2), "ann"),
    ]
    rate = accuracy.annotator_agreement(rows)
    assert rate is not None
    assert rate.rate == pytest.approx(2 / 3)
    assert rate.n == 1
    assert accuracy.annotator_agreement(rows[2:]) is None


# Accuracy and baselines


def test_ties_count_half_and_prompts_are_the_cases():
    rate = accuracy.pair_accuracy([2.0, -1.0, 0.0, 3.0], ["p", "p", "q", "q"])
    assert rate.rate == 2.5 / 4
    assert rate.n == 2
    with pytest.raises(DataError, match="finite"):
        accuracy.pair_accuracy([math.nan], ["p"])


def test_text_pairs_leave_ties_out():
    c = comparison("p", ["best", "tied", "tied too"], (1, 2, 2))
    assert accuracy.text_pairs([c]) == [
        TextPair(c.prompt.id, "best", "tied"),
        TextPair(c.prompt.id, "best", "tied too"),
    ]


def word_pairs(n, seed, taste):
    """Pairs of six-word texts labelled by Bradley-Terry on the sum of their words' worth."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(len(taste))])
    pairs, p = [], []
    for i in range(n):
        a, b = rng.integers(0, len(taste), (2, 6))
        chance = float(sigmoid(taste[a].sum() - taste[b].sum()))
        better, worse = (a, b) if rng.random() < chance else (b, a)
        pairs.append(TextPair(f"p{i}", " ".join(words[better]), " ".join(words[worse])))
        p.append(chance)
    return pairs, p


def test_bag_of_words_reaches_the_ceiling_of_a_linear_taste():
    taste = np.random.default_rng(2).normal(0, 0.8, 12)
    training, _ = word_pairs(1500, 3, taste)
    pairs, p = word_pairs(1500, 4, taste)
    margins = accuracy.bag_of_words(training, pairs)
    result = accuracy.pair_accuracy(margins, [q.prompt for q in pairs])
    assert result.rate == pytest.approx(accuracy.ceiling(p), abs=0.03)
    assert result.rate > 0.75
    swapped = [TextPair(q.prompt, q.worse, q.better) for q in pairs]
    np.testing.assert_allclose(accuracy.bag_of_words(training, swapped), -margins, atol=1e-9)


def test_cross_validation_keeps_a_prompt_in_one_fold():
    # Every label is a coin, but each prompt appears eight times with its own word: only a leak could tell.
    rng = np.random.default_rng(5)
    pairs = []
    for i in range(150):
        a, b = rng.permutation([f"x{i}", f"y{i}"])
        pairs += [TextPair(f"p{i}", str(a), str(b))] * 8
    assert accuracy.bag_of_words_accuracy(pairs).rate == pytest.approx(0.5, abs=0.02)
    with pytest.raises(DataError, match="folds"):
        accuracy.bag_of_words_accuracy(pairs[:8])


def test_longer_wins():
    pairs = [TextPair("p", "long text", "short"), TextPair("q", "ab", "cd"), TextPair("r", "a", "longer")]
    assert accuracy.longer_wins(pairs).rate == 0.5
    assert accuracy.longer_wins(pairs[:2]).rate == 0.75


def test_judge_reward_puts_all_of_it_together():
    taste = np.random.default_rng(6).normal(0, 1, 8)
    training, _ = word_pairs(300, 7, taste)
    pairs, p = word_pairs(600, 8, taste)
    worth = {f"w{i}": w for i, w in enumerate(taste)}
    margins = [sum(worth[w] for w in q.better.split()) - sum(worth[w] for w in q.worse.split()) for q in pairs]
    result = accuracy.judge_reward(pairs, margins, training=training, ceiling=accuracy.ceiling(p))
    assert result.accuracy.low < result.ceiling < result.accuracy.high
    assert result.bag_of_words is not None
    assert result.longer_wins.rate == 0.5
    assert result.calibration.error < 0.06
    assert accuracy.judge_reward(pairs, margins).bag_of_words is None


# O8: calibration


def drawn(n, scale=1.5, seed=0):
    rng = np.random.default_rng(seed)
    m = rng.normal(0, scale, n)
    return m, (rng.random(n) < sigmoid(m)).astype(float)


def test_a_well_specified_model_is_calibrated_at_ten_thousand_pairs():
    m, t = drawn(10_000)
    result = calibrate(m, t)
    assert result.error <= 0.02
    assert result.error == pytest.approx(result.chance, abs=0.01)
    assert result.temperature == pytest.approx(1, abs=0.05)
    assert sum(b.n for b in result.bins) == result.n == 10_000


def test_temperature_undoes_overconfidence():
    m, t = drawn(10_000, seed=1)
    result = calibrate(3 * m, t)
    assert result.temperature == pytest.approx(3, rel=0.05)
    assert result.error > 0.1
    assert result.error_scaled <= 0.02
    assert fit_temperature(m / 4, t) == pytest.approx(0.25, rel=0.05)


def test_error_equals_the_definition():
    m, t = drawn(700, seed=2)
    total, p = 0.0, np.maximum(sigmoid(m), sigmoid(-m))
    right = np.where(m > 0, t, 1 - t)
    for b in range(15):
        inside = [i for i in range(700) if 0.5 + b / 30 <= p[i] < 0.5 + (b + 1) / 30]
        if inside:
            total += len(inside) / 700 * abs(np.mean(p[inside]) - np.mean(right[inside]))
    assert calibrate(m, t).error == pytest.approx(total, abs=1e-12)


def test_temperature_is_where_the_log_loss_is_least():
    m, t = drawn(400, seed=3)

    def loss(temperature):
        return float(np.mean(t * np.logaddexp(0, -m / temperature) + (1 - t) * np.logaddexp(0, m / temperature)))

    best = min(np.linspace(0.3, 3, 5401), key=loss)
    assert fit_temperature(m, t) == pytest.approx(best, abs=1e-3)


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=30))
@settings(max_examples=25, deadline=None)
def test_swapping_pairs_changes_no_calibration(rows):
    m, t = (np.array(column) for column in zip(*rows, strict=True))
    one, other = calibrate(m, t), calibrate(-m, 1 - t)
    assert one.error == pytest.approx(other.error, abs=1e-12)
    assert one.temperature == pytest.approx(other.temperature)


def test_few_pairs_look_miscalibrated_by_chance_alone():
    m, t = drawn(100, seed=4)
    result = calibrate(m, t)
    assert result.chance > 0.06
    assert fit_temperature([1.0, 2.0]) == 0.01  # all right: no finite best
    assert fit_temperature([-1.0, -2.0]) == 100.0
    with pytest.raises(DataError, match="at least two"):
        calibrate([1.0])
    with pytest.raises(DataError, match="outside 0 to 1"):
        calibrate([1.0, 2.0], [1, 2])


# Real data


def read(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the shared data set {name} is not beside the project")
    return path


def test_hh_harmless_baselines():
    pairs = []
    with gzip.open(read("hh-rlhf/harmless-base-test.jsonl.gz"), "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            better, worse = row["chosen"], row["rejected"]
            same = next((i for i, (a, b) in enumerate(zip(better, worse, strict=False)) if a != b), len(worse))
            cut = better.rfind("\n\nAssistant:", 0, min(same, len(better)))
            pairs.append(TextPair(better[:cut], better[cut:], worse[cut:]))
    assert len(pairs) == 2312
    assert accuracy.longer_wins(pairs).rate == pytest.approx(0.445, abs=0.002)
    assert accuracy.bag_of_words_accuracy(pairs).rate == pytest.approx(0.616, abs=0.014)


def test_pandalm_longer_wins_and_annotators_agree():
    rows = json.loads(read("pandalm/testset-v1.json").read_text(encoding="utf-8"))
    pairs, judged = [], []
    for row in rows:
        texts, prompt = (str(row["response1"]), str(row["response2"])), row["instruction"] + row["input"]
        votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
        winner, count = Counter(votes).most_common(1)[0]
        if count > 1 and winner:
            pairs.append(TextPair(prompt, texts[winner - 1], texts[2 - winner]))
        ranks = {0: (1, 1), 1: (1, 2), 2: (2, 1)}
        judged += [comparison(f"{row['idx']}", texts, ranks[vote], str(i)) for i, vote in enumerate(votes)]
    assert accuracy.longer_wins(pairs).rate == pytest.approx(0.675, abs=0.002)
    together = accuracy.annotator_agreement(judged)
    assert together is not None
    assert together.rate == pytest.approx((0.9129 + 0.9289 + 0.9179) / 3, abs=0.002)
