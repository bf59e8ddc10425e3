"""The sentiment judge against texts whose answer is known, and VADER's published scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.judge.sentiment import fit_sentiment, plain, vader

GOOD, BAD = ("superb", "moving", "charming", "gripping"), ("dull", "clumsy", "tedious", "bland")
NEUTRAL = ["the", "film", "has", "a", "plot", "and", "cast", "that", "we", "saw", "on", "screen", "in", "town"]


def reviews(n, seed):
    """Texts of neutral words with two of one kind; in a tenth of them the words are those of the other kind."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(n):
        label = i % 2
        words = GOOD if (label == 1) != (rng.random() < 0.1) else BAD
        body = [*rng.choice(NEUTRAL, 8), *rng.choice(words, 2)]
        texts.append(" ".join(rng.permutation(body)))
        labels.append(label)
    return texts, labels


@pytest.fixture(scope="module")
def judge():
    return fit_sentiment(*reviews(400, 0), seed=0)


def test_it_reaches_what_the_labels_allow(judge):
    texts, labels = reviews(1000, 1)
    assert judge.accuracy(texts, labels) == pytest.approx(0.9, abs=0.03)  # a tenth of the labels says the opposite
    assert judge.accuracy(texts, [1 - y for y in labels]) == pytest.approx(0.1, abs=0.03)


def test_scores_are_log_odds_of_positive(judge):
    texts, labels = reviews(2000, 2)
    scores = judge.score(texts)
    stated, observed = 1 / (1 + np.exp(-scores)), np.array(labels)
    sure = stated > 0.8
    assert sure.sum() > 500
    assert np.mean(observed[sure]) == pytest.approx(float(np.mean(stated[sure])), abs=0.08)  # the ridge makes it modest
    assert judge.score(["a superb, moving film"])[0] > 1 > -1 > judge.score(["a dull, clumsy film"])[0]


@given(st.permutations(range(12)))
@settings(max_examples=10, deadline=None)
def test_a_score_does_not_depend_on_the_company(judge, order):
    texts, _ = reviews(12, 3)
    alone = [judge.score([t])[0] for t in texts]
    np.testing.assert_allclose(judge.score([texts[i] for i in order]), [alone[i] for i in order], atol=1e-12)


def test_the_same_seed_gives_the_same_judge(judge):
    texts, _ = reviews(50, 4)
    np.testing.assert_array_equal(fit_sentiment(*reviews(400, 0), seed=0).score(texts), judge.score(texts))


def test_nothing_and_unknown_words(judge):
    assert judge.score([]).shape == (0,)
    prior = judge.score(["", "zzz qqq"])
    assert prior[0] == prior[1]
    assert abs(prior[0]) < 0.5


def test_line_break_markup_is_not_a_word():
    assert plain("good<br /><br/>film<BR>!") == "good  film !"
    assert len(plain("x" * 9000)) == 2000


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "at least one text"),
        (["a", "b"], [1], "one label for each"),
        (["a", "b"], [1, 1], r"labels are \[1\]"),
        (["a", "b"], [1, 5], r"labels are \[1, 5\]"),
    ],
)
def test_labels_that_cannot_be_learned_from(texts, labels, message):
    with pytest.raises(DataError, match=message):
        fit_sentiment(texts, labels, seed=0)


def test_vader_scores_as_its_authors_print_them():
    # The examples of VADER's own README.
    texts = ["VADER is smart, handsome, and funny.", "VADER is VERY SMART, handsome, and FUNNY!!!", "Today SUX!", ""]
    np.testing.assert_allclose(vader(texts), [0.8316, 0.9342, -0.5461, 0.0], atol=1e-4)
