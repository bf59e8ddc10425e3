"""A studio for tests of the API: an app over a database of its own, people with tokens, a batch to work on."""

import json
import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.database import read, write
from tutelage.feedback.people import Role, User, hashed
from tutelage.feedback.people_tables import api_tokens, users
from tutelage.feedback.store import Store
from tutelage.feedback.work import BatchSpec, NewItem, Ranked
from tutelage.feedback.work_tables import answers
from tutelage.records import Completion, Prompt, Source, new_id, now
from tutelage.studio.app import create_app
from tutelage.studio.room import Room, StudioSettings

SCOPES = ("label", "lead", "export", "admin")
MODEL = "secret-model-7b"  # of every completion here: no answer of the studio may hold it


def enrol(store: Store, role: Role, *, may_export: bool = False, name: str = "") -> User:
    """A user, put into the database without the cost of hashing a password that nobody will use."""
    id = f"person-{secrets.token_hex(8)}"
    row = {
        "id": id,
        "login": f"{role}-{id[-6:]}",
        "name": name or role.title(),
        "role": role,
        "may_export": may_export,
        "language": "en",
        "password": "!",
        "active": True,
        "created": now().isoformat(),
    }
    with write(store.engine) as connection:
        connection.execute(users.insert(), [row])
    return User(**{k: v for k, v in row.items() if k != "password"}, hourly_cost=None)


def issue(store: Store, user: User, scopes: Sequence[str] = SCOPES, *, expires: float | None = None) -> str:
    """A token of the user's."""
    secret = secrets.token_urlsafe(32)
    row = {
        "id": new_id(),
        "hash": hashed(secret),
        "user_id": user.id,
        "name": "test",
        "scopes": json.dumps(list(scopes)),
        "created": now().isoformat(),
        "expires": expires or time.time() + 3600,
        "revoked": False,
    }
    with write(store.engine) as connection:
        connection.execute(api_tokens.insert(), [row])
    return secret


def labels_by_answer(store: Store) -> dict[str, list[str]]:
    """Which records each answer became, by its id: what raters are not told."""
    with read(store.engine) as connection:
        return {id: json.loads(labels) for id, labels in connection.execute(select(answers.c.id, answers.c.labels))}


def question(i: int, k: int = 2, text: str = "Answer {place} to {i}") -> NewItem:
    """A question whose completions can be told apart by their texts alone."""
    texts = [text.replace("{place}", str(place)).replace("{i}", str(i)) for place in range(k)]
    return NewItem(
        prompt=Prompt.user(f"Question {i}?"),
        completions=tuple(Completion(text=text, source=Source(model=MODEL)) for text in texts),
    )


def better_first(texts: Sequence[str]) -> Ranked:
    """The rater who likes what comes first in the alphabet."""
    order = sorted(texts)
    return Ranked(ranks=tuple(order.index(text) + 1 for text in texts))


@dataclass
class Caller:
    """One user's calls."""

    client: TestClient
    user: User
    token: str

    def __call__(self, method: str, path: str, **options: Any) -> Any:
        headers = {"authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return self.client.request(method, f"/api{path}", headers=headers, **options)


class House:
    """An app, its room, and people in it; what is drawn (gold, repeats, orders, overlap) is drawn from one seed."""

    def __init__(self, folder: Path, url: str | None = None, **settings: Any) -> None:
        self.app: FastAPI = create_app(url or str(folder / "feedback.db"), None, StudioSettings(**settings))
        room, rng = self.app.state.room, random.Random(0)
        self.room: Room = replace(room, desk=Desk(room.store, rng=rng), batches=Batches(room.store, rng=rng))
        self.app.state.room = self.room
        self.client = TestClient(self.app, base_url="http://studio.test", follow_redirects=False)
        enrol(self.room.store, "admin", may_export=True, name="Chief")

    def person(self, role: Role = "rater", *, may_export: bool = False, scopes: Sequence[str] = SCOPES) -> Caller:
        user = enrol(self.room.store, role, may_export=may_export)
        return Caller(self.client, user, issue(self.room.store, user, scopes))

    def batch(self, items: int = 3, k: int = 2, **spec: Any) -> str:
        kind = spec.pop("kind", "comparison" if k == 2 else "ranking")
        plain = {"overlap": 1, "gold_share": 0.0, "repeat_share": 0.0} | spec
        made = self.room.batches.open(
            BatchSpec(name="films", kind=kind, **plain), [question(i, k) for i in range(items)]
        )
        return made.id


@contextmanager
def served(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The app on a port of this machine, in a thread; its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def house(folder: Path, **settings: Any) -> Iterator[House]:
    """A house for a fixture: `yield from house(tmp_path)`."""
    made = House(folder, **settings)
    yield made
    made.room.store.close()
