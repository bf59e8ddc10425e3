"""The records: their rules, the border between train and evaluation, and reordering."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tutelage.records import Annotator, Comparison, Completion, Message, Prompt, Source

ANNOTATOR = Annotator(id="ann", kind="human", name="Ann")


def make(ranks: tuple[int, ...], **more: object) -> Comparison:
    completions = tuple(Completion(id=f"c{i}", text=f"answer {i}", source=Source(model="m")) for i in range(len(ranks)))
    values = {"shown": tuple(range(len(ranks))), **more}
    return Comparison.model_validate(
        {"prompt": Prompt.user("q"), "completions": completions, "ranks": ranks, "annotator": ANNOTATOR, **values}
    )


def verdicts(comparison: Comparison) -> tuple[set[tuple[str, str]], set[frozenset[str]]]:
    """What a comparison says, by the names of its completions, whatever their order."""
    ids = [c.id for c in comparison.completions]
    better = {(ids[i], ids[j]) for i, j in comparison.pairs()}
    return better, {frozenset((ids[i], ids[j])) for i, j in comparison.ties()}


def test_identity_of_a_prompt_never_changes() -> None:
    # Written down when the first store was made: another value would move prompts across the border in old stores.
    prompt = Prompt(messages=(Message(role="system", content="Be kind."), Message(role="user", content="Grüß Gott ☃")))
    assert prompt.id == "3c8300b639b73a72dad5e34cbc7aecef"
    assert Prompt.text("The film").id == "b51ae36a64ca6a9159c483bcd4b9998e"
    assert (prompt.split, Prompt.text("The film").split) == ("evaluation", "train")


@settings(max_examples=50)
@given(st.text(), st.text())
def test_same_content_same_side_and_role_counts(one: str, other: str) -> None:
    assert Prompt.user(one).id == Prompt.user(one).id
    assert Prompt.user(one).split == Prompt.user(one).split
    assert Prompt.user(one).id != Prompt.text(one).id
    if one != other:
        assert Prompt.user(one).id != Prompt.user(other).id
        # moving the border between two messages is another prompt
        assert _two(one + "x", other).id != _two(one, "x" + other).id


def _two(one: str, other: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=one), Message(role="assistant", content=other)))


def test_a_fifth_of_the_prompts_are_for_evaluation() -> None:
    share = sum(Prompt.user(f"question {i}").split == "evaluation" for i in range(5000)) / 5000
    assert 0.18 < share < 0.22  # 0.2 ± 3.5 standard errors


@settings(max_examples=100)
@given(st.data())
def test_reorder_keeps_the_meaning(data: st.DataObject) -> None:
    k = data.draw(st.integers(2, 5))
    ranks = tuple(data.draw(st.lists(st.integers(1, 4), min_size=k, max_size=k)))
    shown = data.draw(st.sampled_from(list(permutations(range(k)))))
    order = data.draw(st.sampled_from(list(permutations(range(k)))))
    target = data.draw(st.floats(0, 1)) if k == 2 else None
    before = make(ranks, shown=shown, target=target)
    after = before.reorder(order)
    assert verdicts(after) == verdicts(before)
    on_screen = [before.completions[i].id for i in before.shown]
    assert [after.completions[i].id for i in after.shown] == on_screen
    if target is not None:
        first = before.completions[0].id
        said = after.target if after.completions[0].id == first else 1 - (after.target or 0.0)
        assert said == pytest.approx(target)
    undo = tuple(sorted(range(k), key=order.__getitem__))
    back = after.reorder(undo)
    assert back.model_copy(update={"target": None}) == before.model_copy(update={"target": None})


def test_pairs_and_ties_split_all_pairs() -> None:
    comparison = make((2, 1, 2, 3))
    assert set(comparison.pairs()) == {(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)}
    assert comparison.ties() == [(0, 2)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ranks": (1, 2, 3)}, "2 completions but 3 ranks"),
        ({"ranks": (0, 1)}, "greater than or equal to 1"),
        ({"shown": (0, 0)}, "each index once"),
        ({"strength": 5}, "less than or equal to 4"),
        ({"target": 1.5}, "less than or equal to 1"),
        ({"seconds": -1.0}, "greater than or equal to 0"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_broken_comparison_is_refused(change: dict[str, object], sentence: str) -> None:
    values = {**make((1, 2)).model_dump(), **change}
    with pytest.raises(ValidationError, match=sentence):
        Comparison.model_validate(values)


def test_target_is_for_pairs_and_text_prompts_stand_alone() -> None:
    with pytest.raises(ValidationError, match="target is for pairs, but there are 3"):
        make((1, 2, 3), target=0.5)
    with pytest.raises(ValidationError, match="stands alone, but this one has 2"):
        Prompt(messages=(Message(role="text", content="a"), Message(role="user", content="b")))
    with pytest.raises(ValueError, match="no permutation of 2"):
        make((1, 2)).reorder((0, 0))


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make((1, 2)).ranks = (2, 1)  # type: ignore[misc]
