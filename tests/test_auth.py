"""Signing in through the pages, and what an attacker would try at the door."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from fastapi.testclient import TestClient
from studio_api import enrol, issue

from tutelage.feedback import people as people_module
from tutelage.studio.app import create_app
from tutelage.studio.room import Room, StudioSettings
from tutelage.studio.security import LARGE_BODY, SMALL_BODY, CSRFKey

PASSWORD = "a long enough one"
HERE = "http://studio.test"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_module, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


class Browser:
    """A browser that keeps cookies, and sends an Origin and the token of the page it looks at."""

    def __init__(self, room: Room, base: str = HERE) -> None:
        self.client = TestClient(ROOMS[id(room)], base_url=base, follow_redirects=False)
        self.base = base

    def csrf(self, page: str = "/sign-in") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.client.get(page).text)
        assert found is not None
        return found[1]

    def post(self, path: str, csrf: str | None = None, *, origin: str | None = None, **fields: str):
        headers = {"origin": origin or self.base}
        token = self.csrf() if csrf is None else csrf
        return self.client.post(path, data={"csrf": token, **fields}, headers=headers)

    def sign_in(self, login: str = "chief", password: str = PASSWORD, next: str = "/"):
        return self.post("/sign-in", login=login, password=password, next=next)

    @property
    def session(self) -> str | None:
        return self.client.cookies.get("tutelage_session")


ROOMS: dict[int, object] = {}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    yield from opened(tmp_path, StudioSettings())


def opened(folder: Path, settings: StudioSettings) -> Iterator[Room]:
    app = create_app(str(folder / "a.db"), None, settings)
    made: Room = app.state.room
    ROOMS[id(made)] = app
    token = made.people.first_invitation()
    assert token is not None
    made.people.join(token, login="chief", name="Chief", password=PASSWORD)
    yield made
    made.store.close()


@pytest.fixture
def browser(room: Room) -> Browser:
    return Browser(room)


def test_an_invited_person_joins_and_works(room: Room, browser: Browser) -> None:
    chief = room.people.all()[0]
    _, token = room.people.invite(chief, "rater")
    page = browser.client.get(f"/join/{token}")
    assert page.status_code == 200
    short = browser.post(f"/join/{token}", browser.csrf(f"/join/{token}"), login="ann", name="Ann", password="short")
    assert short.status_code == 422
    assert "10 characters or more" in short.text
    joined = browser.post(f"/join/{token}", browser.csrf(f"/join/{token}"), login="ann", name="Ann", password=PASSWORD)
    assert (joined.status_code, joined.headers["location"]) == (303, "/")
    assert browser.client.get("/").status_code == 200
    assert Browser(room).client.get(f"/join/{token}").status_code == 404, "an invitation works once"
    assert browser.post("/sign-out", csrf_of(browser)).headers["location"] == "/sign-in"
    assert browser.client.get("/").headers["location"] == "/sign-in?next=/"


def csrf_of(browser: Browser) -> str:
    found = re.search(r'name="csrf-token" content="([0-9a-f]{64})"', browser.client.get("/").text)
    assert found is not None
    return found[1]


def test_a_session_that_was_planted_is_not_signed_in(room: Room, browser: Browser) -> None:
    planted = "planted-by-an-attacker"
    browser.client.cookies.set("tutelage_session", planted, domain="studio.test", path="/")
    browser.sign_in()
    assert browser.session not in (planted, None)
    other = Browser(room)
    other.client.cookies.set("tutelage_session", planted)
    assert other.client.get("/").status_code == 303


def test_the_session_changes_and_with_it_the_pages_token(room: Room, browser: Browser) -> None:
    before = browser.csrf()
    browser.sign_in()
    first, after = browser.session, csrf_of(browser)
    assert before != after
    refused = browser.post("/sign-out", before)
    assert refused.status_code == 403
    assert "reload" in refused.text
    assert browser.client.get("/").status_code == 200, "still signed in"
    second = Browser(room)
    second.sign_in()
    assert second.session != first


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(room: Room, browser: Browser) -> None:
    cookie = browser.sign_in().headers["set-cookie"]
    assert cookie.startswith("tutelage_session=")
    for part in ("HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={14 * 86_400}"):
        assert part in cookie


def test_behind_tls_the_cookie_is_bound_to_the_host(tmp_path: Path) -> None:
    for room in opened(tmp_path, StudioSettings(url="https://studio.test/")):
        browser = Browser(room, "https://studio.test")
        answer = browser.sign_in()
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-tutelage_session=")
        assert "Secure" in cookie
        assert "max-age=" in answer.headers["strict-transport-security"]
        assert browser.client.get("/").status_code == 200
        plain = Browser(room, "http://studio.test")
        plain.client.cookies.set("tutelage_session", browser.client.cookies["__Host-tutelage_session"])
        assert plain.client.get("/").status_code == 303, "a cookie without the prefix is none"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"origin": "http://studio.test.evil.test"},
        {"origin": "https://studio.test"},
        {"referer": "https://evil.test/studio.test"},
        {},
    ],
)
def test_a_form_of_another_site_is_refused(room: Room, browser: Browser, headers: dict[str, str]) -> None:
    browser.sign_in()
    token = csrf_of(browser)
    assert browser.client.post("/sign-out", data={"csrf": token}, headers=headers).status_code == 403
    assert browser.client.get("/").status_code == 200
    ours = {"referer": f"{HERE}/recent"}
    assert browser.client.post("/sign-out", data={"csrf": token}, headers=ours).status_code == 303


@pytest.mark.parametrize("token", ["", "0" * 64, "é", None])
def test_a_form_without_the_pages_token_is_refused(room: Room, browser: Browser, token: str | None) -> None:
    browser.sign_in()
    fields = {} if token is None else {"csrf": token}
    assert browser.client.post("/sign-out", data=fields, headers={"origin": HERE}).status_code == 403
    somebody_elses = Browser(room).csrf()
    assert browser.post("/sign-out", somebody_elses).status_code == 403
    sent = {"origin": HERE, "x-csrf-token": csrf_of(browser)}
    assert browser.client.post("/sign-out", headers=sent).status_code == 303


def test_a_bearer_header_does_not_carry_a_cookies_session(room: Room, browser: Browser) -> None:
    browser.sign_in()
    for path in ("/", "/recent"):
        answer = browser.client.get(path, headers={"authorization": "Bearer x"})
        assert answer.status_code == 303
    answer = browser.client.post("/sign-out", headers={"authorization": "Bearer x", "origin": "https://evil.test"})
    assert browser.client.get("/").status_code == 200, "it ended nobody's session"


@pytest.mark.parametrize(
    "place", ["//evil.test", "https://evil.test", "/\\evil.test", "javascript:alert(1)", "evil.test", "/\r\nx: y", ""]
)
def test_sign_in_leads_to_no_other_site(room: Room, browser: Browser, place: str) -> None:
    assert browser.sign_in(next=place).headers["location"] == "/"
    assert browser.client.get("/sign-in", params={"next": place}).headers["location"] == "/"


def test_sign_in_goes_on_where_it_was_asked_for(room: Room, browser: Browser) -> None:
    asked = browser.client.get("/recent")
    assert asked.headers["location"] == "/sign-in?next=/recent"
    assert browser.sign_in(next="/recent").headers["location"] == "/recent"


def test_a_wrong_name_and_a_wrong_password_look_alike(room: Room, browser: Browser) -> None:
    wrong = [browser.sign_in("chief", "not the password"), browser.sign_in("nobody", "not the password")]
    assert [answer.status_code for answer in wrong] == [401, 401]
    told = [re.sub(r'value="[^"]*"', "", answer.text) for answer in wrong]
    assert told[0] == told[1]
    assert browser.session is None


def test_too_many_tries_are_told_to_wait(room: Room, browser: Browser) -> None:
    answers = [browser.sign_in("chief", "not the password") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert "wait" in answers[-1].text


def test_a_body_is_bounded(room: Room, browser: Browser) -> None:
    large = {"csrf": browser.csrf(), "login": "x" * SMALL_BODY}
    assert browser.client.post("/sign-in", data=large, headers={"origin": HERE}).status_code == 413
    browser.sign_in()
    many = {"csrf": csrf_of(browser), "language": "en"} | {f"x{i}": "x" * 10**6 for i in range(5)}
    known = browser.client.post("/language", data=many, headers={"origin": HERE})
    assert known.status_code == 303, "who leads may send more"
    told = {"origin": HERE, "content-length": str(LARGE_BODY + 1)}
    assert browser.client.post("/language", content=b"", headers=told).status_code == 413


def test_a_rater_sends_no_more_than_anybody(room: Room, browser: Browser) -> None:
    """By their session or by a token; a lead's token sends much where it may lead."""
    rater, lead = enrol(room.store, "rater"), enrol(room.store, "lead")
    much = {"origin": HERE, "content-length": str(SMALL_BODY + 1)}
    for user, status in ((rater, 413), (lead, 403)):  # 403: it goes on to where the page's token is missing
        browser.client.cookies.set("tutelage_session", room.entrance.start(user))
        assert browser.client.post("/language", content=b"", headers=much).status_code == status
    browser.client.cookies.clear()
    for user, scopes, status in ((rater, ["label"], 413), (lead, ["label"], 413), (lead, ["lead"], 422)):
        headers = much | {"authorization": f"Bearer {issue(room.store, user, scopes)}"}
        assert browser.client.post("/api/prompts", content=b"", headers=headers).status_code == status, (user, scopes)


def test_a_page_that_is_not_there_says_so(room: Room, browser: Browser) -> None:
    browser.sign_in()
    answer = browser.client.get("/no-such-page")
    assert answer.status_code == 404
    assert "<h1>" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")


def test_the_language_is_chosen_and_kept(room: Room, browser: Browser) -> None:
    assert '<html lang="en"' in browser.client.get("/sign-in").text
    chinese = browser.client.get("/sign-in", headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert re.search(r'<html lang="zh[-_]', chinese.text)
    browser.post("/language", language="zh_CN", next="/sign-in")
    assert re.search(r'<html lang="zh[-_]', browser.client.get("/sign-in").text)
    browser.sign_in()
    browser.post("/language", csrf_of(browser), language="zh_CN")
    assert room.people.all()[0].language == "zh_CN"


def test_what_goes_wrong_is_said_in_chinese_too(room: Room, browser: Browser) -> None:
    browser.client.headers["accept-language"] = "zh-CN"
    assert "登录名或密码不正确" in browser.sign_in("chief", "not the password").text
    assert "此邀请已失效" in browser.client.get("/join/unknown").text
    assert "此页面已过期" in browser.post("/sign-in", "0" * 64).text
    for _ in range(4):
        browser.sign_in("chief", "not the password")
    assert re.search(r"请等待 \d+ 秒后再试", browser.sign_in("chief", "not the password").text)


def test_tokens_of_pages_belong_to_one_browser() -> None:
    key = CSRFKey("secret")
    assert key.check("ann", key.token("ann"))
    assert not key.check("bob", key.token("ann"))
    assert not key.check("", key.token(""))
    assert not CSRFKey("other").check("ann", key.token("ann"))
