"""What stands around every route: headers, sizes, where a request comes from, and the token that a page was ours.

1. `Guard` (middleware): an unsafe method from a browser needs an Origin (or Referer) of our own; a body has a largest
   size; every answer gets a strict Content-Security-Policy and its companions.
2. `checked_csrf` (a dependency of the whole app): an unsafe method needs the token of its page, in the header
   `X-CSRF-Token` or the field `csrf`. The token is a keyed hash of the browser's cookie, so it changes at sign-in.

A request with an `Authorization` header needs neither: no other site can make a browser send one, and it is never
joined with a cookie's session.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage.errors import StudioError

SAFE = {"GET", "HEAD", "OPTIONS"}
SMALL_BODY = 4 * 2**20  # bytes, from anybody
LARGE_BODY = 2**30  # bytes, from leads: imports
YEAR = 365 * 86_400
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, forms would send `Origin: null`
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
}


def session_cookie(secure: bool) -> str:
    """The name of the session's cookie. `__Host-`: only this host over TLS can have set it."""
    return "__Host-tutelage_session" if secure else "tutelage_session"


def visit_cookie(secure: bool) -> str:
    """The name of the cookie of whoever is not signed in: what their CSRF token is made from."""
    return "__Host-tutelage_visit" if secure else "tutelage_visit"


@dataclass(frozen=True)
class CSRFKey:
    """What CSRF tokens are made with; one for all processes."""

    key: str

    def token(self, browser: str) -> str:
        """The token of a browser, by its cookie."""
        return hmac.new(self.key.encode(), browser.encode(), sha256).hexdigest()

    def check(self, browser: str, token: str) -> bool:
        """Whether the token is this browser's."""
        return bool(browser) and hmac.compare_digest(self.token(browser).encode(), token.encode())


async def checked_csrf(request: Request) -> None:
    """Raises StudioError 403 for an unsafe request without the token of its page."""
    if request.method in SAFE or "authorization" in request.headers:
        return
    token = request.headers.get("x-csrf-token")
    if token is None and request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        field = (await request.form(max_part_size=SMALL_BODY)).get("csrf")
        token = field if isinstance(field, str) else None
    if token is None or not request.app.state.room.csrf.check(request.scope["browser"], token):
        raise StudioError("This page is out of date or not ours: reload it and try again", 403)


class Guard:
    """Middleware. It puts into the scope: `secure` (TLS), `session` (the cookie's token), `browser` (for CSRF)."""

    def __init__(self, app: ASGIApp, *, url: str | None, large: Callable[[Headers, str], bool]) -> None:
        """`url` is the studio's public address; `large(headers, session)` tells whether somebody may send much."""
        self._app, self._large = app, large
        self._own = None if url is None else _origin(url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        own = self._own or f"{scope['scheme']}://{headers.get('host', '')}"
        secure = own.startswith("https:")
        cookies = cookie_parser(headers.get("cookie", ""))
        session = "" if "authorization" in headers else cookies.get(session_cookie(secure), "")
        visit = session or cookies.get(visit_cookie(secure), "")
        fresh = None if visit or "authorization" in headers else secrets.token_urlsafe(16)
        scope.update(secure=secure, session=session, browser=visit or fresh or "")
        answer = _with_headers(send, secure, fresh, private=not scope["path"].startswith("/static/"))
        if scope["method"] not in SAFE and "authorization" not in headers and _from(headers) != own:
            refused = PlainTextResponse("This request did not come from a page of the studio.\n", 403)
            await refused(scope, receive, answer)
            return
        length = headers.get("content-length", "0")
        largest = SMALL_BODY
        if length.isdigit() and int(length) > SMALL_BODY and await run_in_threadpool(self._large, headers, session):
            largest = LARGE_BODY
        if not length.isdigit() or int(length) > largest:
            await PlainTextResponse("This is more than the studio takes.\n", 413)(scope, receive, answer)
            return
        await self._app(scope, _bounded(receive, largest), answer)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _from(headers: Headers) -> str | None:
    """The origin that a request says it comes from."""
    origin = headers.get("origin")
    if origin is not None:
        return origin
    referrer = headers.get("referer")
    return None if referrer is None else _origin(referrer)


def _bounded(receive: Receive, largest: int) -> Receive:
    """The body, until there is too much of it: a body of no announced length cannot fill the memory."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if size > largest else message

    return bounded


def _with_headers(send: Send, secure: bool, fresh: str | None, *, private: bool) -> Send:
    """Send, with the headers that every answer has, and the cookie of a browser that had none."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if private:
                headers.setdefault("cache-control", "no-store")
            if secure:
                headers["strict-transport-security"] = f"max-age={YEAR}"
            if fresh is not None and private:
                ending = "; Secure" if secure else ""
                cookie = f"{visit_cookie(secure)}={fresh}; Path=/; HttpOnly; SameSite=Lax{ending}"
                headers.append("set-cookie", cookie)
        await send(message)

    return answer
