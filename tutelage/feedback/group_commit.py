"""Several writes, one commit.

A commit is over when the disk has it, which takes milliseconds, and a database has one writer. So the threads that come
while another waits for the disk share the next transaction: each writes in its turn, in a savepoint of its own, and all
wait for the one commit. An exception takes back what its own thread wrote, nothing else. Where that cannot be done, as
when SQLite takes a whole transaction back because the disk is full, all who share it are told that theirs failed.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from tutelage.errors import StoreError
from tutelage.feedback.database import explained, write

MOST_TOGETHER = 32  # writes in one transaction


class GroupCommit:
    """The one way to write for all threads that share it; other writers of the database are waited for as ever."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()  # of who writes, or commits
        self._counting = threading.Lock()
        self._waiting = 0  # threads that will ask for the turn
        self._group: _Group | None = None  # the open transaction; whoever leaves nobody behind commits it

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Write alone; when this is left without an exception, what was written is on the disk.

        Raises StoreError where the database cannot be written: then nothing of it is.
        """
        with self._counting:
            self._waiting += 1
        with self._turn:
            with self._counting:
                self._waiting -= 1
            if self._group is None and not self._waiting:  # nobody to share with
                with write(self._engine) as connection:
                    yield connection
                return
            group = self._group = self._group or _Group(self._engine)
            try:
                with group.part() as connection:
                    yield connection
            finally:
                group.size += 1
                if not group.sound or not self._waiting or group.size >= MOST_TOGETHER:
                    self._group = None
                    group.end()
        group.wait()


class _Group:
    """One transaction of several threads."""

    def __init__(self, engine: Engine) -> None:
        self._open = ExitStack()
        self._connection = self._open.enter_context(write(engine))
        self.size = 0
        self.sound = True
        """Whether it still holds what those before have written, and nothing else."""
        self._over, self._saved, self._fault = threading.Event(), False, ""

    @contextmanager
    def part(self) -> Iterator[Connection]:
        """One thread's writes, in a savepoint."""
        self.sound = False
        try:
            with explained(self._connection.engine.url):
                savepoint = self._connection.begin_nested()
                try:
                    yield self._connection
                except BaseException:
                    with suppress(SQLAlchemyError):  # what failed first is what is told
                        savepoint.rollback()  # fails where the database has ended the transaction by itself
                        self.sound = not self._connection.invalidated
                    raise
                savepoint.commit()
        except StoreError as error:
            self._fault = "" if self.sound else str(error)
            raise
        self.sound = True

    def end(self) -> None:
        """Commit what all have written; take it back where the group is not sound."""
        try:
            with self._open:
                if not self.sound:
                    self._connection.rollback()
            self._saved = self.sound
        except (StoreError, SQLAlchemyError) as error:  # each thread raises it for itself
            self._fault = str(error)
        finally:
            self._over.set()

    def wait(self) -> None:
        self._over.wait()
        if not self._saved:
            raise StoreError(
                self._fault or "The studio was stopped or another write failed before the disk had this: send it again"
            )
