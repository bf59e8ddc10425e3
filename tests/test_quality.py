"""The whole picture of a store's labels, from Python and at the command line."""

import json

import numpy as np
import pytest
from quality_votes import comparison

from tutelage.cli import run
from tutelage.errors import DataError
from tutelage.evaluate.accuracy import annotator_agreement
from tutelage.project import Project
from tutelage.quality.summary import PUBLISHED, known_answers, summarise
from tutelage.records import Completion, Rating, Source

ABILITY = {"ann": 0.95, "bob": 0.9, "cyd": 0.85, "dan": 0.6}


def labels(units=300, seed=0):
    """Two rounds of pairs from two models, three votes each; in round 2 dan takes what stands first."""
    rng, rows = np.random.default_rng(seed), []
    for u in range(units):
        better = int(rng.integers(2))
        texts = ["x" * (5 + u % 7), "y" * (5 + (u + 3) % 7)]
        for who in rng.choice(list(ABILITY), 3, replace=False):
            shown = tuple(int(i) for i in rng.permutation(2))
            said = better if rng.random() < ABILITY[who] else 1 - better
            late = u >= units // 2
            if who == "dan" and late:
                said = shown[0]
            rows.append(
                comparison(
                    f"p{u}",
                    texts,
                    (1, 2) if said == 0 else (2, 1),
                    str(who),
                    shown=shown,
                    models=["old", "new"],
                    round=1 + late,
                    seconds=10.0 + u % 5,
                )
            )
        if u % 10 == 0:
            rows.append(comparison(f"p{u}", texts, (1, 2) if better == 0 else (2, 1), "expert"))
    return rows


@pytest.fixture
def project(tmp_path):
    made = Project.init(tmp_path / "films", model="tiny")
    with made.store() as store:
        store.add_all(labels())
    return made


def test_everything_at_once(project):
    found = project.quality(gold="name of expert", wage=36.0)
    with project.store() as store:
        rest = [c for c in store.comparisons() if c.annotator.id != "expert"]
    assert found.agreement == annotator_agreement(rest)
    assert found.alpha.low < found.alpha.alpha < found.alpha.high
    assert (found.overlap.rate, found.prompts, found.all.labels) == (1.0, 300, 900)
    assert found.all.cost.mean == pytest.approx(0.12, abs=0.005)
    by_name = {r.rater.id: r for r in found.raters}
    assert set(by_name) == set(ABILITY)  # the expert is measured against, not measured
    for who in ("ann", "bob", "cyd"):
        assert by_name[who].ability.low <= ABILITY[who] <= by_name[who].ability.high
    assert by_name["dan"].gold.rate < by_name["ann"].gold.rate
    assert by_name["dan"].habits.first_shown.low > 0.5
    moved = [(d.rater, d.moved.figure) for d in found.drift if d.moved.clear]
    assert ("dan", "first_shown") in moved
    assert [p.name for p in found.periods] == ["round 1", "round 2"]
    assert found.models.names == ("new", "old")
    better, worse = found.models.wins  # every pair is of the two, so one's wins are the other's losses
    met = [(c.completions[i].source.model, c.prompt.id) for c in rest for i, j in c.pairs()]
    assert better.rate == pytest.approx(sum(model == "new" for model, _ in met) / len(met))
    assert better.rate == pytest.approx(1 - worse.rate)
    assert better.n == worse.n == len({prompt for _, prompt in met})
    assert better.low < better.rate < better.high
    assert found.published == PUBLISHED


def test_without_overlap_nothing_is_made_up():
    found = summarise([comparison(f"p{i}", ["x", "y"], (1, 2), "ab"[i % 2]) for i in range(10)])
    assert (found.agreement, found.alpha, found.noise, found.models) == (None, None, None, None)
    assert [r.ability for r in found.raters] == [None, None]
    assert found.overlap.rate == 0


def test_ratings_have_an_alpha_of_their_own():
    row = comparison("p", ["x", "y"], (1, 2))
    people = [row.annotator, row.annotator.model_copy(update={"id": "b"})]
    ratings = [
        Rating(prompt=row.prompt, completion=Completion(text=t, source=Source(model="file")), score=s, annotator=who)
        for t, scores in {"x": (7, 6), "y": (2, 1), "z": (4, 4)}.items()
        for s, who in zip(scores, people, strict=True)
    ]
    found = summarise([], ratings)
    assert found.rating_alpha.alpha > 0.8
    assert found.alpha is None


def test_an_edit_is_in_no_figure_about_pairs():
    rows = [comparison(f"p{i}", ["x", "y"], (1, 2), who) for i in range(6) for who in "ab"]
    edits = [comparison(f"e{i}", ["written", "x"], (1, 2), "ab"[i % 2], models=["human", "old"]) for i in range(6)]
    found, plain = summarise([*rows, *edits]), summarise(rows)
    assert (found.prompts, found.all.labels) == (12, 18)
    assert (found.overlap, found.agreement, found.models) == (plain.overlap, plain.agreement, None)
    assert [r.ability for r in found.raters] == [r.ability for r in plain.raters]
    assert [p.alpha for p in found.periods] == [p.alpha for p in plain.periods]


def test_intervals_are_over_prompts():
    """Rankings of four have six pairs each: of two prompts there are two cases, not twelve."""
    texts, order = ["w", "x", "y", "z"], (1, 2, 3, 4)
    rows = [comparison("p", texts, order, "a"), comparison("p", texts, order, "b"), comparison("q", texts, order, "a")]
    gold = known_answers([comparison(prompt, texts, (1, 2, 4, 3), "expert") for prompt in "pq"])
    found = summarise([*rows, rows[2].model_copy(update={"id": "again"})], gold=gold)
    assert (found.overlap.rate, found.overlap.n) == (0.5, 2)
    by_rater = {one.rater.id: one for one in found.raters}
    assert (by_rater["a"].gold.rate, by_rater["a"].gold.n) == (pytest.approx(5 / 6), 2)
    assert (by_rater["a"].steadiness.rate, by_rater["a"].steadiness.n) == (1, 1)
    checked = summarise(rows, gold=gold, checks={"b": ([1.0, 0.0], [])})
    assert {one.rater.id: one for one in checked.raters}["b"].gold.n == 3


def test_whom_others_are_measured_against_is_left_out_of_ratings_too(tmp_path):
    project = Project.init(tmp_path / "films", model="tiny")
    about = comparison("p", ["x", "y"], (1, 2))
    people = [about.annotator.model_copy(update={"id": who, "name": who}) for who in ("ann", "bob", "expert")]
    texts = [Completion(text=text, source=Source(model="file")) for text in "vwxyz"]
    scores = {"ann": (1, 3, 5, 6, 7), "bob": (1, 3, 5, 6, 7), "expert": (7, 6, 4, 2, 1)}
    with project.store() as store:
        for who in people:
            given = zip(texts, scores[who.id], strict=True)
            store.add_all([Rating(prompt=about.prompt, completion=t, score=s, annotator=who) for t, s in given])
    assert project.quality().rating_alpha.alpha < 0.5
    assert project.quality(gold="expert").rating_alpha.alpha == 1


def test_rounds_may_be_given():
    rows = labels(40)
    named = {c.id: "before" if i < 60 else "after" for i, c in enumerate(rows)}
    assert [(p.name, p.habits.labels) for p in summarise(rows, rounds=named).periods] == [("before", 60), ("after", 64)]


def test_the_command(project, capsys):
    folder = str(project.folder.path)
    assert run(["quality", "--project", folder, "--gold", "expert", "--wage", "20"]) == 0
    said = capsys.readouterr().out
    for words in ("Krippendorff's alpha", "InstructGPT", "name of dan", "first_shown", "old", "taste"):
        assert words in said
    assert run(["quality", "--project", folder, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["quality"]
    assert 0.6 < figures["agreement"]["rate"] < 0.9
    assert len(figures["raters"]) == 5


def test_what_cannot_be_measured_says_what_to_do(tmp_path, project, capsys):
    assert run(["quality", "--project", str(project.folder.path), "--gold", "nobody"]) == 2
    assert "no annotator has the name or id 'nobody'" in capsys.readouterr().err
    with pytest.raises(DataError, match="import some first"):
        Project.init(tmp_path / "empty", model="tiny").quality()
