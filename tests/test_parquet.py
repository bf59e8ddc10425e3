"""Parquet in and out: the same rows as JSON lines have, in one type a column, or a clear error."""

import json
import sys
from pathlib import Path

import pytest
from test_store import ANN, pair

from tutelage.errors import DataError
from tutelage.feedback import parquet
from tutelage.feedback.exchange import export_file, import_file
from tutelage.feedback.store import Store
from tutelage.records import Comparison, Prompt, Rating

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'tutelage[parquet]'")
FORMS = ["preference", "prompt-only", "unpaired", "hh-rlhf"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "a.db")
    found.add(*(pair(i) for i in range(30)))
    found.add(*(Rating(id=f"r{i}", prompt=c.prompt, completion=c.completions[0], score=7, annotator=ANN)
                for i, c in enumerate(pair(i) for i in range(5))))  # fmt: skip
    return found


def texts(store: Store) -> list[Comparison]:
    return [c.model_copy(update={"id": f"t{c.id}", "prompt": Prompt.text(c.id)}) for c in store.comparisons()]


@pytest.mark.parametrize("format", FORMS)
def test_the_rows_are_those_of_json_lines(
    store: Store, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow.parquet import read_table

    monkeypatch.setattr(parquet, "WRITTEN", 7)  # several batches
    written = export_file(tmp_path / "x.parquet", format, store)  # type: ignore[arg-type]
    assert written == export_file(tmp_path / "x.jsonl", format, store)  # type: ignore[arg-type]
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert read_table(tmp_path / "x.parquet").to_pylist() == rows
    assert len(rows) == written.rows > 4
    with Store(tmp_path / "one.db") as one, Store(tmp_path / "other.db") as other:
        (tmp_path / "x.parquet").rename(tmp_path / "renamed")  # told by its content, not by its name
        reports = [
            import_file(tmp_path / "renamed", "auto", one, annotator=ANN),
            import_file(tmp_path / "x.jsonl", "auto", other, annotator=ANN),
        ]
        assert reports[0] == reports[1]
        assert reports[0].added > 4
        assert list(one.prompts()) == list(other.prompts())
        assert [c.id for c in one.comparisons()] == [c.id for c in other.comparisons()]


def test_a_bad_row_is_named_by_its_number(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None}]
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    with Store(tmp_path / "a.db") as store:
        report = import_file(tmp_path / "x.parquet", "auto", store, annotator=ANN)
    assert (report.read, report.added) == (2, 1)
    assert "x.parquet, line 2, field 'completion'" in str(report.bad[0])


def test_what_parquet_cannot_hold_leaves_the_old_file(store: Store, tmp_path: Path) -> None:
    old = tmp_path / "x.parquet"
    old.write_text("old")
    with pytest.raises(DataError, match=r"Parquet holds .*; write 'tutelage' as JSON lines: x\.jsonl\.gz"):
        export_file(old, "tutelage", store)
    with pytest.raises(DataError, match="nothing to write in the format 'prompt-completion'"):
        export_file(old, "prompt-completion", store)
    store.add(*texts(store))
    with pytest.raises(DataError, match="two shapes, texts and conversations"):
        export_file(old, "preference", store)
    assert old.read_text() == "old"
    assert list(tmp_path.glob("*.part")) == []


def test_a_damaged_file_and_a_missing_package(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_file(tmp_path / "x.parquet", "preference", store)
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"torn\.parquet cannot be read as Parquet after row 0"):
        import_file(tmp_path / "torn.parquet", "auto", store, annotator=ANN)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"] + ["pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    for act in (
        lambda: import_file(tmp_path / "x.parquet", "auto", store, annotator=ANN),
        lambda: export_file(tmp_path / "y.parquet", "preference", store),
    ):
        with pytest.raises(DataError, match=r"pip install 'tutelage\[parquet\]'"):
            act()
