"""The arena: both orders, blind, n of prompts; lengths and text health beside every win rate."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.evaluate.arena import System, compare, probability_judge, score_judge
from tutelage.evaluate.health import health
from tutelage.evaluate.statistics import wilson

PROMPTS = ["p1", "p2", "p3", "p4"]
A = System("A", ("good good", "good", "bad", "same"))
B = System("B", ("bad", "bad bad", "good", "same"))


def goodness(texts):
    return np.array([t.split().count("good") - t.split().count("bad") for t in texts], dtype=float)


def test_a_match_against_counting_by_hand():
    (match,) = compare(PROMPTS, A, B, {"words": score_judge(goodness)})
    assert match.win_rate == wilson(2.5, 4)
    assert (match.ties, match.consistency, match.position_bias) == (0.25, 1.0, 0.0)
    assert (match.first_words.mean, match.second_words.mean) == (5 / 4, 5 / 4)
    assert match.when_not_longer == wilson(1.5, 3)  # p1 was won with the longer text


def test_a_judge_that_always_takes_the_first_gives_ties_and_is_found_out():
    (match,) = compare(PROMPTS, A, B, {"lazy": lambda prompt, first, second: 1.0})
    assert match.win_rate == wilson(2, 4)
    assert (match.ties, match.consistency, match.position_bias) == (1.0, 0.0, 1.0)


def test_a_leaning_to_the_first_place_cancels():
    def leaning(prompt, first, second):
        gap = goodness([first])[0] - goodness([second])[0]
        return float(np.clip(0.5 + 0.2 * gap + 0.25, 0, 1))

    (match,) = compare(PROMPTS, A, B, {"leaning": leaning})
    assert match.win_rate == wilson(2.5, 4)
    assert match.position_bias == pytest.approx(0.2875)
    assert match.consistency < 1


def test_a_judge_sees_no_names_and_both_orders():
    asked = []

    def judge(prompt, first, second):
        asked.append((prompt, first, second))
        return 0.5

    compare(PROMPTS, A, B, {"j": judge})
    assert sorted(asked) == sorted(
        call for p, a, b in zip(PROMPTS, A.texts, B.texts, strict=True) for call in ((p, a, b), (p, b, a))
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_changing_sides_mirrors_everything(rows):
    prompts = [str(i) for i in range(len(rows))]
    one = System("one", tuple("good " * a for a, _ in rows))
    two = System("two", tuple("good " * b for _, b in rows))
    judges = {"words": score_judge(goodness)}
    (there,), (back,) = compare(prompts, one, two, judges), compare(prompts, two, one, judges)
    assert there.win_rate.rate == pytest.approx(1 - back.win_rate.rate)
    assert there.win_rate.low == pytest.approx(1 - back.win_rate.high)
    assert there.ties == back.ties


def test_equal_systems_stand_within_the_interval():
    rng = np.random.default_rng(0)
    texts = [tuple(" ".join(rng.choice(["good", "bad", "so"], 9)) for _ in range(400)) for _ in range(2)]
    (match,) = compare([""] * 400, System("x", texts[0]), System("y", texts[1]), {"words": score_judge(goodness)})
    assert match.win_rate.low < 0.5 < match.win_rate.high
    assert match.win_rate.n == 400  # prompts, not the 800 judgements


def test_margins_make_ties():
    judges = {"close": score_judge(goodness, margin=2.0), "soft": probability_judge(lambda p, t: goodness([t])[0])}
    close, soft = compare(PROMPTS, A, B, judges, tie_margin=0.2)
    assert close.win_rate == wilson(3, 4)  # gaps of 3, 3, -2 and 0
    assert close.ties == 0.5
    assert soft.win_rate == wilson(2.5, 4)
    assert soft.verdicts[0].preference == pytest.approx(1 / (1 + math.exp(-3)))
    assert probability_judge(lambda p, t: 1e6 * len(t))("", "aa", "b") == 1.0


def test_a_continuation_can_be_judged_with_its_prompt():
    seen = []
    judge = score_judge(lambda texts: (seen.extend(texts), goodness(texts))[1], whole=True)
    assert judge("all in all ", "good", "bad") == 1.0
    assert seen == ["all in all good", "all in all bad"]


def test_scores_are_asked_once_a_text():
    calls = []
    judge = score_judge(lambda texts: (calls.extend(texts), goodness(texts))[1])
    compare(PROMPTS, A, B, {"words": judge})
    assert sorted(calls) == sorted({*A.texts, *B.texts})


def test_what_cannot_be_compared():
    with pytest.raises(DataError, match="4 texts of A, 1 of B"):
        compare(PROMPTS, A, System("B", ("one",)), {"j": lambda *a: 0.5})
    with pytest.raises(DataError, match=r"judge j gave the preference 1\.5"):
        compare(PROMPTS, A, B, {"j": lambda *a: 1.5})
    with pytest.raises(DataError, match="0 judges"):
        compare(PROMPTS, A, B, {})


def test_health_of_healthy_and_of_collapsed_text():
    fine = health(System("fine", ("the cat sat down.", "A dog ran off!")), finishes=["stop", "length"], perplexity=20.0)
    # the cat sat down . a dog ran off ! -> 10 tokens, all different; 8 pairs, all different
    assert (fine.distinct_1, fine.distinct_2, fine.repetition, fine.duplicates) == (1.0, 1.0, 0.0, 0.0)
    assert fine.ended == wilson(1, 2)
    assert fine.words.mean == 4
    broken = health(System("broken", ("so so so so so", "so so so so so")))
    assert broken.distinct_1 == pytest.approx(1 / 10)
    assert broken.distinct_2 == pytest.approx(1 / 8)
    assert broken.repetition == pytest.approx(3 / 4)
    assert broken.duplicates == 1.0
    assert broken.ended is None


def test_health_of_empty_texts():
    empty = health(System("empty", ("", "")))
    assert (empty.distinct_1, empty.distinct_2, empty.repetition, empty.words.mean) == (0, 0, 0, 0)
    with pytest.raises(DataError, match="0 texts of none"):
        health(System("none", ()))
    with pytest.raises(DataError, match="1 finishes"):
        health(System("x", ("a", "b")), finishes=["stop"])
