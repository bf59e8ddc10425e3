"""What went wrong, told where it was asked: a page to a browser, JSON to the API. Never a traceback."""

from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from tutelage.errors import StoreError, StudioError, TutelageError
from tutelage.studio.problem import Fault, problem
from tutelage.studio.room import room_of

MISTAKE = "The studio made a mistake. What was saved is kept; the server's log has the details."


def add_failures(app: FastAPI) -> None:
    """Have the app answer with these."""
    app.add_exception_handler(TutelageError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _fault)


def wants_json(request: Request) -> bool:
    """Whether a program asks: the API, or a script of a page."""
    return request.url.path.startswith("/api/") or "application/json" in request.headers.get("accept", "")


def failed(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The message with its status, as JSON or as a page."""
    if request.url.path.startswith("/api/"):
        return problem(status, message, request.url.path, headers=headers)
    if wants_json(request):
        return JSONResponse({"error": message}, status, headers)
    bare = message == room_of(request).gettext(request, HTTPStatus(status).phrase)  # nobody said more than the status
    answer = room_of(request).page(request, "error.html", status, status=status, message="" if bare else message)
    answer.headers.update(headers or {})
    return answer


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, TutelageError)
    if not isinstance(error, StudioError):
        return failed(request, 503 if isinstance(error, StoreError) else 400, str(error))
    if error.status == 401 and not wants_json(request):
        place = request.url.path if request.method == "GET" else "/"
        return RedirectResponse(f"/sign-in?next={quote(place)}", 303)
    wait = {} if error.retry_after is None else {"retry-after": str(int(error.retry_after) + 1)}
    api = request.url.path.startswith("/api/")
    return failed(request, error.status, str(error) if api else room_of(request).told(request, error), wait)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = room_of(request).gettext(request, str(error.detail))
    return failed(request, error.status_code, detail, dict(error.headers or {}))


def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = tuple(Fault(where=".".join(str(p) for p in e["loc"]), what=e["msg"]) for e in error.errors()[:5])
    told = "; ".join(f"{fault.where}: {fault.what}" for fault in faults)
    if request.url.path.startswith("/api/"):
        return problem(422, f"The request is malformed: {told}", request.url.path, faults)
    return failed(request, 422, told)


def _fault(request: Request, _error: Exception) -> Response:
    return failed(request, 500, room_of(request).gettext(request, MISTAKE))
