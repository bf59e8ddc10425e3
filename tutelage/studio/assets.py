"""The studio's own scripts and styles, at an address that names their content: browsers keep them, but no old ones."""

from hashlib import sha256
from os import PathLike, stat_result
from pathlib import Path

from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
KEPT = "public, max-age=31536000, immutable"


def place() -> str:
    """Where they are: `/static/` and a hash of them all, so that modules name each other without it."""
    content = sha256()
    for path in sorted(STATIC.iterdir()):
        content.update(f"{path.name}\0".encode() + path.read_bytes())
    return f"/static/{content.hexdigest()[:12]}"


class Assets(StaticFiles):
    """The folder, each file to be kept for a year."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(
        self, full_path: str | PathLike[str], stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file of the folder."""
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["cache-control"] = KEPT
        return answer
