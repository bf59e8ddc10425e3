"""Each format's mapping: what a row becomes, and what it looks like written again."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from test_exchange import ANN, bring, timeless, write
from test_exchange import store as store
from test_store import pair, stored

from tutelage.feedback.exchange import Format, export_file
from tutelage.feedback.store import Store
from tutelage.records import Comparison, Prompt

SHARED = Path(__file__).parents[2] / "shared" / "data"
HH = SHARED / "hh-rlhf" / "harmless-base-test.jsonl.gz"
PANDALM = SHARED / "pandalm" / "testset-v1.json"
USER = [{"role": "user", "content": "What color is the sky?"}]
BLUE = [{"role": "assistant", "content": "It is blue."}]
GREEN = [{"role": "assistant", "content": "It is green."}]

# TRL's documentation, "Dataset formats and types": every published form.
TRL: dict[str, tuple[Format, dict[str, Any]]] = {
    "preference, explicit": ("preference", {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
    "preference, implicit": ("preference", {"chosen": "The sky is blue.", "rejected": "The sky is green."}),
    "preference, explicit, talk": ("preference", {"prompt": USER, "chosen": BLUE, "rejected": GREEN}),
    "preference, implicit, talk": ("preference", {"chosen": USER + BLUE, "rejected": USER + GREEN}),
    "unpaired": ("unpaired", {"prompt": "The sky is", "completion": " blue.", "label": True}),
    "unpaired, talk": ("unpaired", {"prompt": USER, "completion": GREEN, "label": False}),
    "completion": ("prompt-completion", {"prompt": "The sky is", "completion": " blue."}),
    "completion, talk": ("prompt-completion", {"prompt": USER, "completion": BLUE}),
    "prompt": ("prompt-only", {"prompt": "The sky is"}),
    "prompt, talk": ("prompt-only", {"prompt": USER}),
    "text": ("language-modelling", {"text": "The sky is blue, and so is the sea."}),
    "messages": ("language-modelling", {"messages": USER + BLUE}),
}
TEXT_PROMPT, TALK_PROMPT = Prompt.text("The sky is"), Prompt.user("What color is the sky?")


@pytest.mark.parametrize("form", TRL)
def test_every_form_of_trl_is_told_and_read(store: Store, tmp_path: Path, form: str) -> None:
    format, row = TRL[form]
    report = bring(store, write(tmp_path / "rows.jsonl", row))
    assert (report.format, report.read, report.added, report.known, report.bad) == (format, 1, 1, 0, [])
    [*_, record] = stored(store)
    match record:
        case Comparison():
            texts = ["It is blue.", "It is green."] if "talk" in form else [" blue.", " green."]
            assert [c.text for c in record.completions] == texts
            assert record.ranks == (1, 2)
        case Prompt():
            pass
        case _:
            assert record.annotator == ANN
    if form == "text":
        assert (record.prompt, record.text) == (Prompt.text("The sky is blue,"), " and so is the sea.")  # type: ignore[union-attr]
    else:
        prompt = record if isinstance(record, Prompt) else record.prompt
        assert prompt == (TALK_PROMPT if "talk" in form or form == "messages" else TEXT_PROMPT)
    if form.startswith("unpaired"):
        assert record.score == (7 if row["label"] else 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", TRL)
def test_a_form_written_again_is_the_explicit_one(store: Store, tmp_path: Path, form: str) -> None:
    format, row = TRL[form]
    bring(store, write(tmp_path / "rows.jsonl", row))
    assert export_file(tmp_path / "out.jsonl", format, store).rows == 1
    explicit = TRL[form.replace("implicit", "explicit")][1]
    assert json.loads((tmp_path / "out.jsonl").read_text()) == explicit


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue", "The sky is black", "The sky is", (" blue", " black")),  # not "The sky is bl"
        ("A\n\nB: one", "A\n\nB: two", "A\n\nB:", (" one", " two")),
        ("A:\none", "A:\ntwo", "A:\n", ("one", "two")),
        ("The sky", "The sky is", "The", (" sky", " sky is")),
    ],
)
def test_an_implied_prompt_ends_with_a_word(
    store: Store, tmp_path: Path, chosen: str, rejected: str, prompt: str, answers: tuple[str, str]
) -> None:
    bring(store, write(tmp_path / "rows.jsonl", {"chosen": chosen, "rejected": rejected}))
    [record] = store.comparisons()
    assert record.prompt == Prompt.text(prompt)
    assert tuple(c.text for c in record.completions) == answers


def test_hh_rlhf_dialogues(store: Store, tmp_path: Path) -> None:
    shared = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Is it\n\nso?"
    runs_on = f"{shared}\n\nAssistant: No.\n\nAssistant:  I mean"
    path = write(
        tmp_path / "hh.jsonl",
        {"chosen": f"{shared}\n\nAssistant: Yes.", "rejected": f"{shared}\n\nAssistant: No."},
        {"chosen": f"{shared}\n\nAssistant: Yes.", "rejected": runs_on},
        {"chosen": f"{shared}\n\nAssistant:", "rejected": f"{shared}\n\nAssistant: No."},
    )
    report = bring(store, path)
    assert (report.format, report.added) == ("hh-rlhf", 3)
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Is it\n\nso?")]
    answers = []
    for record in store.comparisons():
        assert [(m.role, m.content) for m in record.prompt.messages] == turns
        answers.append(tuple(c.text for c in record.completions))
    assert answers == [("Yes.", "No."), ("Yes.", "No.\n\nAssistant:  I mean"), ("", "No.")]
    export_file(tmp_path / "out.jsonl", "hh-rlhf", store)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in path.read_text().splitlines()]
    wanted[2]["chosen"] += " "  # an empty answer gets its space
    assert written == wanted


def test_pandalm_is_three_people(store: Store, tmp_path: Path) -> None:
    row = {"idx": 7, "cmp_key": "bloom-7b_llama-7b", "instruction": "Say", "input": "hi", "response1": "a"}
    path = tmp_path / "panda.json"
    path.write_text(json.dumps([{**row, "response2": "b", "annotator1": 0, "annotator2": 1, "annotator3": 2}]))
    report = bring(store, path)
    assert (report.format, report.read, report.added) == ("pandalm", 1, 3)
    records = list(store.comparisons())
    assert [(r.annotator.id, r.ranks) for r in records] == [("ann-1", (1, 1)), ("ann-2", (1, 2)), ("ann-3", (2, 1))]
    assert {r.prompt for r in records} == {Prompt.user("Say\n\nhi")}
    assert [c.source.model for c in records[0].completions] == ["bloom-7b", "llama-7b"]
    assert store.count("completions") == 2
    store.add(pair(1))
    out = export_file(tmp_path / "out.json", "pandalm", store)
    assert (out.rows, out.skipped) == (1, 1)
    [written] = json.loads((tmp_path / "out.json").read_text())
    assert [written[f"annotator{i}"] for i in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.skipif(not HH.exists(), reason=f"needs the development data: {HH} is not there")
def test_the_real_hh_rlhf_file(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db") as store, Store(tmp_path / "b.db") as other:
        report = bring(store, HH)
        assert (report.format, report.read, report.added, report.bad) == ("hh-rlhf", 2312, 2312, [])
        assert store.count("comparisons", "evaluation") == pytest.approx(462, abs=65)
        export_file(tmp_path / "out.jsonl.gz", "hh-rlhf", store)
        assert bring(other, tmp_path / "out.jsonl.gz").added == 2312
        assert [timeless(c) for c in other.comparisons()] == [timeless(c) for c in store.comparisons()]
    with gzip.open(HH) as before, gzip.open(tmp_path / "out.jsonl.gz") as after:
        assert [json.loads(line) for line in after] == [json.loads(line) for line in before]


@pytest.mark.skipif(not PANDALM.exists(), reason=f"needs the development data: {PANDALM} is not there")
def test_the_real_pandalm_file(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db") as store, Store(tmp_path / "b.db") as other:
        report = bring(store, PANDALM)
        assert (report.format, report.read, report.added, report.bad) == ("pandalm", 999, 2997, [])
        verdicts = [row["annotator2"] for row in json.loads(PANDALM.read_text())]
        ranks = {0: (1, 1), 1: (1, 2), 2: (2, 1)}
        assert [c.ranks for c in store.comparisons(annotator="ann-2")] == [ranks[v] for v in verdicts]
        assert export_file(tmp_path / "out.json", "pandalm", store).rows == 999
        assert bring(other, tmp_path / "out.json").added == 2997
        assert [timeless(c) for c in other.comparisons()] == [timeless(c) for c in store.comparisons()]
