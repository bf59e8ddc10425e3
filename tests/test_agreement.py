"""Krippendorff's alpha against the package of that name, a slow twin, and what its interval promises."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_votes import comparison, crowd

from tutelage.errors import DataError
from tutelage.quality.agreement import agreement_with_others, krippendorff_alpha
from tutelage.quality.votes import Votes, pair_votes, rating_votes
from tutelage.records import Annotator, Completion, Prompt, Rating, Source

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: four raters, twelve units, five values.
BOOK = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def votes_of(matrix):
    return Votes.of((u, str(r), v) for r, row in enumerate(matrix) for u, v in enumerate(row) if v is not None)


@pytest.mark.parametrize(("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_books_example(scale, published):
    found = krippendorff_alpha(votes_of(BOOK), scale)
    assert found.alpha == pytest.approx(published, abs=5e-4)
    assert (found.n, found.votes) == (11, 40)  # the unit with a single value is left out
    assert found.low < found.alpha < found.high


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_any_matrix_equals_the_package(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(1, 6, (4, 15)).astype(float)
    matrix[rng.random(matrix.shape) < 0.3] = np.nan
    votes = votes_of([[None if np.isnan(v) else int(v) for v in row] for row in matrix])
    for scale in ("nominal", "ordinal", "interval"):
        ours = krippendorff_alpha(votes, scale, resamples=2).alpha
        assert ours == pytest.approx(krippendorff.alpha(matrix, level_of_measurement=scale), abs=1e-12)


def test_the_interval_covers_what_more_units_would_show():
    abilities = [0.9, 0.8, 0.7, 0.6]
    _, all_votes = crowd(abilities, 8_000, 3, np.random.default_rng(0))
    truth = krippendorff_alpha(all_votes, "nominal", resamples=2).alpha
    inside = 0
    for seed in range(60):
        _, votes = crowd(abilities, 120, 3, np.random.default_rng(100 + seed))
        found = krippendorff_alpha(votes, "nominal", resamples=300, seed=seed)
        inside += found.low <= truth <= found.high
    assert 51 <= inside <= 60  # 57 expected; P(X < 51) = 0.4 %


def test_pairs_of_one_prompt_are_drawn_together():
    """Six copies of every unit are no more evidence than one: drawn by group the interval stays, by unit it narrows."""
    _, votes = crowd([0.8] * 3, 60, 2, np.random.default_rng(3))
    copies = Votes.of(
        ((votes.units[u], copy), votes.raters[r], int(v))
        for u, r, v in zip(votes.unit, votes.rater, votes.label, strict=True)
        for copy in range(6)
    )
    one = krippendorff_alpha(votes, "nominal")
    by_group = krippendorff_alpha(copies, "nominal", groups=[str(unit[0]) for unit in copies.units])
    by_unit = krippendorff_alpha(copies, "nominal")
    assert by_group.high - by_group.low == pytest.approx(one.high - one.low, rel=0.1)
    assert by_unit.high - by_unit.low < 0.6 * (one.high - one.low)


def test_what_has_no_alpha_says_why():
    with pytest.raises(DataError, match="needs overlap"):
        krippendorff_alpha(Votes.of([(1, "a", 0), (2, "b", 1)]), "nominal")
    with pytest.raises(DataError, match="every answer is the same"):
        krippendorff_alpha(Votes.of([(1, "a", 0), (1, "b", 0), (2, "a", 1)], labels=(0, 1)), "nominal")
    with pytest.raises(DataError, match="1 units but 2 groups"):
        krippendorff_alpha(Votes.of([(1, "a", 0), (1, "b", 1)]), "nominal", groups=["x", "y"])


def test_votes_of_comparisons_do_not_depend_on_how_they_were_listed():
    rows = [
        comparison("p", ["x", "y"], (1, 2), "a"),
        comparison("p", ["y", "x"], (2, 1), "b"),  # the same verdict
        comparison("p", ["y", "x"], (1, 2), "c"),  # the opposite
        comparison("q", ["x", "y", "z"], (1, 1, 2), "a"),
    ]
    votes = pair_votes(rows)
    assert votes.raters == ("a", "b", "c")
    votes_cast = zip(votes.unit, votes.rater, votes.label, strict=True)
    said = {(votes.units[u][1:], votes.raters[r]): votes.labels[v] for u, r, v in votes_cast}
    assert said[("x", "y"), "b"] == -1
    assert said[("x", "y"), "c"] == 1
    assert len(votes.units) == 4
    assert votes.shared().units == ((rows[0].prompt.id, "x", "y"),)
    rates = agreement_with_others(votes)
    assert (rates["a"].rate, rates["a"].n) == (0.5, 1)
    assert (rates["c"].rate, rates["c"].n) == (0.0, 1)


def test_the_last_vote_of_a_rater_counts_and_strange_answers_are_refused():
    votes = Votes.of([(1, "a", 0), (1, "a", 1), (1, "b", 1)])
    assert votes.labels == (1,)
    assert votes.votes_on.tolist() == [2]
    with pytest.raises(DataError, match=r"answers \[7\]"):
        Votes.of([(1, "a", 7)], labels=(0, 1))


def test_ratings_are_votes_too():
    def rating(text, score, who):
        done, person = Completion(text=text, source=Source(model="file")), Annotator(id=who, kind="human", name=who)
        return Rating(prompt=Prompt.text("p"), completion=done, score=score, annotator=person)

    votes = rating_votes([rating("x", 7, "a"), rating("x", 6, "b"), rating("y", 2, "a"), rating("y", 1, "b")])
    reference = krippendorff.alpha([[7, 2], [6, 1]], level_of_measurement="ordinal")
    assert krippendorff_alpha(votes, "ordinal").alpha == pytest.approx(reference, abs=1e-12)
