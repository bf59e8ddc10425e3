"""What leads see and do: counts, checks, disagreements, decisions, remarks, on a desk that was worked at."""

import sqlite3

import pytest
from sqlalchemy import event
from studio_api import House, question
from studio_api import house as made_house

from tutelage.errors import StudioError
from tutelage.feedback.adjudication import Adjudication
from tutelage.feedback.audit import entries
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import BatchSpec, NewItem, Ranked, Rated, Written
from tutelage.records import Prompt, new_id

FIRST, SECOND, TIE = Ranked(ranks=(1, 2)), Ranked(ranks=(2, 1)), Ranked(ranks=(1, 1))


@pytest.fixture
def house(tmp_path):
    yield from made_house(tmp_path)


def say(house: House, who: str, batch: str, verdict, seconds=None):
    """Answer the next item: `verdict` is about the completions in the item's own order, told by their texts."""
    held = house.room.desk.next(who, batch)
    own = sorted(range(len(held.texts)), key=lambda place: held.texts[place])  # place of each completion, in own order
    answer = verdict
    if isinstance(verdict, Ranked):
        ranks = [0] * len(own)
        for index, place in enumerate(own):
            ranks[place] = verdict.ranks[index]
        answer = verdict.model_copy(update={"ranks": tuple(ranks)})
    return house.room.desk.submit(who, held.id, new_id(), answer, seconds)


def people(house, n):
    return [house.person().user.id for _ in range(n)]


def test_items_on_which_people_differ_the_most_divided_first(house):
    a, b, c = people(house, 3)
    batch = house.batch(items=3, overlap=3, overlap_share=1.0)
    for who, verdicts in {a: (FIRST, FIRST, FIRST), b: (FIRST, SECOND, SECOND), c: (FIRST, FIRST, TIE)}.items():
        told = {}
        for _ in range(3):
            held = house.room.desk.next(who, batch)
            told[held.messages[0].content] = held
            number = int(held.messages[0].content.split()[1].rstrip("?"))
            say(house, who, batch, verdicts[number])
    splits = Oversight(house.room.store).splits(batch)
    assert [(s.degree, s.answers) for s in splits] == [(pytest.approx(2 / 3), 3), (pytest.approx(1 / 3), 3)]
    assert Oversight(house.room.store).splits(house.batch(items=1)) == []
    case = Oversight(house.room.store).case(splits[0].item)
    assert {said.answer.ranks for said in case.said} == {(1, 2), (2, 1), (1, 1)}
    assert case.adjudicated is None
    assert [c.source.model for c in case.completions] == ["secret-model-7b"] * 2


def disagreement(house):
    """An item with two opposed answers."""
    a, b = people(house, 2)
    batch = house.batch(items=1, overlap=2, overlap_share=1.0, most_answers=2)
    say(house, a, batch, FIRST)
    return batch, say(house, b, batch, SECOND).item, (a, b)


def test_a_decision_is_a_label_of_the_leads_and_changes_no_answer(house):
    batch, item, raters = disagreement(house)
    lead, store = house.person("lead").user.id, house.room.store
    decide = Adjudication(store).decide
    first = decide(lead, item, FIRST)
    assert (first.role, first.revision, len(first.labels)) == ("adjudication", 1, 1)
    by_lead = list(store.comparisons(annotator=lead))
    assert [(c.ranks, c.id) for c in by_lead] == [((1, 2), first.labels[0])]
    assert decide(lead, item, SECOND).revision == 2
    assert [c.ranks for c in store.comparisons(annotator=lead)] == [(2, 1)]  # the earlier one is taken back
    for who in raters:
        assert len(list(store.comparisons(annotator=who))) == 1
        assert len(house.room.desk.recent(who)) == 1
    case = Oversight(store).case(item)
    assert (case.adjudicated.rater, case.adjudicated.answer.ranks) == (lead, (2, 1))
    assert len(case.said) == 2
    assert [s.adjudicated for s in Oversight(store).splits(batch)] == [True]
    assert house.room.batches.progress(batch).answered == 2
    assert house.room.desk.recent(lead) == []  # no answer of theirs as a rater
    assert house.room.desk.undo(lead) is None
    assert {e.action for e in entries(store, user=lead)} == {"adjudicate"}


def test_a_lead_who_also_answered_keeps_both(house):
    lead, other = house.person("lead").user.id, people(house, 1)[0]
    batch = house.batch(items=1, overlap=2, overlap_share=1.0, most_answers=2)
    item = say(house, lead, batch, FIRST).item
    say(house, other, batch, SECOND)
    for decision in (FIRST, SECOND):
        Adjudication(house.room.store).decide(lead, item, decision)
    assert sorted(c.ranks for c in house.room.store.comparisons(annotator=lead)) == [(1, 2), (2, 1)]
    own = house.room.desk.held(lead, item)
    assert own.revision == 1
    assert house.room.desk.submit(lead, item, new_id(), own.answer).again  # the answer that stands is their own
    assert len(house.room.desk.recent(lead)) == 1


def test_what_cannot_be_decided(house):
    _, item, _ = disagreement(house)
    lead, decide = house.person("lead").user.id, Adjudication(house.room.store).decide
    with pytest.raises(StudioError, match="3 ranks") as found:
        decide(lead, item, Ranked(ranks=(1, 2, 3)))
    assert found.value.status == 422
    with pytest.raises(StudioError, match="takes an answer of type 'ranked'"):
        decide(lead, item, Rated(score=3))
    with pytest.raises(StudioError, match="There is no item 'x'"):
        decide(lead, "x", FIRST)
    gold = question(7).model_copy(update={"gold": FIRST})
    house.room.batches.open(BatchSpec(name="test", kind="comparison", pass_mark=0.5), [gold])
    rater = people(house, 1)[0]
    checked = next(o.batch for o in house.room.desk.offers(rater) if o.name == "test")
    with pytest.raises(StudioError, match="a check of raters"):
        decide(lead, say(house, rater, checked, FIRST).item, FIRST)


def test_work_counts_answers_checks_time_and_skips(house):
    a, b = people(house, 2)
    items = [
        *(question(i) for i in range(4)),
        *(question(100 + i).model_copy(update={"gold": FIRST}) for i in range(4)),
    ]
    spec = BatchSpec(name="w", kind="comparison", overlap=1, gold_share=0.5, repeat_share=0.0)
    batch = house.room.batches.open(spec, items).id
    held = house.room.desk.next(b, batch)
    house.room.desk.skip(b, held.id, "unclear")
    right = 0
    while True:
        held = house.room.desk.next(a, batch)
        if not hasattr(held, "texts"):
            break
        say(house, a, batch, FIRST)
        right += "Question 10" in held.messages[0].content
    work = Oversight(house.room.store).work(batch)
    assert (work[a].answered, work[a].skipped, work[a].extra, work[a].changed) == (4, 0, 0, 0)
    assert work[a].gold == [1.0] * right
    assert right > 0
    assert (work[b].answered, work[b].skipped) == (0, 1)
    assert Oversight(house.room.store).work()[a] == work[a]
    assert Oversight(house.room.store).work(house.batch(items=1)) == {}


def test_a_wrong_gold_answer_and_a_changed_one(house):
    a = people(house, 1)[0]
    spec = BatchSpec(name="w", kind="comparison", pass_mark=0.0)
    batch = house.room.batches.open(spec, [question(0).model_copy(update={"gold": FIRST})]).id
    item = say(house, a, batch, SECOND).item
    assert Oversight(house.room.store).work(batch)[a].gold == [0.0]
    own = house.room.desk.held(a, item)
    house.room.desk.submit(a, item, new_id(), Ranked(ranks=own.answer.ranks[::-1]))
    assert Oversight(house.room.store).work(batch)[a].gold == [1.0]


def test_repeats_are_compared_with_the_first_answer(house):
    steady, moody = people(house, 2)
    spec = BatchSpec(name="w", kind="comparison", overlap=2, overlap_share=1.0, gold_share=0.0, repeat_share=0.5)
    batch = house.room.batches.open(spec, [question(i) for i in range(30)]).id  # repeats begin after ten answers
    for who in (steady, moody):
        met = set()
        while hasattr(held := house.room.desk.next(who, batch), "texts"):
            again = held.messages[0].content in met
            met.add(held.messages[0].content)
            say(house, who, batch, SECOND if again and who == moody else FIRST)
    work = Oversight(house.room.store).work(batch)
    assert len(work[steady].repeats) > 0
    assert set(work[steady].repeats) == {1.0}
    assert len(work[moody].repeats) > 0
    assert set(work[moody].repeats) == {0.0}
    assert work[steady].answered == 30


def test_remarks_are_settled_and_comments_discuss(house):
    a, store = people(house, 1)[0], house.room.store
    batch, item, _ = disagreement(house)
    other = house.batch(items=2)
    held = house.room.desk.next(a, other)
    house.room.desk.flag(a, held.id, "two the same")
    house.room.desk.skip(a, held.id, "unclear: what?")
    found = Oversight(store).remarks(other)
    assert [(r.kind, r.text, r.user) for r in found] == [("skip", "unclear: what?", a), ("flag", "two the same", a)]
    assert Oversight(store).remarks(batch) == []
    assert Adjudication(store).settle("lead", found[0].n) == held.id
    assert [r.kind for r in Oversight(store).remarks(other)] == ["flag"]
    assert [r.kind for r in Oversight(store).remarks(other, settled=True)] == ["skip"]
    Adjudication(store).settle("lead", found[0].n, settled=False)
    assert len(Oversight(store).remarks(other)) == 2
    Adjudication(store).comment("lead", item, "  The first keeps to the length.  ")
    assert [(r.kind, r.text) for r in Oversight(store).case(item).remarks] == [
        ("comment", "The first keeps to the length.")
    ]
    assert len(Oversight(store).remarks()) == 2  # a comment is nothing to see to
    for wrong in (
        lambda: Adjudication(store).comment("lead", "x", "y"),
        lambda: Adjudication(store).settle("lead", 999),
    ):
        with pytest.raises(StudioError) as refused:
            wrong()
        assert refused.value.status == 404


def test_labels_days_arms_and_periods(house):
    a, store = people(house, 1)[0], house.room.store
    items = [question(i).model_copy(update={"priority": float(i)}) for i in range(40)]
    batch = house.room.batches.open(
        BatchSpec(name="active", kind="comparison", overlap_share=0.0, random_share=0.5, gold_share=0, repeat_share=0),
        items,
    ).id
    rated = house.room.batches.open(
        BatchSpec(name="stars", kind="rating", overlap_share=0.0, gold_share=0, repeat_share=0),
        [NewItem(prompt=question(1).prompt, completions=question(1).completions[:1])],
    ).id
    saved = [say(house, a, batch, FIRST) for _ in range(10)]
    stars = say(house, a, rated, Rated(score=5))
    assert Oversight(store).labels(batch) == {label for one in saved for label in one.labels}
    assert Oversight(store).labels(rated) == set(stars.labels)
    arms = Oversight(store).arms(batch)
    assert sum(items for items, _ in arms.values()) == 40
    assert sum(finished for _, finished in arms.values()) == 10
    assert arms["active"][0] > 5
    assert sum(Oversight(store).daily(30, batch).values()) == 10
    assert sum(Oversight(store).daily(30).values()) == 11
    assert set(Oversight(store).periods().values()) == {"active"}  # ratings have no agreement on pairs


def test_more_questions_wait_than_a_query_takes_values(house):
    """PostgreSQL takes 65,535 values, SQLite here 32,766 or more: both refuse one more than they take."""
    items = [NewItem(prompt=Prompt.user(f"Question {i}?")) for i in range(10_001)]
    batch = house.room.batches.open(BatchSpec(name="write", kind="demonstration"), items).id
    engine = house.room.store.engine

    @event.listens_for(engine, "connect")
    def limit(connection, _record):
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 10_000)

    engine.dispose()
    assert {prompt for _, prompt, _ in Oversight(house.room.store).waiting(batch)} == {item.prompt for item in items}


def test_texts_are_not_split_over(house):
    a, b = people(house, 2)
    batch = house.room.batches.open(
        BatchSpec(name="write", kind="demonstration", overlap=2, overlap_share=1.0),
        [NewItem(prompt=question(1).prompt)],
    ).id
    for who in (a, b):
        say(house, who, batch, Written(text=f"by {who}"))
    assert Oversight(house.room.store).splits() == []
