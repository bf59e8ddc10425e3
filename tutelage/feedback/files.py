"""Rows of a file, one at a time: JSON lines, plain or gzipped, or a JSON array. And lines into a file, all or none."""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from tutelage.errors import DataError
from tutelage.feedback.formats.row import Row, RowError, seen

GZIP = b"\x1f\x8b"
BETWEEN = re.compile(r"[\s,]*")
BOM = b"\xef\xbb\xbf"


def rows(path: Path) -> Iterator[tuple[int, Row | RowError]]:
    """Each row with the number of its line, or the fault of a line that is no JSON object. Blank lines are left out.

    JSON lines stream; a file whose first character is `[` is one array and is read whole.
    Raises DataError when the file cannot be opened.
    """
    try:
        with _open(path) as file:
            lines = enumerate(_lines(file), start=1)
            first = next(((n, line) for n, line in lines if isinstance(line, RowError) or line.strip()), None)
            if first is None:
                return
            number, line = first
            if not isinstance(line, RowError) and line.lstrip().startswith(b"["):
                rest = chain([line], (more for _, more in lines))
                yield from _array(rest, number)
                return
            for number, line in chain([first], lines):
                if isinstance(line, RowError):
                    yield number, line
                elif line.strip():
                    yield number, _parsed(line)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}. Check the name and its permissions."
        ) from error


def whole_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row with where it stands. Raises DataError, naming file and line, at the first line that is none."""
    for number, row in rows(path):
        where = f"{path}, line {number}"
        if isinstance(row, RowError):
            raise DataError(f"{where} {row}") from row
        yield where, row


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")


def _lines(file: IO[bytes]) -> Iterator[bytes | RowError]:
    """The lines; a gzip file that is damaged or cut short ends with the fault."""
    start = True
    try:
        for line in file:
            yield line.removeprefix(BOM) if start else line
            start = False
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield RowError("", f"the gzip file is damaged or cut short here ({error}); what follows is lost")


def _parsed(line: bytes) -> Row | RowError:
    try:
        return _row(json.loads(line.decode()))
    except UnicodeDecodeError as error:
        return RowError("", f"is not UTF-8 at byte {error.start}; convert the file to UTF-8")
    except json.JSONDecodeError as error:
        return RowError("", f"is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of too many digits; brackets nested too deep
        return RowError("", f"is not JSON that can be read: {error}")


def _row(found: Any) -> Row | RowError:
    return (
        found if isinstance(found, dict) else RowError("", f"is {seen(found)}, where an object with fields is needed")
    )


def _array(lines: Iterable[bytes | RowError], number: int) -> Iterator[tuple[int, Row | RowError]]:
    """The objects of one JSON array, each with the line it begins on."""
    read: list[bytes] = []
    for line in lines:
        if isinstance(line, RowError):
            yield number + len(read), line
            return
        read.append(line)
    try:
        text = b"".join(read).decode()
    except UnicodeDecodeError as error:
        yield number, RowError("", f"is not UTF-8 at byte {error.start}; convert the file to UTF-8")
        return
    decoder, at, counted = json.JSONDecoder(), text.index("[") + 1, 0
    while True:
        between = BETWEEN.match(text, at)
        at = between.end() if between else at
        number, counted = number + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            return
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield number, RowError("", f"is not JSON: {error}; the array cannot be read from here on")
            return
        yield number, _row(found)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines, gzipped when the name ends in `.gz`; an older file is replaced only when all are on the disk.

    Raises DataError when the file cannot be written.
    """
    with whole_file(path) as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as zipped:
                _write(zipped, lines)
        else:
            _write(raw, lines)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name, and an older one's place, only when all of it is on the disk.

    Raises DataError when it cannot be written.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}. Check the folder and the space on it."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _write(file: IO[bytes] | gzip.GzipFile, lines: Iterable[str]) -> None:
    for line in lines:
        file.write(f"{line}\n".encode())
