"""Forced browsing: every door of the studio, tried by everybody who should not get in, and by those who should.

The table is the whole list. A route that is not in it fails the first test, so nobody can add a door without saying
whom it is for.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import studio_api
from studio_api import House

from tutelage.feedback.people import Role

ANYBODY, RATER, LEAD, ADMIN, EXPORTER = "anybody", "rater", "lead", "admin", "exporter"
DOORS: dict[str, str] = {
    "GET /api/openapi.json": ANYBODY,
    "GET /sign-in": ANYBODY,
    "POST /sign-in": ANYBODY,
    "POST /sign-out": ANYBODY,
    "GET /join/{token}": ANYBODY,
    "POST /join/{token}": ANYBODY,
    "POST /language": ANYBODY,
    "GET /": RATER,
    "GET /work/{batch}": RATER,
    "GET /work/worker.js": ANYBODY,
    "GET /work/{batch}/ahead": RATER,
    "POST /work/{batch}/renew": RATER,
    "POST /work/{batch}/give-back": RATER,
    "POST /work/{batch}/item/{item}/undo": RATER,
    "GET /work/{batch}/item/{item}": RATER,
    "POST /work/{batch}/item/{item}": RATER,
    "POST /work/{batch}/item/{item}/skip": RATER,
    "POST /work/{batch}/item/{item}/flag": RATER,
    "POST /work/{batch}/item/{item}/draft": RATER,
    "POST /work/{batch}/item/{item}/renew": RATER,
    "GET /recent": RATER,
    "GET /chat/{batch}": RATER,
    "POST /chat/{batch}/item/{item}/say": RATER,
    "POST /chat/{batch}/item/{item}/choose": RATER,
    "POST /chat/{batch}/item/{item}/end": RATER,
    "GET /tokens": RATER,
    "POST /tokens": RATER,
    "POST /tokens/{token}": RATER,
    "GET /lead": LEAD,
    "GET /lead/samples": LEAD,
    "POST /lead/samples": LEAD,
    "GET /lead/batches": LEAD,
    "GET /lead/batches/new": LEAD,
    "POST /lead/batches/new": LEAD,
    "GET /lead/batches/{batch}": LEAD,
    "POST /lead/batches/{batch}/state": LEAD,
    "POST /lead/batches/{batch}/change": LEAD,
    "POST /lead/remarks/{remark}": LEAD,
    "GET /lead/disagreements": LEAD,
    "GET /lead/disagreements/{item}": LEAD,
    "POST /lead/disagreements/{item}/comment": LEAD,
    "POST /lead/disagreements/{item}": LEAD,
    "GET /lead/people": LEAD,
    "POST /lead/people/invite": LEAD,
    "POST /lead/people/invitations/{invitation}": LEAD,
    "POST /lead/people/{person}": LEAD,
    "POST /lead/people/{person}/sign-out": ADMIN,
    "POST /lead/people/{person}/erase": ADMIN,
    "GET /lead/quality": LEAD,
    "GET /lead/trail": LEAD,
    "GET /lead/guidelines": LEAD,
    "POST /lead/guidelines": LEAD,
    "GET /lead/export": LEAD,
    "POST /lead/backup": ADMIN,
    "GET /api/me": RATER,
    "GET /api/tokens": RATER,
    "POST /api/tokens": RATER,
    "DELETE /api/tokens/{token}": RATER,
    "GET /api/work": RATER,
    "POST /api/work/next": RATER,
    "GET /api/work/recent": RATER,
    "POST /api/work/undo": RATER,
    "GET /api/work/items/{item}": RATER,
    "POST /api/work/items/{item}/answer": RATER,
    "POST /api/work/items/{item}/undo": RATER,
    "POST /api/work/items/{item}/renew": RATER,
    "POST /api/work/items/{item}/skip": RATER,
    "POST /api/work/items/{item}/flag": RATER,
    "PUT /api/work/items/{item}/draft": RATER,
    "GET /api/chat/items/{item}": RATER,
    "POST /api/chat/items/{item}/say": RATER,
    "POST /api/chat/items/{item}/choose": RATER,
    "POST /api/chat/items/{item}/end": RATER,
    "GET /api/guidelines/{guideline}": RATER,
    "PATCH /api/people/{person}": RATER,  # oneself; of others, what `People.change` allows
    "GET /api/batches": LEAD,
    "POST /api/batches": LEAD,
    "GET /api/batches/{batch}": LEAD,
    "PATCH /api/batches/{batch}": LEAD,
    "PUT /api/batches/{batch}/state": LEAD,
    "GET /api/batches/{batch}/progress": LEAD,
    "PUT /api/batches/{batch}/priorities": LEAD,
    "GET /api/guidelines": LEAD,
    "POST /api/guidelines": LEAD,
    "POST /api/prompts": LEAD,
    "GET /api/quality": LEAD,
    "GET /api/disagreements": LEAD,
    "GET /api/disagreements/{item}": LEAD,
    "POST /api/disagreements/{item}/comment": LEAD,
    "POST /api/disagreements/{item}/decision": LEAD,
    "GET /api/remarks": LEAD,
    "PUT /api/remarks/{remark}": LEAD,
    "GET /api/people": LEAD,
    "DELETE /api/people/{person}": ADMIN,
    "DELETE /api/people/{person}/sessions": ADMIN,
    "GET /api/invitations": LEAD,
    "POST /api/invitations": LEAD,
    "DELETE /api/invitations/{invitation}": LEAD,
    "GET /api/audit": LEAD,
    "GET /api/webhooks": LEAD,
    "POST /api/webhooks": LEAD,
    "DELETE /api/webhooks/{webhook}": LEAD,
    "POST /api/webhooks/{webhook}/test": LEAD,
    "GET /api/deliveries": LEAD,
    "POST /api/deliveries/{delivery}/replay": LEAD,
    "GET /api/export": EXPORTER,
}
ENTERS = {  # who gets through which door
    "visitor": {ANYBODY},
    "rater": {ANYBODY, RATER},
    "rater who exports": {ANYBODY, RATER, EXPORTER},
    "lead": {ANYBODY, RATER, LEAD},
    "admin": {ANYBODY, RATER, LEAD, ADMIN},
}
ASKED = {"messages": [{"role": "user", "content": "x"}]}
BODIES: dict[str, Any] = {  # well-formed, so that nothing but the door can refuse
    "POST /api/tokens": {"name": "x", "scopes": ["label"]},
    "POST /api/work/next": {},
    "POST /api/work/undo": {},
    "POST /api/work/items/{item}/answer": {"key": "k" * 32, "answer": {"type": "written", "text": "x"}},
    "POST /api/work/items/{item}/skip": {"text": "x"},
    "POST /api/work/items/{item}/flag": {"text": "x"},
    "PUT /api/work/items/{item}/draft": {"body": "x"},
    "POST /api/chat/items/{item}/say": {"text": "x"},
    "POST /api/chat/items/{item}/choose": {"key": "k" * 32, "number": 1, "ranks": [1, 2]},
    "PATCH /api/people/{person}": {"name": "x"},
    "POST /api/batches": {"spec": {"name": "x", "kind": "chat"}, "items": [{"prompt": ASKED}]},
    "PATCH /api/batches/{batch}": {"name": "x"},
    "PUT /api/batches/{batch}/state": {"state": "paused"},
    "PUT /api/batches/{batch}/priorities": {},
    "POST /api/guidelines": {"title": "x", "text": "x"},
    "POST /api/prompts": {"prompts": [ASKED]},
    "POST /api/disagreements/{item}/comment": {"text": "x"},
    "POST /api/disagreements/{item}/decision": {"answer": {"type": "rated", "score": 1}},
    "PUT /api/remarks/{remark}": {"settled": True},
    "POST /api/invitations": {},
    "POST /api/webhooks": {"url": "https://127.0.0.1/"},
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from studio_api.house(tmp_path_factory.mktemp("house"), api_rate=1e6)


def routes_of(app: Any) -> set[str]:
    """Every method and path that the app answers, static files left out."""
    found = set()

    def walk(routes: Any) -> None:
        for route in routes:
            if "effective_candidates" in dir(route):  # a router that was included
                walk(route.effective_candidates())
            elif "methods" in dir(route):
                found.update(f"{method} {route.path}" for method in route.methods - {"HEAD"})

    walk(app.routes)
    return found


def test_every_door_is_in_the_table(house: House) -> None:
    assert routes_of(house.app) == set(DOORS)
    assert len(DOORS) > 90


def sessions(house: House) -> dict[str, str]:
    """A signed-in browser's cookie for everybody but the visitor."""
    people = {
        "rater": house.person("rater"),
        "rater who exports": house.person("rater", may_export=True),
        "lead": house.person("lead"),
        "admin": house.person("admin"),
    }
    return {who: house.room.entrance.start(caller.user) for who, caller in people.items()}


def knock(house: House, door: str, session: str) -> Any:
    """Try a door, as a browser that has the page's own token; ids in the path are of nothing."""
    method, path = door.split()
    place = re.sub(r"\{\w+\}", "7", path)
    headers = {"origin": "http://studio.test", "x-csrf-token": house.room.csrf.token(session)}
    body = {"json": BODIES[door]} if door in BODIES else {"data": {}} if method == "POST" else {}
    house.client.cookies.clear()
    if session:
        house.client.cookies.set("tutelage_session", session)
    return house.client.request(method, place, headers=headers, **body)


@pytest.mark.parametrize("who", ENTERS)
def test_doors_open_for_whom_they_are_and_nobody_else(house: House, who: str) -> None:
    session = sessions(house).get(who, "")
    for door, needed in DOORS.items():
        if door in ("POST /sign-in", "POST /sign-out", "POST /lead/backup"):
            continue  # 401 is the first one's own answer, the second ends the session, the third has a test below
        answer = knock(house, door, session)
        assert answer.status_code < 500 or answer.status_code == 503, (door, answer.text)
        outside = answer.status_code == 401 or answer.headers.get("location", "").startswith("/sign-in")
        if needed in ENTERS[who]:
            assert not outside, (who, door)
            own = "PATCH /api/people/{person}"  # whose refusal is about whom, not about the door
            assert answer.status_code != 403 or door == own or (who == "visitor" and door.startswith("POST")), (
                who,
                door,
            )
        elif who == "visitor":
            refused = outside or answer.status_code == 403  # an unsafe method needs a page's token first
            assert refused, (who, door, answer.status_code)
        else:
            assert answer.status_code == 403, (who, door, answer.status_code)


@pytest.mark.parametrize("who", ["visitor", "rater", "lead", "admin"])
def test_a_backup_is_for_administrators(house: House, who: str) -> None:
    answer = knock(house, "POST /lead/backup", sessions(house).get(who, ""))
    assert (answer.status_code == 200) == (who == "admin")
    assert ("attachment" in answer.headers.get("content-disposition", "")) == (who == "admin")


@pytest.mark.parametrize("who", ["rater", "rater who exports", "lead", "admin"])
def test_no_unsafe_door_opens_without_the_pages_token(house: House, who: str) -> None:
    """CSRF: a session alone, from a foreign page or without the token, changes nothing, for any role."""
    session = sessions(house)[who]
    for door in DOORS:
        method, path = door.split()
        if method == "GET":
            continue
        place = re.sub(r"\{\w+\}", "7", path)
        token = house.room.csrf.token(session)
        for headers in (
            {"origin": "http://studio.test"},
            {"origin": "http://studio.test", "x-csrf-token": "0" * 64},
            {"origin": "https://evil.test", "x-csrf-token": token},
            {"x-csrf-token": token},  # no origin at all
        ):
            house.client.cookies.clear()
            house.client.cookies.set("tutelage_session", session)
            answer = house.client.request(method, place, headers=headers, json=BODIES.get(door, {}))
            assert answer.status_code == 403, (door, headers)
    assert house.room.entrance.user_of_session(session) is not None


def test_every_answer_has_the_strict_headers(house: House) -> None:
    session = sessions(house)["admin"]
    for door in DOORS:
        if door.startswith("GET"):
            headers = knock(house, door, session).headers
            assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), door
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store", door


@pytest.mark.parametrize("role", ["rater", "lead", "admin"])
def test_a_session_is_fresh_at_sign_in(house: House, role: Role) -> None:
    """Fixation: the session that a browser had before signing in is not the one it has afterwards."""
    invitation, token = house.room.people.invite(next(iter(house.room.people.all())), role)
    login = f"fix.ation.{role}"
    user = house.room.people.join(token, login=login, name="F", password="a long password")
    planted = house.room.entrance.start(user)
    house.client.cookies.clear()
    house.client.cookies.set("tutelage_session", planted)
    headers = {"origin": "http://studio.test", "x-csrf-token": house.room.csrf.token(planted)}
    form = {"login": login, "password": "a long password"}
    answer = house.client.post("/sign-in", data=form, headers=headers)
    fresh = answer.cookies["tutelage_session"]
    assert answer.status_code == 303
    assert fresh != planted
    assert house.room.entrance.user_of_session(planted) is None
    assert house.room.entrance.user_of_session(fresh) is not None
    assert invitation.role == user.role == role
