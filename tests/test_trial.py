"""A reward run on trial: what it is measured on, and what is left out of it."""

from collections.abc import Iterator
from itertools import count, islice

import pytest
from test_prioritising import reward_run

from tutelage.errors import DataError, TrainingError
from tutelage.project import Project
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source

ANN, BEN = (Annotator(id=name, kind="human", name=name) for name in ("ann", "ben"))
ROOM = 16  # tokens, which are bytes


def held_out(beginning: str) -> Iterator[Prompt]:
    """Prompts of the evaluation split."""
    return (p for i in count() if (p := Prompt.text(f"{beginning} {i}")).split == "evaluation")


def ranked(prompt: Prompt, ranks: tuple[int, int], who: Annotator = ANN) -> Comparison:
    done = tuple(Completion(text=text, source=Source(model="file")) for text in ("good", "bad"))
    return Comparison(prompt=prompt, completions=done, ranks=ranks, shown=(0, 1), annotator=who)


@pytest.fixture
def project(tmp_path) -> Project:
    """With a reward run whose settings give it little room, where the project's give it plenty."""
    made = Project.init(tmp_path / "p", model="tiny")
    reward_run(made, 1, 1.0, max_tokens=ROOM)
    return made


def figures(project, *rows):
    with project.store() as store:
        store.add_all(rows)
    return project.evaluate("reward").figures


def test_what_did_not_fit_in_training_is_left_out_and_counted(project):
    rows = [ranked(p, (1, 2)) for p in islice(held_out("film"), 4)]
    long = ranked(next(held_out("a film that is longer")), (1, 2))
    with pytest.warns(UserWarning, match=r"^1 of 5 records were left out. The first: the prompt that starts 'a film"):
        found = figures(project, *rows, long)
    assert found["pairs"] == found["accuracy"]["n"] == found["longer_wins"]["n"] == 4


def test_annotators_who_agree_on_a_tie_agree(project):
    first, second, third = islice(held_out("film"), 3)
    rows = [ranked(p, ranks, who) for who in (ANN, BEN) for p, ranks in ((first, (1, 1)), (second, (1, 2)))]
    rows += [ranked(third, (1, 2), ANN), ranked(third, (1, 1), BEN)]
    found = figures(project, *rows)
    assert found["agreement"] == pytest.approx(2 / 3)  # one on a tie, one on an order, one not
    assert found["pairs"] == 3


def test_nothing_to_measure_on_is_an_error(project):
    with pytest.raises(DataError, match="no held-out rankings"):
        figures(project, ranked(next(held_out("film")), (1, 1)))
    with pytest.raises(TrainingError, match="none of the 1 records can be used"):
        figures(project, ranked(next(held_out("a film that is longer")), (1, 2)))
