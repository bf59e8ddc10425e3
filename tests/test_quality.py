"""The whole picture of a store's labels, from Python and at the command line."""

import json

import numpy as np
import pytest
from quality_votes import comparison

from tutelage.cli import run
from tutelage.errors import DataError
from tutelage.evaluate.accuracy import annotator_agreement
from tutelage.project import Project
from tutelage.quality.summary import PUBLISHED, summarise
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
