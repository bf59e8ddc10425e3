"""The desk: who is given what, and what becomes of the answer. One clock for all, moved by hand."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from sqlalchemy import event, select

from tutelage.errors import StudioError
from tutelage.feedback.asking import from_questions, versus
from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.claiming import Claim
from tutelage.feedback.database import read, write
from tutelage.feedback.store import Store
from tutelage.feedback.work import BatchSpec, Held, NewItem, Nothing, Ranked, Rated, Saved, Written
from tutelage.feedback.work_tables import answers, leases, work_items
from tutelage.questions import Question
from tutelage.records import Completion, Prompt, Source

MODEL = Source(model="secret-model-7b")
LEASE = 900.0


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def unsynced(store: Store) -> None:
    """No waiting for the disk: that what was saved stays saved is tested elsewhere."""
    event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    store.engine.dispose()


def text(words: str) -> Completion:
    return Completion(text=words, source=MODEL)


def item(name: str, k: int = 2, **more: Any) -> NewItem:
    completions = tuple(text(f"{name} answer {i}") for i in range(k))
    return NewItem(prompt=Prompt.user(f"{name}?"), completions=completions, **more)


def spec(kind: str = "comparison", **more: Any) -> BatchSpec:
    quiet = {"overlap_share": 0.0, "gold_share": 0.0, "repeat_share": 0.0}
    return BatchSpec.model_validate({"name": "films", "kind": kind} | quiet | more)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "a.db") as opened:
        unsynced(opened)
        yield opened


@pytest.fixture
def desk(store: Store, clock: Clock) -> Desk:
    return Desk(store, clock=clock, rng=random.Random(0))


def given(desk: Desk, rater: str, batch: str | None = None, **more: Any) -> Held:
    held = desk.next(rater, batch, **more)
    assert isinstance(held, Held), held
    return held


def why_not(desk: Desk, rater: str, batch: str | None = None) -> Nothing:
    nothing = desk.next(rater, batch)
    assert isinstance(nothing, Nothing), nothing
    return nothing


def answer(desk: Desk, rater: str, held: Held, ranks: tuple[int, ...] = (1, 2), key: str = "") -> Saved:
    return desk.submit(rater, held.id, key or f"{rater}-{held.id}", Ranked(ranks=ranks))


def column(store: Store, query: Any) -> list[Any]:
    with read(store.engine) as connection:
        return list(connection.execute(query).scalars())


def by_item(store: Store, what: Any) -> dict[str, Any]:
    with read(store.engine) as connection:
        return {row[0]: row[1] for row in connection.execute(select(work_items.c.id, what))}


# ---- an answer


def test_an_answer_is_a_training_row(desk: Desk, store: Store) -> None:
    guideline = Batches(store).add_guideline("Films", "Prefer the kinder one.")
    batch = desk.open(spec(guideline=guideline.id), [item("a")])
    held = given(desk, "person-1")
    assert {*held.texts} == {"a answer 0", "a answer 1"}
    assert "secret" not in repr(held)
    made = desk.submit("person-1", held.id, "key", Ranked(ranks=(2, 1), strength=3, flags=("both bad",)), 4.0)
    (comparison,) = store.comparisons()
    assert made.labels == (comparison.id,)
    shown = [comparison.completions[i].text for i in comparison.shown]
    assert shown == list(held.texts)
    better, worse = comparison.pairs()[0]
    assert (comparison.completions[better].text, comparison.completions[worse].text) == (held.texts[1], held.texts[0])
    assert comparison.annotator.id == comparison.annotator.name == "person-1"
    assert (comparison.strength, comparison.flags, comparison.guideline) == (3, ("both bad",), guideline.id)
    assert comparison.completions[0].source == MODEL
    assert why_not(desk, "person-1", batch.id).reason == "finished"


def test_the_same_submission_five_times_is_one_row(desk: Desk, store: Store) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    made = [answer(desk, "person-1", held, key="once") for _ in range(5)]
    assert [m.again for m in made] == [False, True, True, True, True]
    assert len({m.id for m in made}) == 1
    assert store.count("comparisons") == 1 == len(column(store, select(answers.c.id)))


def test_the_same_answer_from_a_second_tab_is_one_row(desk: Desk, store: Store) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    answer(desk, "person-1", held, key="first tab")
    assert answer(desk, "person-1", held, key="second tab").again
    assert store.count("comparisons") == 1


def test_a_key_belongs_to_one_item(desk: Desk) -> None:
    desk.open(spec(), [item("a"), item("b")])
    answer(desk, "person-1", given(desk, "person-1"), key="k")
    with pytest.raises(StudioError, match="another item") as caught:
        answer(desk, "person-1", given(desk, "person-1"), key="k")
    assert caught.value.status == 409


def test_a_changed_answer_is_a_new_revision(desk: Desk, store: Store) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    first = answer(desk, "person-1", held, (1, 2), "k1")
    second = answer(desk, "person-1", held, (2, 1), "k2")
    assert (first.revision, second.revision, second.again) == (1, 2, False)
    (left,) = store.comparisons()
    assert left.id == second.labels[0] != first.labels[0]
    assert column(store, select(answers.c.standing).order_by(answers.c.n)) == [False, True]
    assert store.comparisons_at([1])[0].id == first.labels[0], "the first label is kept, though taken back"
    assert column(store, select(work_items.c.answered)) == [1]
    back = answer(desk, "person-1", held, (1, 2), "k3")
    assert back.revision == 3
    assert desk.held("person-1", held.id).answer == Ranked(ranks=(1, 2))


def test_undo_gives_the_item_back(desk: Desk, store: Store) -> None:
    batch = desk.open(spec(), [item("a"), item("b")])
    assert desk.undo("person-1") is None
    held = given(desk, "person-1")
    answer(desk, "person-1", held, (1, 2), "k1")
    undone = desk.undo("person-1", batch.id)
    assert undone is not None
    assert (undone.id, undone.texts, undone.answer) == (held.id, held.texts, Ranked(ranks=(1, 2)))
    assert store.count("comparisons") == 0
    assert given(desk, "person-1").id == held.id
    assert given(desk, "person-2").id != held.id, "the seat is still the first one's"
    assert answer(desk, "person-1", undone, (1, 2), "k2").revision == 2
    assert store.count("comparisons") == 1


@pytest.mark.parametrize("wrong", [Rated(score=3), Ranked(ranks=(1, 2, 3)), Written(text="x")])
def test_an_answer_of_another_shape_is_refused(desk: Desk, store: Store, wrong: Any) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    with pytest.raises(StudioError) as caught:
        desk.submit("person-1", held.id, "k", wrong)
    assert caught.value.status == 422
    assert store.count("comparisons") == 0


def test_an_item_of_somebody_else_is_refused(desk: Desk) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    calls = [
        lambda: answer(desk, "person-2", held),
        lambda: desk.held("person-2", held.id),
        lambda: desk.renew("person-2", held.id),
        lambda: desk.skip("person-2", held.id, "no"),
        lambda: desk.flag("person-2", held.id, "no"),
        lambda: desk.draft("person-2", held.id, "{}"),
    ]
    for call in calls:
        with pytest.raises(StudioError, match="not given to you") as caught:
            call()
        assert caught.value.status == 404


def test_seconds_are_bounded_by_the_time_that_passed(desk: Desk, store: Store, clock: Clock) -> None:
    desk.open(spec(), [item(name) for name in "abc"])
    for told, passed, kept in [(5.0, 60.0, 5.0), (500.0, 60.0, 60.0), (float("nan"), 60.0, None)]:
        held = given(desk, "person-1")
        clock.now += passed
        desk.submit("person-1", held.id, held.id, Ranked(ranks=(1, 2)), told)
        assert list(store.comparisons())[-1].seconds == kept


@pytest.mark.parametrize(
    ("kind", "k", "said"),
    [
        ("demonstration", 0, Written(text="mine")),
        ("rating", 1, Rated(score=6, flags=("opinion",))),
        ("ranking", 4, Ranked(ranks=(2, 1, 2, 3))),
        ("versus", 2, Ranked(ranks=(1, 1))),
        ("edit", 1, Written(text="better")),
    ],
)
def test_every_kind_becomes_its_records(desk: Desk, store: Store, kind: str, k: int, said: Any) -> None:
    desk.open(spec(kind), [item("a", k)])
    held = given(desk, "person-1")
    made = desk.submit("person-1", held.id, "k", said)
    counts = {name: store.count(name) for name in ("demonstrations", "comparisons", "ratings")}
    assert counts == {
        "demonstrations": int(kind in ("demonstration", "edit")),
        "comparisons": int(kind in ("ranking", "versus", "edit")),
        "ratings": int(kind == "rating"),
    }
    assert len(made.labels) == sum(counts.values())
    if kind == "edit":
        (comparison,) = store.comparisons()
        assert [c.text for c in comparison.completions] == ["better", "a answer 0"]
        assert comparison.ranks == (1, 2)
        assert comparison.completions[0].source.model == "human"
    if kind == "ranking":
        (comparison,) = store.comparisons()
        by_text = {c.text: r for c, r in zip(comparison.completions, comparison.ranks, strict=True)}
        assert [by_text[words] for words in held.texts] == [2, 1, 2, 3]


def test_an_unchanged_text_is_a_demonstration_only(desk: Desk, store: Store) -> None:
    desk.open(spec("edit"), [item("a", 1)])
    held = given(desk, "person-1")
    desk.submit("person-1", held.id, "k", Written(text=held.texts[0]))
    assert (store.count("demonstrations"), store.count("comparisons")) == (1, 0)


# ---- who gets what


def test_leases_end_and_a_late_answer_is_kept(desk: Desk, store: Store, clock: Clock) -> None:
    batch = desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    assert why_not(desk, "person-2") == Nothing("leased", until=clock.now + LEASE, batch=batch.id)
    clock.now += LEASE + 1
    other = given(desk, "person-2")
    assert other.id == held.id
    assert desk.renew("person-1", held.id) == [None]
    late = answer(desk, "person-1", held)
    assert late.role == "extra"
    assert answer(desk, "person-2", other).role == "wanted"
    assert store.count("comparisons") == 2
    assert column(store, select(work_items.c.answered)) == [1]


def test_a_late_answer_takes_a_seat_that_is_free(desk: Desk, store: Store, clock: Clock) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    clock.now += 10 * LEASE
    assert answer(desk, "person-1", held).role == "wanted"
    assert column(store, select(work_items.c.open)) == [False]


def test_a_lease_in_use_goes_on(desk: Desk, clock: Clock) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    for _ in range(5):
        clock.now += LEASE - 1
        assert desk.renew("person-1", held.id) == [clock.now + LEASE]
        assert why_not(desk, "person-2").reason == "leased"


def test_the_same_item_comes_again_in_the_same_order(desk: Desk, clock: Clock) -> None:
    desk.open(spec("ranking"), [item("a", 9)])
    held = given(desk, "person-1")
    clock.now += 5 * LEASE
    again = given(desk, "person-1")
    assert (again.id, again.texts) == (held.id, held.texts)


def test_a_page_may_read_ahead(desk: Desk) -> None:
    desk.open(spec(), [item(name) for name in "abc"])
    first = given(desk, "person-1")
    second = given(desk, "person-1", besides=(first.id,))
    third = given(desk, "person-1", besides=(first.id, second.id))
    assert len({first.id, second.id, third.id}) == 3
    assert given(desk, "person-1").id == first.id
    assert why_not(desk, "person-2").reason == "leased"
    with pytest.raises(StudioError, match="answer some first"):
        desk.next("person-1", None, tuple(str(i) for i in range(61)))


def test_pages_hold_half_of_what_is_left_together(desk: Desk, clock: Clock) -> None:
    batch = desk.open(spec(), [item(f"{i}") for i in range(48)]).id
    assert desk.allowance(batch) == 24  # one page
    given(desk, "person-1")
    given(desk, "person-2")
    assert desk.allowance(batch) == 12  # two at work
    clock.now += LEASE + 1
    assert desk.allowance(batch) == 24  # they have gone
    assert desk.allowance(desk.open(spec(), [item("one")]).id) == 5  # the few that are always allowed
    assert desk.allowance(desk.open(spec(), [item(f"more {i}") for i in range(200)]).id) == 60


def test_what_a_page_gives_back_is_for_others_and_a_late_answer_is_taken(desk: Desk, store: Store) -> None:
    desk.open(spec(), [item("a"), item("b")])
    first = given(desk, "person-1")
    second = given(desk, "person-1", besides=(first.id,))
    desk.give_back("person-1", second.id)
    assert given(desk, "person-2").id == second.id
    assert answer(desk, "person-1", second).role == "extra"
    answer(desk, "person-1", first)
    desk.give_back("person-1", first.id)  # answered: nothing to give back
    assert desk.held("person-1", first.id).standing
    assert why_not(desk, "person-3").reason == "leased"


def test_one_answer_is_taken_back_once(desk: Desk, store: Store) -> None:
    desk.open(spec(), [item("a"), item("b")])
    first = given(desk, "person-1")
    answer(desk, "person-1", first, (2, 1), "k1")
    second = given(desk, "person-1")
    answer(desk, "person-1", second, (1, 2), "k2")
    for _ in range(3):  # a lost reply, sent again
        back = desk.take_back("person-1", first.id)
        assert (back.id, back.answer, back.standing) == (first.id, Ranked(ranks=(2, 1)), False)
    assert store.count("comparisons") == 1, "the second one's stands"
    assert answer(desk, "person-1", first, (2, 1), "k3").role == "wanted"
    assert desk.held("person-1", first.id).standing
    assert desk.take_back("person-1", given_nothing_yet(desk)).answer is None


def given_nothing_yet(desk: Desk) -> str:
    """An item that person-1 holds and has not answered."""
    desk.open(spec(), [item("fresh")])
    return given(desk, "person-1").id


def test_a_skipped_item_never_comes_again(desk: Desk, clock: Clock) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    desk.skip("person-1", held.id, "I know the author")
    assert why_not(desk, "person-1").reason == "done"
    clock.now += 10 * LEASE
    assert why_not(desk, "person-1").reason == "done"
    assert given(desk, "person-2").id == held.id


def test_drafts_are_kept_until_the_answer(desk: Desk) -> None:
    desk.open(spec(), [item("a")])
    held = given(desk, "person-1")
    desk.draft("person-1", held.id, '{"text": "so f"}')
    desk.draft("person-1", held.id, '{"text": "so far"}')
    assert desk.held("person-1", held.id).draft == '{"text": "so far"}' == given(desk, "person-1").draft
    answer(desk, "person-1", held)
    assert desk.held("person-1", held.id).draft is None


def test_sides_are_even(desk: Desk, store: Store) -> None:
    desk.open(spec(), [item(str(i)) for i in range(200)])
    for _ in range(200):
        answer(desk, "person-1", given(desk, "person-1"))
    left = sum(c.shown == (0, 1) for c in store.comparisons())
    assert binomtest(left, 200).pvalue > 0.001


def test_every_item_is_asked_as_often_as_wanted(desk: Desk, store: Store) -> None:
    batch = desk.open(spec(overlap_share=0.5, overlap=3, most_answers=3), [item(str(i)) for i in range(60)])
    for rater in "abcd":
        while isinstance(held := desk.next(rater), Held):
            answer(desk, rater, held)
    wanted = column(store, select(work_items.c.wanted))
    assert Counter(wanted)[3] > 15
    assert store.count("comparisons") == sum(wanted)
    assert column(store, select(work_items.c.answered)) == wanted
    told = Batches(store).progress(batch.id)
    assert (told.items, told.finished, told.wanted, told.answered, told.extra) == (60, 60, sum(wanted), sum(wanted), 0)


def test_many_raters_at_once_get_no_item_twice(store: Store) -> None:
    """Two desks, as two processes would have, and four threads on each; select-then-insert fails here."""
    desks = [Desk(store), Desk(store)]
    desks[0].open(spec(overlap=2, overlap_share=0.3, most_answers=2), [item(str(i)) for i in range(40)])

    def work(i: int) -> int:
        desk, done = desks[i % 2], 0
        while True:
            match desk.next(f"person-{i}"):
                case Held() as held:
                    answer(desk, f"person-{i}", held)
                    done += 1
                case Nothing(reason="leased"):
                    time.sleep(0.01)
                case Nothing():
                    return done

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(work, range(8)))
    wanted = sum(column(store, select(work_items.c.wanted)))
    assert done == store.count("comparisons") == wanted
    assert set(column(store, select(answers.c.role))) == {"wanted"}


def test_disagreement_asks_one_more(desk: Desk, store: Store) -> None:
    desk.open(spec(overlap=2, overlap_share=1.0, most_answers=4), [item("a")])
    ranks = {"p1": (1, 2), "p2": (2, 1), "p3": (1, 1), "p4": (1, 2)}
    for rater, wanted in [("p1", 2), ("p2", 3), ("p3", 4), ("p4", 4)]:
        held = given(desk, rater)
        shown = column(store, select(leases.c.shown).where(leases.c.rater_id == rater))[0]
        said = ranks[rater] if shown == "[0, 1]" else tuple(reversed(ranks[rater]))
        answer(desk, rater, held, said)
        assert column(store, select(work_items.c.wanted)) == [wanted]
    assert why_not(desk, "p5").reason == "finished"


def test_agreement_asks_no_more(desk: Desk, store: Store) -> None:
    desk.open(spec("rating", overlap=2, overlap_share=1.0), [item("a", 1)])
    for rater, score in [("p1", 3), ("p2", 5)]:
        desk.submit(rater, given(desk, rater).id, "k", Rated(score=score))
    assert column(store, select(work_items.c.wanted)) == [2]
    assert why_not(desk, "p3").reason == "finished"


# ---- checks


def test_gold_is_mixed_in_and_never_trained_on(desk: Desk, store: Store) -> None:
    gold = [item(f"gold {i}", gold=Ranked(ranks=(1, 2))) for i in range(40)]
    desk.open(spec(gold_share=0.15), [item(str(i)) for i in range(150)] + gold)
    seen = 0
    while isinstance(held := desk.next("p1"), Held):
        is_gold = "gold" in held.texts[0]
        seen += is_gold
        made = answer(desk, "p1", held, (1, 2) if held.texts[0].endswith("0") else (2, 1))
        assert bool(made.labels) != is_gold
    assert binomtest(seen, 150 + seen, 0.15).pvalue > 0.001
    assert store.count("comparisons") == 150
    scores = column(store, select(answers.c.score).where(answers.c.score.is_not(None)))
    assert scores == [1.0] * seen


def test_repeats_come_with_the_sides_swapped(desk: Desk, store: Store) -> None:
    desk.open(spec("ranking", repeat_share=0.2), [item(str(i), 4) for i in range(100)])
    shown: dict[str, tuple[str, ...]] = {}
    repeats = 0
    while isinstance(held := desk.next("p1"), Held):
        name = held.messages[0].content
        if name in shown:
            repeats += 1
            assert held.texts == tuple(reversed(shown[name]))
        shown.setdefault(name, held.texts)
        answer(desk, "p1", held, (1, 2, 3, 4))
    assert repeats > 5
    assert store.count("comparisons") == 100
    assert len(set(column(store, select(work_items.c.repeat_of).where(work_items.c.purpose == "repeat")))) == repeats


def test_onboarding_is_passed_first(desk: Desk, store: Store) -> None:
    gold = [item(f"test {i}", gold=Ranked(ranks=(1, 2))) for i in range(4)]
    test = desk.open(spec(name="test", pass_mark=0.75), gold)
    batch = desk.open(spec(onboarding=test.id), [item("a"), item("b")])
    assert why_not(desk, "good", batch.id) == Nothing("onboarding", batch=test.id)
    for rater, wrong in [("good", 1), ("bad", 2)]:
        for i in range(4):
            held = given(desk, rater)
            right = (1, 2) if held.texts[0].endswith("0") else (2, 1)
            answer(desk, rater, held, tuple(reversed(right)) if i < wrong else right)
    assert given(desk, "good").batch == batch.id
    assert why_not(desk, "bad", batch.id) == Nothing("failed", batch=test.id)
    assert store.count("comparisons") == 0


def test_a_test_is_decided_by_its_first_answers(desk: Desk, store: Store) -> None:
    """Corrected one by one, with a look at the result after each, a failed test could else be passed by anybody."""
    test = desk.open(spec(name="test", pass_mark=0.75), [item(f"{i}", gold=Ranked(ranks=(1, 2))) for i in range(4)])
    batch = desk.open(spec(onboarding=test.id), [item("a"), item("b")])
    for rater, outcome in [("good", None), ("bad", Nothing("failed", batch=test.id))]:
        held = [desk.submit(rater, one.id, one.id, right(one, rater == "good")) for one in all_of(desk, rater, test.id)]
        for number, made in enumerate(held):
            found = next(offer.nothing for offer in desk.offers(rater) if offer.batch == batch.id)
            assert found == outcome, number
            again = desk.held(rater, made.item)
            assert desk.submit(rater, made.item, f"again {made.item}", right(again, rater == "bad")).revision == 2
        first = desk.take_back(rater, held[0].item)
        desk.submit(rater, first.id, "once more", right(first, rater == "bad"))
        assert next(offer.nothing for offer in desk.offers(rater) if offer.batch == batch.id) == outcome


def all_of(desk: Desk, rater: str, batch: str) -> Iterator[Held]:
    while isinstance(held := desk.next(rater, batch), Held):
        yield held


def right(held: Held, true: bool) -> Ranked:
    """The answer whose completions end in 0 and 1, or the wrong one."""
    first = held.texts[0].endswith("0") == true
    return Ranked(ranks=(1, 2) if first else (2, 1))


# ---- why there is nothing


def test_reasons_for_nothing(desk: Desk, store: Store, clock: Clock) -> None:
    assert why_not(desk, "p1").reason == "nothing"
    over = datetime.fromtimestamp(clock.now - 1, UTC)
    late = desk.open(spec(deadline=over), [item("a")])
    assert why_not(desk, "p1", late.id).reason == "deadline"
    closed = desk.open(spec(raters=("p2",)), [item("b")])
    assert why_not(desk, "p1", closed.id).reason == "nothing"
    assert [offer.batch for offer in desk.offers("p1")] == [late.id]
    given(desk, "p2", closed.id)
    Batches(store).set_state(closed.id, "paused")
    assert why_not(desk, "p3", closed.id).reason == "paused"
    with pytest.raises(StudioError, match="no batch"):
        desk.next("p1", "unknown")


# ---- what is asked


def test_active_selection_leaves_a_random_arm(desk: Desk, store: Store) -> None:
    batch = desk.open(spec(random_share=0.25), [item(str(i)) for i in range(400)])
    ids = column(store, select(work_items.c.id).order_by(work_items.c.n))
    assert set(column(store, select(work_items.c.arm))) == {"random"}
    before = by_item(store, work_items.c.position)
    worth = {id: i / 400 for i, id in enumerate(ids)}
    Batches(store, rng=random.Random(1)).prioritise(batch.id, worth)
    arms = by_item(store, work_items.c.arm)
    after = by_item(store, work_items.c.position)
    chance = [id for id in ids if arms[id] == "random"]
    assert binomtest(len(chance), 400, 0.25).pvalue > 0.001
    assert all(after[id] == before[id] for id in chance)
    active = [id for id in sorted(after, key=after.__getitem__) if arms[id] == "active"]
    assert active == sorted(active, key=lambda id: -worth[id])
    early = sorted(after, key=after.__getitem__)[:100]
    assert binomtest(sum(arms[id] == "random" for id in early), 100, 0.25).pvalue > 0.001
    Batches(store).prioritise(batch.id, {id: -worth[id] for id in ids})
    assert by_item(store, work_items.c.arm) == arms


def test_sources_of_items() -> None:
    one = Question(prompt=Prompt.user("q"), completions=(text("a"), text("b"), text("c")))
    other = Question(prompt=Prompt.user("q"), completions=(text("x"), text("y")))
    assert [len(i.completions) for i in from_questions([one], "ranking")] == [3]
    assert [i.completions[0].text for i in from_questions([one], "edit")] == ["a", "b", "c"]
    assert [[c.text for c in i.completions] for i in versus([one], [other])] == [["a", "x"]]
    with pytest.raises(StudioError, match="no prompt in common"):
        list(versus([one], [Question(prompt=Prompt.user("else"), completions=(text("a"), text("b")))]))


@pytest.mark.parametrize(
    ("changes", "items", "sentence"),
    [
        ({}, [], "nothing to ask"),
        ({}, [item("a", 3)], "about 2 completions, but an item has 3"),
        ({"kind": "edit"}, [item("a", 1, gold=Written(text="x"))], "no gold answer"),
        ({"pass_mark": 0.5}, [item("a")], "needs a gold answer"),
        ({"onboarding": "none"}, [item("a")], "no batch 'none'"),
        ({"guideline": "none"}, [item("a")], "no guideline 'none'"),
        ({"kind": "chat"}, [NewItem(prompt=Prompt.text("It was"))], "begins with messages"),
    ],
)
def test_a_batch_that_cannot_be(desk: Desk, store: Store, changes: Any, items: Any, sentence: str) -> None:
    with pytest.raises(StudioError, match=sentence):
        desk.open(spec(**changes), items)
    assert Batches(store).all() == []


def test_a_search_for_the_next_item_uses_the_queue(store: Store, desk: Desk) -> None:
    batch = desk.open(spec(), [item(str(i)) for i in range(50)])
    statements: list[str] = []
    listen = lambda c, cursor, statement, values, context, many: statements.append(statement)  # noqa: E731
    event.listen(store.engine, "before_cursor_execute", listen)
    with write(store.engine) as connection:
        Claim(connection, batch.id, batch.spec, "p1", 0.0, random.Random(0)).find()
        query = next(s for s in statements if "ORDER BY work_items.position" in s)
        values = (batch.id, "p1", "answered", "skipped", "held", "held", 0.0, "p1", 1, 0)
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)]
    assert any("ix_work_items_queue (batch_id=? AND open=?)" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
