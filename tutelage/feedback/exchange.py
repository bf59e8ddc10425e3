"""Files into the store and out of it.

    report = import_file("harmless-base.jsonl.gz", "auto", store, annotator=annotator)
    export_file("pairs.jsonl", "preference", store, split="train")

Formats: `tutelage` (every record, lossless), `hh-rlhf`, `pandalm`, `argilla`, `label-studio`, and TRL's `preference`,
`unpaired`, `prompt-completion`, `prompt-only` and `language-modelling`; what each becomes stands in `formats/`. Files
stream both ways; those of PandaLM and of the labelling tools are one JSON array, which is read whole.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

from pydantic import ValidationError

from tutelage.errors import DataError
from tutelage.feedback import parquet
from tutelage.feedback.files import rows, write_lines
from tutelage.feedback.formats import argilla, hh, labelstudio, pandalm, trl
from tutelage.feedback.formats.row import Row, RowError, seen
from tutelage.feedback.rows import Storable
from tutelage.feedback.store import Store
from tutelage.records import Annotator, Comparison, Demonstration, Prompt, Rating, Split

Format = Literal[
    "tutelage",
    "hh-rlhf",
    "pandalm",
    "argilla",
    "label-studio",
    "preference",
    "unpaired",
    "prompt-completion",
    "prompt-only",
    "language-modelling",
]
FORMATS: tuple[Format, ...] = get_args(Format)
ARRAYS = ("pandalm", "argilla", "label-studio")  # one JSON array, as those tools write and read it
KINDS: dict[str, type[Storable]] = {
    "prompt": Prompt,
    "demonstration": Demonstration,
    "comparison": Comparison,
    "rating": Rating,
}


@dataclass(frozen=True)
class BadLine:
    """A row that was left out: where it stands, which field is at fault (empty: the whole row), and why."""

    file: Path
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        at = f", field '{self.field}'" if self.field else ""
        return f"{self.file}, line {self.line}{at}: {self.message}"


@dataclass(frozen=True)
class ImportReport:
    """What became of a file."""

    format: Format
    read: int
    """Rows in the file, good and bad."""
    added: int
    """Records that are new in the store. One row of PandaLM is three."""
    known: int
    """Records that were in the store already, or twice in the file."""
    bad: list[BadLine] = field(default_factory=list)


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    rows: int
    skipped: int
    """Records that the format cannot say: a ranking without a decided pair, a dialogue in a format for texts."""


def import_file(
    path: str | Path, format: Format | Literal["auto"], store: Store, *, annotator: Annotator, strict: bool = False
) -> ImportReport:
    """Add a file's records to the store, as judged or written by `annotator` (`tutelage` files name their own).

    `auto` tells the format from the first good row. A bad row is left out and reported, and the rest goes in; with
    `strict` the first bad row raises DataError, and nothing of the file is added. Importing a file again adds nothing.
    Raises DataError when the file cannot be read or its format not told, StoreError when the store cannot be written.
    """
    place = Path(path)
    count = _Count(place, strict)
    found: Iterator[tuple[int, Row | RowError]] = parquet.rows(place) if parquet.is_parquet(place) else rows(place)
    if format == "auto":
        seen_rows: list[tuple[int, Row | RowError]] = []
        format = _detect(place, found, seen_rows)
        found = chain(seen_rows, found)
    parse = _parser(format, annotator)
    added = store.add_all(count.records(found, parse), atomic=strict)
    return ImportReport(format=format, read=count.read, added=added, known=count.made - added, bad=count.bad)


class _Count:
    """What is counted while a file streams by."""

    def __init__(self, path: Path, strict: bool) -> None:
        self.path, self.strict = path, strict
        self.read = self.made = 0
        self.bad: list[BadLine] = []

    def records(
        self, found: Iterable[tuple[int, Row | RowError]], parse: Callable[[Row], list[Storable]]
    ) -> Iterator[Storable]:
        for line, row in found:
            self.read += 1
            try:
                if isinstance(row, RowError):
                    raise row
                made = parse(row)
            except ValidationError as error:
                self._fault(line, RowError.of(error))
            except RowError as error:
                self._fault(line, error)
            else:
                self.made += len(made)
                yield from made

    def _fault(self, line: int, error: RowError) -> None:
        bad = BadLine(file=self.path, line=line, field=error.field, message=str(error))
        if self.strict:
            raise DataError(f"{bad}. Nothing of this file was added; mend it, or import without strict.") from error
        self.bad.append(bad)


def _detect(
    path: Path, found: Iterator[tuple[int, Row | RowError]], seen_rows: list[tuple[int, Row | RowError]]
) -> Format:
    """The format of the first row that is an object. What was read is put in `seen_rows`."""
    for line, row in found:
        seen_rows.append((line, row))
        if not isinstance(row, RowError):
            return _told(path, line, row)
    what = "holds no row that is a JSON object" if seen_rows else "is empty"
    first = seen_rows[0][1] if seen_rows else None
    detail = f" (line {seen_rows[0][0]} {first})" if isinstance(first, RowError) else ""
    raise DataError(f"{path} {what}{detail}: a file of JSON lines is needed, plain or gzipped")


def _told(path: Path, line: int, row: Row) -> Format:
    fields = set(row)
    if row.get("kind") in KINDS:
        return "tutelage"
    if fields >= {"annotator1", "response1", "response2"}:
        return "pandalm"
    if fields >= {"fields", "responses"}:
        return "argilla"
    if fields >= {"data", "annotations"}:
        return "label-studio"
    if fields >= {"chosen", "rejected"}:
        dialogue = "prompt" not in row and str(row["chosen"]).startswith("\n\nHuman:")
        return "hh-rlhf" if dialogue else "preference"
    if fields >= {"prompt", "completion"}:
        return "unpaired" if "label" in row else "prompt-completion"
    if "prompt" in row:
        return "prompt-only"
    if fields & {"text", "messages"}:
        return "language-modelling"
    raise DataError(
        f"{path}, line {line}: no known format has the fields {', '.join(sorted(fields)) or '(none)'}. "
        f"Name one of {', '.join(FORMATS)}, or rename the fields."
    )


def _parser(format: Format, who: Annotator) -> Callable[[Row], list[Storable]]:
    def parse(row: Row) -> list[Storable]:
        match format:
            case "tutelage":
                return [_parse_own(row)]
            case "hh-rlhf":
                return [*hh.parse(row, who)]
            case "pandalm":
                return [*pandalm.parse(row, who)]
            case "argilla":
                return [*argilla.parse(row, who)]
            case "label-studio":
                return [*labelstudio.parse(row, who)]
            case "preference":
                return [*trl.parse_preference(row, who)]
            case "unpaired":
                return [*trl.parse_unpaired(row, who)]
            case "prompt-completion":
                return [*trl.parse_completion(row, who)]
            case "prompt-only":
                return [*trl.parse_prompt(row, who)]
            case "language-modelling":
                return [*trl.parse_language(row, who)]
        assert_never(format)

    if format not in FORMATS:
        raise DataError(f"There is no format '{format}': name one of auto, {', '.join(FORMATS)}")
    return parse


def _parse_own(row: Row) -> Storable:
    kind = row.get("kind")
    if kind not in KINDS:
        raise RowError("kind", f"is {seen(kind)}: it must be one of {', '.join(KINDS)}")
    return KINDS[kind].model_validate({key: value for key, value in row.items() if key != "kind"})


def export_file(path: str | Path, format: Format, store: Store, *, split: Split | None = None) -> ExportReport:
    """Write what the store holds, of one split or all, as JSON lines (PandaLM and the labelling tools: one array),
    gzipped for a name in .gz; as Parquet for a name in .parquet.

    An older file of that name is replaced, once the new one is whole. Retracted labels are left out.
    Raises DataError when the file cannot be written or the format does not exist.
    """
    if format not in FORMATS:
        raise DataError(f"There is no format '{format}': name one of {', '.join(FORMATS)}")
    written = skipped = 0

    def made_rows() -> Iterator[Row]:
        nonlocal written, skipped
        for taken, made in _rendered(format, store, split):
            written += len(made)
            skipped += 0 if made else taken
            yield from made

    if Path(path).suffix == parquet.SUFFIX:
        parquet.write_rows(Path(path), format, made_rows())
    else:
        write_lines(Path(path), _as_text(made_rows(), format))
    return ExportReport(rows=written, skipped=skipped)


def export_lines(format: Format, store: Store, split: Split | None = None) -> Iterator[str]:
    """What `export_file` writes, as text, a line at a time without its end: for an answer over the network."""
    return _as_text((row for _, made in _rendered(format, store, split) for row in made), format)


def _as_text(found: Iterable[Row], format: Format) -> Iterator[str]:
    lines = (json.dumps(row, ensure_ascii=False) for row in found)
    return _as_array(lines) if format in ARRAYS else lines


def _rendered(format: Format, store: Store, split: Split | None) -> Iterator[tuple[int, list[Row]]]:
    """How many records were taken, and the rows they make."""
    match format:
        case "tutelage":
            return ((1, [_render_own(record)]) for record in _everything(store, split))
        case "hh-rlhf":
            return ((1, hh.render(record)) for record in store.comparisons(split))
        case "pandalm":
            return ((taken, [row] if row else []) for taken, row in pandalm.render(store.comparisons(split)))
        case "argilla":
            return ((1, argilla.render(record)) for record in store.comparisons(split))
        case "label-studio":
            return ((1, labelstudio.render(record)) for record in store.comparisons(split))
        case "preference":
            return ((1, trl.render_preference(record)) for record in store.comparisons(split))
        case "unpaired":
            return ((1, trl.render_unpaired(record)) for record in store.ratings(split))
        case "prompt-completion":
            return ((1, trl.render_completion(record)) for record in store.demonstrations(split))
        case "prompt-only":
            return ((1, trl.render_prompt(record)) for record in store.prompts(split))
        case "language-modelling":
            return ((1, trl.render_language(record)) for record in store.demonstrations(split))
    assert_never(format)


def _everything(store: Store, split: Split | None) -> Iterator[Storable]:
    yield from store.prompts(split)
    yield from store.demonstrations(split)
    yield from store.comparisons(split)
    yield from store.ratings(split)


def _render_own(record: Storable) -> dict[str, Any]:
    kind = next(kind for kind, of in KINDS.items() if isinstance(record, of))
    return {"kind": kind, **record.model_dump(mode="json")}


def _as_array(lines: Iterator[str]) -> Iterator[str]:
    before = "["
    for line in lines:
        yield before + line
        before = ","
    yield "]" if before == "," else "[]"
