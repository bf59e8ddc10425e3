"""Rows of a Parquet file, and rows into one, through pyarrow: the extra `parquet`.

A column of Parquet has one type, so what is written must be all texts or all conversations, in a format whose rows are
of one shape.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tutelage.errors import DataError
from tutelage.feedback.files import whole_file
from tutelage.feedback.formats.row import Row

MAGIC = b"PAR1"
SUFFIX = ".parquet"
READ, WRITTEN = 1_000, 10_000  # rows together
FORMATS = ("hh-rlhf", "preference", "unpaired", "prompt-completion", "prompt-only", "language-modelling")
NEEDED = "Parquet needs the package pyarrow: pip install 'tutelage[parquet]'"


def is_parquet(path: Path) -> bool:
    """Whether the file begins as Parquet does, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # whoever reads it next says why it cannot be read


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each row with its number, from 1, a thousand of them in memory. Raises DataError for a damaged file."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise DataError(NEEDED) from error
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(READ):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet after row {number}: {error}") from error


def write_rows(path: Path, format: str, found: Iterable[Row]) -> None:
    """Write the rows; an older file is replaced only when all are on the disk.

    Raises DataError for a format that is not of one shape, for texts and conversations together, and when the file
    cannot be written.
    """
    if format not in FORMATS:
        raise DataError(f"Parquet holds {', '.join(FORMATS)}; write '{format}' as JSON lines: {path.stem}.jsonl.gz")
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ModuleNotFoundError as error:
        raise DataError(NEEDED) from error
    stream, schema = iter(found), None
    with whole_file(path) as file:
        writer: Any = None
        written = 0
        try:
            while part := list(islice(stream, WRITTEN)):
                batch = pyarrow.RecordBatch.from_pylist(part, schema)
                schema = batch.schema
                writer = writer or ParquetWriter(file, schema, compression="zstd")
                writer.write_batch(batch)
                written += len(part)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise DataError(
                f"after row {written} the rows are of two shapes, texts and conversations, and a Parquet column has "
                f"one type: write JSON lines, {path.stem}.jsonl.gz ({error})"
            ) from error
        if writer is None:
            raise DataError(f"there is nothing to write in the format '{format}', so {path} was not made")
        writer.close()
