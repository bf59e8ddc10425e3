"""Files in and out: each format's mapping, bad lines, strictness, and round trips."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import everything, pair, stored

import tutelage.feedback.store as store_module
from tutelage.errors import DataError
from tutelage.feedback.exchange import FORMATS, Format, ImportReport, export_file, import_file
from tutelage.feedback.files import rows
from tutelage.feedback.store import Storable, Store
from tutelage.records import Annotator, Comparison

ANN = Annotator(id="ann", kind="human", name="Ann")
USER = [{"role": "user", "content": "What color is the sky?"}]
BLUE = [{"role": "assistant", "content": "It is blue."}]
GREEN = [{"role": "assistant", "content": "It is green."}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "feedback.db") as opened:
        yield opened


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def bring(store: Store, path: Path, format: Any = "auto", **options: Any) -> ImportReport:
    return import_file(path, format, store, annotator=ANN, **options)


GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}
BAD_LINES: list[tuple[Any, str, str]] = [
    ('{"prompt": "q", ', "", "is not JSON"),
    ("[1, 2]", "", "where an object"),
    ("{" + '"a":[' * 100_000, "", "is not JSON"),
    ({"prompt": "q", "chosen": "a"}, "rejected", "is missing; the row has chosen, prompt"),
    ({**GOOD, "chosen": None}, "chosen", "is None, where a text is needed"),
    ({**GOOD, "prompt": 3}, "prompt", "is 3, where a list of messages"),
    ({**GOOD, "rejected": BLUE}, "rejected", "because prompt is one"),
    ({"prompt": USER, "chosen": BLUE, "rejected": USER}, "rejected", "the turns user"),
    ({"prompt": USER, "chosen": BLUE, "rejected": [{"role": "assistant"}]}, "rejected.0.content", "is missing"),
    ({"prompt": [{"role": "tool", "content": ""}], "chosen": BLUE, "rejected": BLUE}, "prompt.0.role", "'tool'"),
    ({"prompt": [{**USER[0], "name": "x"}], "chosen": BLUE, "rejected": BLUE}, "prompt.0.name", "no part"),
    ('{"prompt": "q", "chosen": "\\ud83d", "rejected": "b"}', "chosen", "half a surrogate pair"),
    ({"chosen": "x y", "rejected": "z y"}, "chosen", "no prompt"),
    ({"chosen": "x y", "rejected": "x y"}, "rejected", "the same text"),
    ({"chosen": USER + BLUE, "rejected": GREEN}, "chosen", "no prompt"),
]


@pytest.mark.parametrize(("line", "field", "message"), BAD_LINES)
def test_a_bad_line_is_named_and_the_rest_goes_in(
    store: Store, tmp_path: Path, line: Any, field: str, message: str
) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, "", line, {**GOOD, "prompt": "p"})
    report = bring(store, path)
    assert (report.read, report.added) == (3, 2)
    [bad] = report.bad
    assert (bad.file, bad.line, bad.field) == (path, 3, field)
    assert message in bad.message
    assert f"{path}, line 3" in str(bad)


def test_strict_adds_nothing_of_the_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK", 2)
    store.add(pair(1))
    good = [{**GOOD, "prompt": f"q{i}"} for i in range(7)]
    path = write(tmp_path / "rows.jsonl", *good, {"prompt": "q", "chosen": "a"})
    with pytest.raises(DataError, match=r"rows.jsonl, line 8, field 'rejected': is missing.*Nothing of this file"):
        bring(store, path, strict=True)
    assert (store.count("comparisons"), store.count("prompts")) == (1, 1)
    assert bring(store, write(path, *good), strict=True).added == 7


def test_importing_again_adds_nothing(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "prompt": "p"}, GOOD)
    assert [(r.added, r.known) for r in (bring(store, path), bring(store, path))] == [(2, 1), (0, 3)]
    bob = Annotator(id="bob", kind="human", name="Bob")
    assert import_file(path, "auto", store, annotator=bob).added == 2  # another person's verdicts
    assert store.count("completions") == 4


def test_which_side_won_cannot_be_told_from_shown(store: Store, tmp_path: Path) -> None:
    bring(store, write(tmp_path / "rows.jsonl", *({**GOOD, "prompt": f"q{i}"} for i in range(400))))
    first_won = sum(record.ranks[record.shown[0]] == 1 for record in store.comparisons())
    assert 150 < first_won < 250  # 200 ± 5 standard errors
    assert {r.ranks for r in store.comparisons()} == {(1, 2)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\xff", r"no row that is a JSON object \(line 1 is not UTF-8"),
        (b'{"a": 1}', r"line 1: no known format has the fields a\. Name one of tutelage"),
    ],
)
def test_a_file_that_is_something_else(store: Store, tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        bring(store, tmp_path / "x")


def test_names_that_do_not_exist(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl cannot be read: No such file"):
        bring(store, tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        bring(store, tmp_path)
    with pytest.raises(DataError, match="no format 'csv': name one of auto, tutelage"):
        bring(store, write(tmp_path / "x", GOOD), "csv")
    with pytest.raises(DataError, match="no format 'csv': name one of tutelage"):
        export_file(tmp_path / "y", "csv", store)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cannot be written: No such file"):
        export_file(tmp_path / "no" / "y", "tutelage", store)


def test_gzip_whatever_its_name_and_a_torn_one(store: Store, tmp_path: Path) -> None:
    lines = [json.dumps({**GOOD, "prompt": f"question {i * 7919}"}) for i in range(2000)]
    data = gzip.compress("\n".join(lines).encode())
    (tmp_path / "torn.jsonl").write_bytes(data[: len(data) // 2])
    report = bring(store, tmp_path / "torn.jsonl")
    assert 500 < report.added < 1500
    assert report.bad[-1].line == report.read
    assert "damaged or cut short" in report.bad[-1].message
    (tmp_path / "whole.jsonl").write_bytes(data)
    assert bring(store, tmp_path / "whole.jsonl").known == report.added


def test_an_array_says_on_which_line_a_row_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "[", '{"a": 1}, {"b":', "2}", ", 3,", '{"c": 3}', ",", '{"d": }]')
    found = [(line, row if isinstance(row, dict) else str(row)) for line, row in rows(path)]
    assert found[:4] == [
        (2, {"a": 1}),
        (2, {"b": 2}),
        (4, "is 3, where an object with fields is needed"),
        (5, {"c": 3}),
    ]
    assert [line for line, _ in found[4:]] == [7]
    assert "is not JSON" in str(found[4][1])
    assert [n for n, _ in rows(write(tmp_path / "b.json", "\ufeff" + json.dumps([GOOD])))] == [1]


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *([GOOD] * 1000))
    with path.open("ab") as more:
        stream = rows(path)
        assert next(stream) == (1, GOOD)
        more.write(b"late\n")  # had the file been read whole, this line would not be seen
    assert sum(1 for _ in stream) == 1000


def test_tutelage_lines_name_their_kind(store: Store, tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl", {"kind": "prompt", "messages": USER}, {"kind": "vote"}, {"kind": "rating", "x": 1}
    )
    report = bring(store, path)
    assert (report.format, report.added) == ("tutelage", 1)
    assert [(bad.line, bad.field) for bad in report.bad] == [(2, "kind"), (3, "prompt")]


def test_an_export_that_fails_leaves_the_old_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(pair(1))
    path = write(tmp_path / "out.jsonl", "old")

    def broken(*_: object) -> Iterator[Comparison]:
        yield pair(1)
        raise RuntimeError("cable pulled")

    monkeypatch.setattr(store, "comparisons", broken)
    with pytest.raises(RuntimeError, match="cable pulled"):
        export_file(path, "preference", store)
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.jsonl"]
    assert path.read_text() == "old\n"


def test_rankings_ties_and_what_a_format_cannot_say(store: Store, tmp_path: Path) -> None:
    store.add(*everything())
    ranked = next(store.comparisons())
    counts = {format: export_file(tmp_path / f"{format}.gz", format, store) for format in FORMATS}
    assert {f: (r.rows, r.skipped) for f, r in counts.items()} == {
        "tutelage": (7, 0),
        "hh-rlhf": (0, 2),  # a system message has no place in a dialogue of Human and Assistant
        "pandalm": (0, 2),
        "argilla": (2, 0),
        "label-studio": (0, 2),  # both have ties
        "preference": (5, 1),  # ranks 2 1 2 4 decide five pairs of six; the other comparison is a tie
        "unpaired": (1, 0),
        "prompt-completion": (1, 0),
        "prompt-only": (3, 0),
        "language-modelling": (1, 0),
    }
    with gzip.open(tmp_path / "preference.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    texts = [c.text for c in ranked.completions]
    assert {(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs} == {
        (texts[better], texts[worse]) for better, worse in [(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)]
    }


def cycle(records: list[Storable], format: Format, folder: Path) -> tuple[list[Storable], list[Storable]]:
    """Records out to a file and into a new store, and that once more."""
    held: list[list[Storable]] = []
    for i in range(2):
        with Store(folder / f"{i}.db") as store:
            if i == 0:
                store.add(*records)
            else:
                report = bring(store, folder / "0.jsonl", format, strict=True)
                assert report.known == 0
            export_file(folder / f"{i}.jsonl", format, store)
            held.append(stored(store))
    assert (folder / "0.jsonl").read_bytes() == (folder / "1.jsonl").read_bytes()
    return held[0], held[1]


def test_tutelage_lines_lose_nothing(tmp_path: Path) -> None:
    before, after = cycle(everything(), "tutelage", tmp_path)
    assert after == before


awkward = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
talk = st.lists(awkward, min_size=1, max_size=3).map(
    lambda texts: [{"role": ["user", "assistant"][i % 2], "content": content} for i, content in enumerate(texts)]
)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["preference", "unpaired", "prompt-completion", "prompt-only"]),
    st.lists(st.tuples(st.one_of(awkward, talk), awkward, awkward, st.booleans()), min_size=1, max_size=4),
)
def test_in_out_in_is_the_same(format: Format, found: list[tuple[Any, str, str, bool]]) -> None:
    """import → export → import: the same records (but for the moment of import) and the same file."""

    def say(prompt: Any, text: str) -> Any:
        return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]

    files: dict[Format, list[dict[str, Any]]] = {
        "preference": [{"prompt": p, "chosen": say(p, a), "rejected": say(p, b)} for p, a, b, _ in found],
        "unpaired": [{"prompt": p, "completion": say(p, a), "label": y} for p, a, _, y in found],
        "prompt-completion": [{"prompt": p, "completion": say(p, a)} for p, a, _, _ in found],
        "prompt-only": [{"prompt": p} for p, _, _, _ in found],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store(folder / "first.db") as store:
            bring(store, write(folder / "rows.jsonl", *files[format]), format, strict=True)
            records = stored(store)
        before, after = cycle(records, format, folder)
        assert [timeless(r) for r in after] == [timeless(r) for r in before]


def timeless(record: Storable) -> dict[str, Any]:
    return record.model_dump(exclude={"created"})
