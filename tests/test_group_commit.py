"""Many threads, one commit: all is on the disk when they go on, and a fault is one's own."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tutelage.errors import StoreError, StudioError
from tutelage.feedback.group_commit import MOST_TOGETHER, GroupCommit
from tutelage.feedback.store import Store
from tutelage.feedback.tables import prompts

THREADS = 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "a.db") as opened:
        yield opened


def add(writes: GroupCommit, name: str) -> None:
    with writes.write() as connection:
        connection.execute(prompts.insert(), [{"id": name, "split": "train", "body": "{}"}])


def kept(store: Store) -> set[str]:
    """What another connection sees, and so what is committed."""
    with sqlite3.connect(store.engine.url.database or "") as other:
        return {id for (id,) in other.execute("SELECT id FROM prompts")}


def together(job: Callable[[int], None]) -> None:
    """The job in many threads at once."""
    gate = threading.Barrier(THREADS)

    def run(i: int) -> None:
        gate.wait()
        job(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_what_waits_together_is_committed_together_before_anybody_goes_on(store: Store) -> None:
    """Forty writes on a disk that takes 50 ms: two seconds one by one, a few commits together."""
    writes, commits, missing = GroupCommit(store.engine), [], []

    @event.listens_for(store.engine, "commit")
    def slow_disk(_connection: object) -> None:
        commits.append(1)
        time.sleep(0.05)

    def job(i: int) -> None:
        add(writes, str(i))
        if str(i) not in kept(store):
            missing.append(i)

    together(job)
    assert missing == []
    assert len(kept(store)) == THREADS
    assert THREADS / MOST_TOGETHER <= len(commits) < THREADS / 2


def test_a_fault_takes_back_its_own_writes_only(store: Store) -> None:
    writes, refused = GroupCommit(store.engine), []

    def job(i: int) -> None:
        try:
            with writes.write() as connection:
                row = {"id": str(i), "split": "train", "body": "{}"}
                connection.execute(prompts.insert(), [row])
                if i % 3 == 0:
                    raise StudioError("No", 409)
                if i % 3 == 1:
                    connection.execute(prompts.insert(), [row])  # the id is there already: the database's own fault
        except (StudioError, StoreError):
            refused.append(i)

    together(job)
    assert sorted(refused) == [i for i in range(THREADS) if i % 3 != 2]
    assert kept(store) == {str(i) for i in range(THREADS) if i % 3 == 2}


def test_nobody_is_told_of_a_success_that_another_write_took_away(store: Store) -> None:
    """SQLite takes the whole transaction back, savepoints too, when the disk is full in the middle of a statement."""
    writes, come, told, faults = GroupCommit(store.engine), [], set(), {}
    size = "PRAGMA max_page_count={}"

    @event.listens_for(store.engine, "connect")
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(size.format(connection.execute("PRAGMA page_count").fetchone()[0] + 30))

    store.engine.dispose()

    def job(i: int) -> None:
        name = str(i)
        try:
            with writes.write() as connection:
                come.append(name)
                wait_until(lambda: len(come) + writes._waiting == THREADS)  # so that all share what is shared
                body = "x" * 500_000 if len(come) == 5 else "{}"
                connection.execute(prompts.insert(), [{"id": name, "split": "train", "body": body}])
        except StoreError as error:
            faults[name] = str(error)
        else:
            told.add(name)

    together(job)
    assert kept(store) == told
    assert set(faults) in (set(come[:5]), set(come[1:5]))  # the first may have been alone; after the fifth is another
    assert all("make room" in fault for fault in faults.values())


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_nobody_is_told_of_a_success_that_the_disk_refused(store: Store) -> None:
    writes, told, refusing, faults = GroupCommit(store.engine), [], [True], set()

    @event.listens_for(store.engine, "commit")
    def full_disk(_connection: object) -> None:
        if refusing:
            time.sleep(0.02)
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("database or disk is full"))

    def job(i: int) -> None:
        try:
            add(writes, str(i))
        except StoreError as error:
            faults.add("make room" in str(error))
        else:
            told.append(i)

    together(job)
    assert (told, faults) == ([], {True})
    assert kept(store) == set()
    refusing.clear()
    add(writes, "later")
    assert kept(store) == {"later"}
