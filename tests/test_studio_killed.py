"""Promise 3: the server is killed with -9 under load, and nothing that it called saved is lost or doubled."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from studio_api import better_first, enrol, issue, labels_by_answer, question

from tutelage.errors import StudioError
from tutelage.feedback.batches import Batches
from tutelage.feedback.store import Store
from tutelage.feedback.work import BatchSpec, Receipt
from tutelage.records import new_id
from tutelage.studio.client import Studio

SERVER = """
import sys, uvicorn
from tutelage.studio.app import create_app
from tutelage.studio.room import StudioSettings
app = create_app(sys.argv[1], None, StudioSettings(api_rate=1e6))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
"""
RATERS, OVERLAP = 6, 2


class Server:
    """The studio in a process that can be killed, always on the same port."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, str(self.path), str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(6000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, "the server did not start"
            time.sleep(0.05)
        self.kill()
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Rater(threading.Thread):
    """Answers until there is nothing left; what fails is sent again with the same key, as a page does."""

    def __init__(self, url: str, token: str, done: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.token, self.done = url, token, done
        self.saved: list[Receipt] = []
        self.again = 0
        """Answers that were in the store although the reply to the first sending never came."""
        self.broken: list[str] = []

    def run(self) -> None:
        with Studio(self.url, self.token, sleep=lambda _: time.sleep(0.02)) as studio:
            while not self.done.is_set():
                try:
                    item = studio.next()
                    if item is None:
                        return
                except StudioError as error:
                    self.note(error)
                    continue
                key = new_id()
                while not self.done.is_set():
                    try:
                        saved = studio.submit(item, better_first(item.texts), key=key)
                    except StudioError as error:
                        self.note(error)
                        continue
                    self.again += saved.again
                    self.saved.append(saved)
                    break

    def note(self, error: StudioError) -> None:
        if error.status != 503:
            self.broken.append(f"{error.status} {error}")
        time.sleep(0.05)


def killed_under_load(path: Path, items: int, kills: int) -> None:
    with Store(path) as store:
        spec = BatchSpec(
            name="b",
            kind="comparison",
            overlap=OVERLAP,
            overlap_share=1,
            most_answers=OVERLAP,
            gold_share=0,
            repeat_share=0,
        )
        Batches(store).open(spec, [question(i) for i in range(items)])
        tokens = [issue(store, enrol(store, "rater"), ["label"]) for _ in range(RATERS)]
    server, done = Server(path), threading.Event()
    raters = [Rater(f"http://127.0.0.1:{server.port}", token, done) for token in tokens]
    try:
        for rater in raters:
            rater.start()
        for turn in range(1, kills + 1):
            goal = turn * items * OVERLAP // (kills + 1)
            while sum(len(rater.saved) for rater in raters) < goal:
                assert any(rater.is_alive() for rater in raters), "everything was answered before the kill"
                time.sleep(0.005)
            server.kill()
            server.start()
        for rater in raters:
            rater.join(timeout=240)
        assert not any(rater.is_alive() for rater in raters)
    finally:
        done.set()
        server.kill()
    assert [message for rater in raters for message in rater.broken] == []
    with Store(path) as store:
        kept, labels = list(store.comparisons()), labels_by_answer(store)
        answered = Counter(c.prompt.id for c in kept)
        by_whom = Counter((c.prompt.id, c.annotator.id) for c in kept)
    said = Counter(label for rater in raters for saved in rater.saved for label in labels[saved.id])
    assert set(said.values()) == {1}
    assert {c.id for c in kept} == set(said)  # nothing that was saved is lost, nothing is there unasked
    assert len(kept) == items * OVERLAP
    assert set(answered.values()) == {OVERLAP}
    assert set(by_whom.values()) == {1}


def test_promise_3_nothing_saved_is_lost_at_kill_9(tmp_path: Path) -> None:
    killed_under_load(tmp_path / "feedback.db", items=40, kills=1)


@pytest.mark.slow
def test_nothing_saved_is_lost_at_twenty_kills(tmp_path: Path) -> None:
    killed_under_load(tmp_path / "feedback.db", items=600, kills=20)
