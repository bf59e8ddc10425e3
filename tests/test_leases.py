"""Promise 1: raters come, go, sleep, answer late, twice, otherwise; no item is ever held beyond what is wanted of it,
nothing is lost, nothing is doubled. A clock moved by hand; hypothesis looks for short counterexamples, and a long walk
of 10⁵ steps (slow) for rare ones.
"""

import random
import shutil
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select
from test_desk import Clock, item, spec, unsynced

from tutelage.feedback.assignment import Desk
from tutelage.feedback.database import read
from tutelage.feedback.store import Store
from tutelage.feedback.work import Held, Nothing, Ranked
from tutelage.feedback.work_tables import answers, leases, work_items

RATERS = ["ann", "bob", "cem", "dee", "eva", "fay"]
FIRST, SECOND, TIE = Ranked(ranks=(1, 2)), Ranked(ranks=(2, 1)), Ranked(ranks=(1, 1))
SAID = [FIRST, SECOND, TIE]


@cache
def empty() -> bytes:
    """An empty store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        Store(path).close()
        return path.read_bytes()


class Office:
    """A desk with raters, beside it a plain book of what was said: the slow, obvious twin."""

    def __init__(self, folder: Path, items: int, seed: int) -> None:
        self.clock = Clock()
        (folder / "a.db").write_bytes(empty())  # migrating takes longer than forty steps
        self.store = Store(folder / "a.db")
        unsynced(self.store)
        self.desk = Desk(self.store, clock=self.clock, rng=random.Random(seed))
        batch = spec(overlap_share=0.4, overlap=3, most_answers=4, repeat_share=0.1)
        self.desk.open(batch, [item(str(i)) for i in range(items)])
        self.hands: dict[str, list[str]] = {rater: [] for rater in RATERS}
        self.book: dict[tuple[str, str], Ranked] = {}  # what stands
        self.order: dict[str, list[str]] = {rater: [] for rater in RATERS}  # of answering, for undo
        self.skipped: set[tuple[str, str]] = set()
        self.keys = 0

    def ask(self, rater: str, ahead: bool) -> None:
        besides = [i for i in self.hands[rater] if (rater, i) not in self.book][-5:] if ahead else ()
        match self.desk.next(rater, None, besides):
            case Held() as held:
                assert (rater, held.id) not in self.skipped
                assert (rater, held.id) not in self.book, "an answered item came again"
                assert held.id not in besides
                if held.id not in self.hands[rater]:
                    self.hands[rater].append(held.id)
            case Nothing(reason=reason):
                assert reason in ("finished", "leased", "done")

    def answer(self, rater: str, which: int, said: Ranked, times: int) -> None:
        if not self.hands[rater]:
            return
        chosen = self.hands[rater][which % len(self.hands[rater])]
        self.keys += 1
        before = self.book.get((rater, chosen))
        saved = [self.desk.submit(rater, chosen, f"key {self.keys}", said) for _ in range(times)]
        assert len({s.id for s in saved}) == 1
        assert saved[0].again == (before == said)
        self.book[rater, chosen] = said
        self.skipped.discard((rater, chosen))
        if before is None or before != said:
            self.order[rater] = [i for i in self.order[rater] if i != chosen] + [chosen]

    def undo(self, rater: str) -> None:
        undone = self.desk.undo(rater)
        if not self.order[rater]:
            assert undone is None
            return
        last = self.order[rater].pop()
        assert undone is not None
        assert undone.id == last
        del self.book[rater, last]

    def skip(self, rater: str, which: int) -> None:
        waiting = [i for i in self.hands[rater] if (rater, i) not in self.book]
        if waiting:
            chosen = waiting[which % len(waiting)]
            self.desk.skip(rater, chosen, "not for me")
            self.skipped.add((rater, chosen))

    def renew(self, rater: str, which: int) -> None:
        if self.hands[rater]:
            self.desk.renew(rater, self.hands[rater][which % len(self.hands[rater])])

    def check_seats(self) -> None:
        """Answers that stand and leases that run are no more than wanted, whatever the counters say."""
        w = work_items.c
        stand = select(func.count()).where(answers.c.item_id == w.id, answers.c.standing, answers.c.role == "wanted")
        run = select(func.count()).where(
            leases.c.item_id == w.id, leases.c.state == "held", leases.c.until > self.clock.now
        )
        query = select(w.wanted, w.answered, w.open, stand.scalar_subquery(), run.scalar_subquery())
        with read(self.store.engine) as connection:
            for wanted, answered, is_open, standing, running in connection.execute(query.where(w.purpose == "ask")):
                assert standing + running <= wanted <= 4
                assert answered == standing
                assert is_open == (answered < wanted)

    def check_book(self) -> None:
        """Exactly what was said stands, and each answer to a question is one comparison."""
        with read(self.store.engine) as connection:
            a = answers.c
            found = connection.execute(select(a.rater_id, a.item_id).where(a.standing))
            rows = [(rater, i) for rater, i in found]
            asked = connection.execute(select(work_items.c.id).where(work_items.c.purpose == "ask")).scalars().all()
        assert Counter(rows) == Counter(self.book.keys())
        trained = Counter(c.annotator.id for c in self.store.comparisons())
        assert trained == Counter(rater for rater, i in self.book if i in set(asked))
        for (rater, i), said in random.Random(0).sample(sorted(self.book.items()), min(5, len(self.book))):
            assert self.desk.held(rater, i).answer == said


class Leases(RuleBasedStateMachine):
    """Hypothesis plays six raters."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tutelage-leases-"))
        self.office = Office(self.folder, items=4, seed=0)

    def teardown(self) -> None:
        self.office.check_book()
        self.office.store.close()
        shutil.rmtree(self.folder)

    @rule(rater=st.sampled_from(RATERS), ahead=st.booleans())
    def ask(self, rater: str, ahead: bool) -> None:
        self.office.ask(rater, ahead)

    @rule(rater=st.sampled_from(RATERS), which=st.integers(0, 9), said=st.sampled_from(SAID), times=st.integers(1, 3))
    def answer(self, rater: str, which: int, said: Ranked, times: int) -> None:
        self.office.answer(rater, which, said, times)

    @rule(rater=st.sampled_from(RATERS))
    def undo(self, rater: str) -> None:
        self.office.undo(rater)

    @rule(rater=st.sampled_from(RATERS), which=st.integers(0, 9))
    def skip(self, rater: str, which: int) -> None:
        self.office.skip(rater, which)

    @rule(rater=st.sampled_from(RATERS), which=st.integers(0, 9))
    def renew(self, rater: str, which: int) -> None:
        self.office.renew(rater, which)

    @rule(seconds=st.sampled_from([1.0, 500.0, 901.0, 5000.0]))
    def wait(self, seconds: float) -> None:
        self.office.clock.now += seconds

    @invariant()
    def seats(self) -> None:
        self.office.check_seats()


def test_no_item_is_held_beyond_its_overlap() -> None:
    quick = settings(
        max_examples=12, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Leases, settings=quick)


def walk(folder: Path, steps: int, items: int, seed: int) -> Office:
    """So many random steps of six raters, checked as they go."""
    office, rng = Office(folder, items, seed), random.Random(seed)
    for step in range(steps):
        rater = rng.choice(RATERS)
        match rng.choices(["ask", "answer", "undo", "skip", "renew", "wait"], [40, 40, 5, 2, 8, 15])[0]:
            case "ask":
                office.ask(rater, rng.random() < 0.3)
            case "answer":
                newest = -1 - min(int(rng.expovariate(0.7)), 50)
                office.answer(rater, newest, rng.choice(SAID), rng.choice([1, 1, 1, 3]))
            case "undo":
                office.undo(rater)
            case "skip":
                office.skip(rater, rng.randrange(10))
            case "renew":
                office.renew(rater, -1)
            case _:
                office.clock.now += rng.choice([5.0, 60.0, 400.0, 1000.0])
        if step % 50 == 0:
            office.check_seats()
    office.check_seats()
    office.check_book()
    return office


def test_a_walk_of_two_thousand_steps(tmp_path: Path) -> None:
    office = walk(tmp_path, steps=2000, items=80, seed=1)
    with read(office.store.engine) as connection:
        roles = Counter(connection.execute(select(answers.c.role)).scalars())
        states = Counter(connection.execute(select(leases.c.state)).scalars())
    office.store.close()
    assert roles["extra"] > 0, "the walk met late answers"
    assert states["skipped"] > 0
    assert roles["wanted"] > 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_walk_of_a_hundred_thousand_steps(tmp_path: Path, seed: int) -> None:
    """10⁴ steps for each of ten seeds."""
    walk(tmp_path, steps=10_000, items=400, seed=seed).store.close()
