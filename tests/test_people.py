"""Users, invitations, sessions, tokens, back-off, the trail, and how a person is erased. A clock moved by hand."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from argon2 import PasswordHasher
from test_desk import Clock, answer, given, item, spec, text, unsynced, why_not

from tutelage.errors import StudioError
from tutelage.feedback import audit
from tutelage.feedback import people as people_module
from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.conversation import Conversation, Conversations
from tutelage.feedback.database import read
from tutelage.feedback.entrance import Entrance
from tutelage.feedback.erasure import Fed, erase
from tutelage.feedback.people import DAY, HASHER, People, User, hash_password
from tutelage.feedback.store import Store
from tutelage.feedback.work import NewItem, Ranked, Written
from tutelage.folder import Core
from tutelage.records import Message, Prompt, new_id
from tutelage.runs import Run

PASSWORD = "a long enough one"


class Talk(NamedTuple):
    """A batch of one conversation; `say` has a person say something and returns how they choose a reply."""

    say: Callable[[str, str], Callable[[], Conversation]]
    desk: Desk
    talks: Conversations
    batch: str


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same argon2id with little memory: what it costs to guess is not what is tested here."""
    monkeypatch.setattr(people_module, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "a.db") as opened:
        unsynced(opened)
        yield opened


@pytest.fixture
def people(store: Store, clock: Clock) -> People:
    return People(store, clock=clock)


@pytest.fixture
def entrance(store: Store, clock: Clock) -> Entrance:
    return Entrance(store, clock=clock)


@pytest.fixture
def admin(people: People) -> User:
    token = people.first_invitation()
    assert token is not None
    return people.join(token, login="chief", name="Chief", password=PASSWORD)


def rater(people: People, admin: User, login: str = "ann") -> User:
    _, token = people.invite(admin, "rater", note=f"for {login}")
    return people.join(token, login=login, name=login.title(), password=PASSWORD)


def refused(status: int, call: Any, *args: Any, **more: Any) -> StudioError:
    with pytest.raises(StudioError) as caught:
        call(*args, **more)
    assert caught.value.status == status, caught.value
    return caught.value


# ---- ways in


def test_the_first_administrator_comes_by_a_token_of_the_console(people: People) -> None:
    first, second = people.first_invitation(), people.first_invitation()
    assert first is not None
    assert second is not None
    refused(404, people.invited, first)  # a new start makes the token before void
    user = people.join(second, login="Chief ", name="Chief", password=PASSWORD)
    assert (user.login, user.role, user.may_export) == ("chief", "admin", True)
    assert people.first_invitation() is None
    refused(404, people.join, second, login="other", name="Other", password=PASSWORD)
    assert [u.login for u in people.all()] == ["chief"]


def test_an_invitation_is_used_once_even_by_many_at_once(people: People, admin: User) -> None:
    _, token = people.invite(admin, "rater")

    def join(i: int) -> int:
        try:
            people.join(token, login=f"user{i}", name="x", password=PASSWORD)
        except StudioError as error:
            return error.status
        return 200

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(join, range(4)))
    assert statuses == [200, 404, 404, 404]


def test_an_invitation_ends(people: People, admin: User, clock: Clock) -> None:
    made, token = people.invite(admin, "rater", days=2.0)
    clock.now += 2 * DAY
    refused(404, people.invited, token)
    made, token = people.invite(admin, "rater")
    people.revoke(admin, made.id)
    refused(404, people.invited, token)
    refused(404, people.invited, "")


def test_passwords_are_hashed_with_argon2id() -> None:
    assert hash_password(PASSWORD) != hash_password(PASSWORD)
    assert hash_password(PASSWORD).startswith("$argon2id$")
    assert (HASHER.memory_cost, HASHER.time_cost) == (47_104, 2)


def test_only_a_hash_of_what_lets_in_is_kept(people: People, admin: User, entrance: Entrance, tmp_path: Path) -> None:
    _, token = people.invite(admin, "rater")
    _, session = entrance.sign_in("chief", PASSWORD, address="a")
    _, secret = entrance.issue_token(admin, "script", ["label"])
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for known in (token, session, secret, PASSWORD):
        assert known.encode() not in kept


@pytest.mark.parametrize(
    ("login", "name", "password"),
    [("a", "x", PASSWORD), ("a b", "x", PASSWORD), ("ann", "", PASSWORD), ("ann", "x", "too short")],
)
def test_a_malformed_account_uses_up_nothing(people: People, admin: User, login: str, name: str, password: str) -> None:
    _, token = people.invite(admin, "rater")
    refused(422, people.join, token, login=login, name=name, password=password)
    refused(409, people.join, token, login="CHIEF", name="x", password=PASSWORD)
    assert people.invited(token).used_by is None


# ---- who may do what


def test_leads_invite_raters_only(people: People, admin: User) -> None:
    _, token = people.invite(admin, "lead")
    lead = people.join(token, login="lead", name="Lead", password=PASSWORD)
    ann = rater(people, lead)
    for role, export in [("lead", False), ("admin", False), ("rater", True)]:
        refused(403, people.invite, lead, role, may_export=export)
    refused(403, people.invite, ann, "rater")
    refused(422, people.invite, admin, "owner")
    people.change(lead, ann.id, hourly_cost=18.0)
    for changes in ({"role": "lead"}, {"may_export": True}, {"name": "else"}):
        refused(403, people.change, lead, ann.id, **changes)
    refused(403, people.change, ann, ann.id, may_export=True)
    refused(403, people.change, ann, lead.id, name="else")
    refused(403, people.change, lead, admin.id, active=False)
    assert people.change(ann, ann.id, name="Anna", language="zh_CN").language == "zh_CN"


def test_an_administrator_is_always_left(people: People, admin: User) -> None:
    for changes in ({"role": "lead"}, {"active": False}):
        refused(409, people.change, admin, admin.id, **changes)
    assert people.find(admin.id) == admin
    _, token = people.invite(admin, "admin")
    people.join(token, login="second", name="Second", password=PASSWORD)
    assert people.change(admin, admin.id, role="lead").role == "lead"


# ---- sessions


def test_a_session_is_new_at_every_sign_in(people: People, admin: User, entrance: Entrance) -> None:
    _, first = entrance.sign_in("chief", PASSWORD, address="a")
    _, second = entrance.sign_in("chief", PASSWORD, address="a", old=first)
    assert first != second
    assert entrance.user_of_session(first) is None, "the browser's session before is gone"
    assert entrance.user_of_session(second) == admin
    assert entrance.user_of_session("chosen by an attacker") is None
    _, fixed = entrance.sign_in("chief", PASSWORD, address="a", old="chosen by an attacker")
    assert fixed != "chosen by an attacker"
    assert entrance.user_of_session("chosen by an attacker") is None


def test_a_session_ends(people: People, admin: User, entrance: Entrance, clock: Clock, store: Store) -> None:
    def signed_in() -> str:
        return entrance.sign_in("chief", PASSWORD, address="a")[1]

    token = signed_in()
    for _ in range(6):
        clock.now += 2.2 * DAY
        assert entrance.user_of_session(token) == admin, "in use"
    clock.now += 1.0 * DAY
    assert entrance.user_of_session(token) is None, "fourteen days"
    token = signed_in()
    clock.now += 3.1 * DAY
    assert entrance.user_of_session(token) is None, "three idle days"
    token, other = signed_in(), signed_in()
    entrance.end(token)
    assert (entrance.user_of_session(token), entrance.user_of_session(other)) == (None, admin)
    assert entrance.revoke_sessions(admin, admin.id) == 1
    assert entrance.user_of_session(other) is None
    token = signed_in()
    people.change_password(admin.id, "another long one")
    assert entrance.user_of_session(token) is None
    refused(401, entrance.sign_in, "chief", PASSWORD, address="a")


def test_who_is_inactive_is_out_at_once(people: People, admin: User, entrance: Entrance) -> None:
    ann = rater(people, admin)
    _, session = entrance.sign_in("ann", PASSWORD, address="a")
    _, secret = entrance.issue_token(ann, "script", ["label"])
    people.change(admin, ann.id, active=False)
    assert entrance.user_of_session(session) is None
    assert entrance.user_of_token(secret) is None
    refused(401, entrance.sign_in, "ann", PASSWORD, address="a")


def test_tokens_expire_and_are_revoked(people: People, admin: User, entrance: Entrance, clock: Clock) -> None:
    ann = rater(people, admin)
    token, secret = entrance.issue_token(ann, "script", ["label"], days=1.0)
    found = entrance.user_of_token(secret)
    assert found is not None
    assert (found[0].id, found[1].scopes) == (ann.id, ("label",))
    refused(404, entrance.revoke_token, rater(people, admin, "bob"), token.id)
    clock.now += DAY
    assert entrance.user_of_token(secret) is None
    token, secret = entrance.issue_token(ann, "script", ["label"])
    entrance.revoke_token(ann, token.id)
    assert entrance.user_of_token(secret) is None
    assert entrance.tokens(ann.id) != [token]


# ---- back-off


def test_failed_sign_ins_wait_longer_and_longer(people: People, admin: User, entrance: Entrance, clock: Clock) -> None:
    for _ in range(5):
        refused(401, entrance.sign_in, "chief", "wrong password", address="a")
    waits = []
    for _ in range(12):
        error = refused(429, entrance.sign_in, "chief", PASSWORD, address="a")  # the right one waits too
        assert error.retry_after is not None
        waits.append(round(error.retry_after))
        clock.now += error.retry_after
        refused(401, entrance.sign_in, "chief", "wrong password", address="a")
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert max(waits) == 900
    clock.now += 900
    assert entrance.sign_in("chief", PASSWORD, address="a")[0] == admin
    refused(401, entrance.sign_in, "chief", "wrong password", address="a")  # success has cleared the count


def test_a_hundred_tries_at_once_are_counted(people: People, admin: User, entrance: Entrance) -> None:
    def sign_in(_: int) -> int:
        with pytest.raises(StudioError) as caught:
            entrance.sign_in("chief", "wrong password", address="a")
        return caught.value.status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(sign_in, range(30)))
    assert statuses.count(401) == 5
    assert statuses.count(429) == 25


def test_tries_at_every_process_are_counted_together(
    admin: User, entrance: Entrance, store: Store, clock: Clock
) -> None:
    """The count is in the database: five workers do not make five times as many tries."""
    with Store(store.engine.url.database or "") as another:
        workers = [entrance, Entrance(another, clock=clock)]
        for i in range(5):
            refused(401, workers[i % 2].sign_in, "chief", "wrong password", address="a")
        for worker in workers:
            refused(429, worker.sign_in, "chief", PASSWORD, address="a")


def test_one_login_from_many_addresses_waits_too(people: People, admin: User, entrance: Entrance) -> None:
    for i in range(20):
        refused(401, entrance.sign_in, "chief", "wrong password", address=f"address {i}")
    refused(429, entrance.sign_in, "chief", "wrong password", address="another")
    refused(401, entrance.sign_in, "nobody", "wrong password", address="another")


# ---- the trail


def test_the_trail_says_who_did_what(people: People, admin: User, entrance: Entrance, store: Store) -> None:
    ann = rater(people, admin)
    entrance.sign_in("ann", PASSWORD, address="192.0.2.1")
    refused(401, entrance.sign_in, "ann", "wrong password", address="192.0.2.1")
    audit.note(store, admin.id, "export", "comparisons", rows=3)
    told = [(e.user, e.action) for e in audit.entries(store)]
    assert told[:5] == [
        (admin.id, "export"),
        (ann.id, "sign-in-failed"),
        (ann.id, "sign-in"),
        (ann.id, "join"),
        (admin.id, "invite"),
    ]
    assert audit.entries(store, actions=["export"])[0].detail == {"rows": 3}
    assert [e.action for e in audit.entries(store, before=audit.entries(store)[0].n, limit=1)] == ["sign-in-failed"]


# ---- erasing


@pytest.fixture
def worked(people: People, admin: User, store: Store, clock: Clock, tmp_path: Path) -> tuple[User, Desk, Path]:
    """A rater who has compared and edited, and a run that learned from it."""
    ann, desk = rater(people, admin), Desk(store, clock=clock)
    desk.open(spec(), [item("a"), item("b")])
    answer(desk, ann.id, given(desk, ann.id), (1, 2))
    edits = desk.open(spec("edit"), [item("c", 1)])
    held = given(desk, ann.id, edits.id)
    desk.submit(ann.id, held.id, "k", Written(text="my own private words"))
    desk.flag(ann.id, held.id, "my private remark")
    run = Run.start(tmp_path / "runs", "reward", Core())
    run.record({"comparisons": {"annotators": [{"id": ann.id, "name": ann.id, "kind": "human", "labels": 2}]}})
    run.finish("done")
    return ann, desk, tmp_path / "runs"


def everything(store: Store) -> str:
    """Every row of every table, as text."""
    with read(store.engine) as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        rows = [tuple(row) for t in tables for row in connection.exec_driver_sql(f"SELECT * FROM {t}")]
    return json.dumps(rows, default=str)


def test_erased_labels_stay_under_the_pseudonym(
    worked: tuple[User, Desk, Path], admin: User, store: Store, people: People, entrance: Entrance
) -> None:
    ann, _, runs = worked
    entrance.sign_in("ann", PASSWORD, address="192.0.2.1")
    told = erase(store, admin, ann.id, keep_labels=True, runs=runs)
    assert (told.labels, told.removed) == (3, False)
    assert told.runs == (Fed(next(runs.iterdir()).name, 2),)
    assert store.count("comparisons") == 2
    left = everything(store)
    for private in ('"ann"', '"Ann"', "for ann", "192.0.2.1"):
        assert private not in left
    refused(401, entrance.sign_in, "ann", PASSWORD, address="b")
    assert people.find(ann.id).name == ann.id
    assert people.find(ann.id).active is False


def test_erased_labels_may_go_too(worked: tuple[User, Desk, Path], admin: User, store: Store) -> None:
    ann, desk, runs = worked
    told = erase(store, admin, ann.id, keep_labels=False, runs=runs)
    assert (told.labels, told.removed) == (3, True)
    assert store.count("comparisons") == store.count("demonstrations") == 0
    left = everything(store)
    for private in ("my own private words", "my private remark", '"ann"', '"Ann"'):
        assert private not in left
    assert len(store.comparisons_at([1, 2])) == 2, "the rows stay, so that a run in progress can go on"
    for _ in range(3):
        held = given(desk, "person-2")
        said = Ranked(ranks=(1, 2)) if len(held.texts) == 2 else Written(text="x")
        desk.submit("person-2", held.id, held.id, said)
    assert why_not(desk, "person-2").reason == "finished"


@pytest.fixture
def talk(store: Store, clock: Clock) -> Talk:
    """A conversation that two people are wanted for, and how one of them says something in it."""
    start = Prompt(messages=(Message(role="user", content="Hi"), Message(role="assistant", content="Well?")))
    desk, talks = Desk(store, clock=clock), Conversations(store, clock=clock)
    batch = desk.open(spec("chat", overlap=2, overlap_share=1.0), [NewItem(prompt=start)])

    def say(person: str, words: str) -> Callable[[], Conversation]:
        item = given(desk, person, batch.id).id
        here = talks.offer(person, item, talks.of(person, item).asking(words), (text("a"), text("b")))
        return lambda: talks.choose(person, item, here.number, key=new_id(), ranks=(1, 2), seconds=None)

    return Talk(say, desk, talks, batch.id)


def test_erasing_leaves_what_others_have_said_too(talk: Talk, people: People, admin: User, store: Store) -> None:
    ann, ben = rater(people, admin), rater(people, admin, "ben")
    for person in (ann.id, ben.id):
        talk.say(person, "Good evening")()
    talk.say(ann.id, "my own private words")()
    erase(store, admin, ann.id, keep_labels=False)
    [label] = store.comparisons()
    assert (label.annotator.id, label.prompt.messages[-1].content) == (ben.id, "Good evening")
    assert [prompt.id for prompt in store.prompts(label.prompt.split)].count(label.prompt.id) == 1
    assert "my own private words" not in everything(store)
    erase(store, admin, ben.id, keep_labels=False)
    assert "Good evening" not in everything(store)  # nobody is left who said it


def test_what_was_erased_may_be_said_again(talk: Talk, people: People, admin: User, store: Store) -> None:
    """Ben's replies are there when Ann, who said the same, is erased; his choice is a label about what he said."""
    ann, ben = rater(people, admin), rater(people, admin, "ben")
    talk.say(ann.id, "Good evening")()
    choose = talk.say(ben.id, "Good evening")
    erase(store, admin, ann.id, keep_labels=False)
    choose()
    [label] = store.comparisons()
    assert label.prompt.messages[-1].content == "Good evening"
    assert label.prompt in store.prompts(label.prompt.split)


def test_an_erased_conversation_gives_its_seat_back(talk: Talk, people: People, admin: User, store: Store) -> None:
    desk, ann, ben = talk.desk, rater(people, admin), rater(people, admin, "ben")
    for person in (ann.id, ben.id):
        item = given(desk, person, talk.batch).id
        talk.say(person, "Good evening")()
        talk.talks.close(person, item)
    assert why_not(desk, "person-3", talk.batch).reason == "finished"
    erase(store, admin, ann.id, keep_labels=False)
    assert Batches(store).progress(talk.batch).answered == 1
    assert given(desk, "person-3", talk.batch).id == item
    assert why_not(desk, "person-4", talk.batch).reason == "leased"  # one seat, no more


def test_erasing_is_for_administrators_and_others(worked: tuple[User, Desk, Path], admin: User, store: Store) -> None:
    ann, _, _ = worked
    refused(403, erase, store, ann, admin.id, keep_labels=True)
    refused(409, erase, store, admin, admin.id, keep_labels=True)
    refused(404, erase, store, admin, "person-none", keep_labels=True)
    assert everything(store).count('"Ann"') == 1
