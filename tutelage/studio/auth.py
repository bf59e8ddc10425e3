"""Who is there, and what they may do: dependencies for every route, and the pages to sign in, join and sign out.

    @router.get("/lead/batches")
    def batches(request: Request, user: Lead, room: TheRoom) -> Response: ...

A session is a row in the database, and its cookie holds a random token of which the row has the hash.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.errors import StudioError
from tutelage.feedback.people import DAY, Language, Role, User
from tutelage.studio.locale import COOKIE, LANGUAGES
from tutelage.studio.room import TheRoom, room_of
from tutelage.studio.security import session_cookie

router = APIRouter(include_in_schema=False)
Field = Annotated[str, Form()]


def signed_in(request: Request) -> User:
    """The user of the request's session. Raises StudioError 401, which a browser sees as the sign-in page."""
    user = visitor(request)
    if user is None:
        raise StudioError("Sign in first", 401)
    return user


def visitor(request: Request) -> User | None:
    """The user of the request's session, or None."""
    if "user" not in request.scope:
        token = request.scope["session"]
        request.scope["user"] = room_of(request).entrance.user_of_session(token) if token else None
    found: User | None = request.scope["user"]
    return found


def require(role: Role, *, export: bool = False) -> Callable[[User], Awaitable[User]]:
    """A dependency: the signed-in user, whose role is at least this one (and who may export), else StudioError 403."""

    async def allowed(user: Annotated[User, Depends(signed_in)]) -> User:
        if not user.at_least(role):
            raise StudioError(f"This is for people with the role {role}; yours is {user.role}", 403)
        if export and not user.may_export:
            raise StudioError("You may not export: an administrator can allow it", 403)
        return user

    return allowed


SignedIn = Annotated[User, Depends(signed_in)]
Visitor = Annotated[User | None, Depends(visitor)]
Lead = Annotated[User, Depends(require("lead"))]
Admin = Annotated[User, Depends(require("admin"))]
Exporter = Annotated[User, Depends(require("rater", export=True))]


def address_of(request: Request) -> str:
    """Where the request comes from, for back-off."""
    return request.client.host if request.client else ""


@router.get("/sign-in")
def sign_in_page(request: Request, room: TheRoom, user: Visitor, next: str = "/") -> Response:
    """The page to sign in on."""
    if user is not None:
        return RedirectResponse(_inside(next), 303)
    return room.page(request, "sign-in.html", next=_inside(next), login="", problem=None)


@router.post("/sign-in")
def sign_in(request: Request, room: TheRoom, login: Field = "", password: Field = "", next: Field = "/") -> Response:
    """Sign in; a new session replaces whatever the browser had."""
    agent = request.headers.get("user-agent", "")
    try:
        user, token = room.entrance.sign_in(
            login, password, address=address_of(request), agent=agent, old=request.scope["session"]
        )
    except StudioError as error:
        answer = room.page(
            request, "sign-in.html", error.status, next=_inside(next), login=login, problem=room.told(request, error)
        )
        return _with_wait(answer, error)
    return _entered(request, user, token, _inside(next))


@router.post("/sign-out")
def sign_out(request: Request, room: TheRoom) -> Response:
    """End the session."""
    answer = RedirectResponse("/sign-in", 303)
    if request.scope["session"]:
        room.entrance.end(request.scope["session"])
        _set_session(request, answer, "", 0)
    return answer


@router.get("/join/{token}")
def join_page(request: Request, room: TheRoom, token: str) -> Response:
    """The page on which an invited person chooses a name and a password."""
    invitation = room.people.invited(token)
    return room.page(request, "join.html", token=token, invitation=invitation, values={}, problem=None)


@router.post("/join/{token}")
def join(
    request: Request,
    room: TheRoom,
    token: str,
    login: Field = "",
    name: Field = "",
    password: Field = "",
    language: Annotated[Language, Form()] = "en",
) -> Response:
    """Use an invitation up, and sign in."""
    try:
        user = room.people.join(token, login=login, name=name or login, password=password, language=language)
    except StudioError as error:
        if error.status not in (409, 422):
            raise
        values = {"login": login, "name": name, "language": language}
        invitation = room.people.invited(token)
        return room.page(
            request,
            "join.html",
            error.status,
            token=token,
            invitation=invitation,
            values=values,
            problem=room.told(request, error),
        )
    agent = request.headers.get("user-agent", "")
    session = room.entrance.start(user, agent=agent, old=request.scope["session"])
    return _entered(request, user, session, "/")


@router.post("/language")
def language(
    request: Request, room: TheRoom, user: Visitor, language: Annotated[Language, Form()], next: Field = "/"
) -> Response:
    """Choose the language of the pages."""
    if user is not None:
        room.people.change(user, user.id, language=language)
    answer = RedirectResponse(_inside(next), 303)
    assert language in LANGUAGES
    answer.set_cookie(COOKIE, language, max_age=int(365 * DAY), samesite="lax", secure=request.scope["secure"])
    return answer


def _entered(request: Request, user: User, token: str, place: str) -> Response:
    request.scope["user"] = user
    answer = RedirectResponse(place, 303)
    _set_session(request, answer, token, int(room_of(request).settings.session_days * DAY))
    return answer


def _set_session(request: Request, answer: Response, token: str, seconds: int) -> None:
    secure = request.scope["secure"]
    answer.set_cookie(
        session_cookie(secure), token, max_age=seconds, path="/", httponly=True, samesite="lax", secure=secure
    )


def _with_wait(answer: Response, error: StudioError) -> Response:
    if error.retry_after is not None:
        answer.headers["retry-after"] = str(int(error.retry_after) + 1)
    return answer


def _inside(place: str) -> str:
    """A path of ours to go on to; never another site, however it is written."""
    plain = place.startswith("/") and place[1:2] not in ("/", "\\") and place.isprintable()
    return place if plain else "/"
