"""The API for exports: a permission of its own, and every export is on the record."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from tutelage.feedback.audit import note
from tutelage.feedback.exchange import ARRAYS, Format, export_file, export_lines
from tutelage.records import Split
from tutelage.studio.caller import ForExport
from tutelage.studio.problem import PROBLEMS
from tutelage.studio.room import TheRoom

router = APIRouter(tags=["export"], responses=PROBLEMS)
LINES, ARRAY, PARQUET = "application/x-ndjson", "application/json", "application/vnd.apache.parquet"
MEDIA = (LINES, ARRAY, PARQUET)
TOGETHER = 500  # lines of one chunk


@router.get("/export", response_class=Response, responses={200: {"content": {media: {} for media in MEDIA}}})
def export(
    user: ForExport,
    room: TheRoom,
    format: Format = "tutelage",
    split: Split | None = None,
    file: Literal["lines", "parquet"] = "lines",
) -> Response:
    """Every label that stands, as a file: JSON lines (of the labelling tools' formats one array), or Parquet.

    Lines stream as they are read; Parquet is written aside first. A label added meanwhile is left out.
    """
    note(room.store, user.id, "export", format, split=split, file=file)
    name = f"{format}-{split or 'all'}"
    if file == "parquet":
        folder = tempfile.TemporaryDirectory(prefix="tutelage-export-")
        path = Path(folder.name) / f"{name}.parquet"
        try:
            export_file(path, format, room.store, split=split)
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(
            path,
            filename=path.name,
            media_type=PARQUET,
            background=BackgroundTask(folder.cleanup),
        )
    array = format in ARRAYS
    ending, media = (".json", ARRAY) if array else (".jsonl", LINES)
    disposition = {"content-disposition": f'attachment; filename="{name}{ending}"'}
    return StreamingResponse(chunks(export_lines(format, room.store, split)), media_type=media, headers=disposition)


def chunks(lines: Iterator[str]) -> Iterator[bytes]:
    """Lines with their ends, many together: each chunk is a turn of the thread that reads."""
    held: list[str] = []
    for line in lines:
        held.append(line)
        if len(held) == TOGETHER:
            yield ("\n".join(held) + "\n").encode()
            held.clear()
    if held:
        yield ("\n".join(held) + "\n").encode()
