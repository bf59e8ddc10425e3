"""The person at the terminal: keys, order on the screen, undo, quit, and what is printed."""

import io
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tutelage.errors import DataError
from tutelage.feedback.store import Store
from tutelage.questions import Question, read_questions, unanswered, write_questions
from tutelage.records import Completion, Prompt, Source
from tutelage.terminal import (
    LONGEST_SECONDS,
    Answer,
    Quit,
    Sitting,
    TerminalAnnotator,
    human,
    parse_ranking,
    plain,
    printable,
    read_line,
    table,
)

PROMPT = Prompt.text("The film was")
ANN = human("ann")


def completions(*texts: str) -> tuple[Completion, ...]:
    return tuple(Completion(id=text, text=text, source=Source(model="file")) for text in texts)


class Screen:
    """A person whose keys are written down beforehand, and what they saw."""

    def __init__(self, keys: Iterable[str], *, seconds: Iterable[float] = (), seed: int = 0) -> None:
        self.out = io.StringIO()
        self.single: list[bool] = []
        self._keys = iter(keys)
        ticks = iter(seconds)
        self.person = TerminalAnnotator(
            ANN,
            read=self._read,
            console=Console(file=self.out, width=200, highlight=False),
            clock=lambda: next(ticks, 0.0),
            rng=random.Random(seed),
        )

    def _read(self, single_key: bool) -> str:
        self.single.append(single_key)
        try:
            return next(self._keys)
        except StopIteration:
            raise EOFError from None


@pytest.mark.parametrize(
    ("typed", "k", "ranks"),
    [
        ("2 1 3", 3, [2, 1, 3]),
        ("213", 3, [2, 1, 3]),
        ("3>1>2", 3, [2, 3, 1]),
        ("2=1>3", 3, [1, 1, 2]),
        ("2 = 1 3", 3, [1, 1, 2]),
        ("3, 1=2", 3, [2, 2, 1]),
        ("1=2=3=4", 4, [1, 1, 1, 1]),
        ("1", 2, [1, 2]),
        ("2", 2, [2, 1]),
        ("=", 2, [1, 1]),
        ("12", 2, [1, 2]),
        ("2>1", 2, [2, 1]),
    ],
)
def test_rankings_that_can_be_typed(typed: str, k: int, ranks: list[int]) -> None:
    assert parse_ranking(typed, k) == ranks


@pytest.mark.parametrize("typed", ["", "1 2", "1 2 2", "1 2 4", "a", "1=2=", ">123", "0 1 2", "1 2 3 4"])
def test_rankings_that_cannot(typed: str) -> None:
    with pytest.raises(ValueError, match=r"is not a ranking|name each of 1 to 3 once"):
        parse_ranking(typed, 3)


@given(st.permutations(range(1, 6)), st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_ranking_is_read_as_it_is_meant(order: Sequence[int], tied: list[bool]) -> None:
    """Any order with any ties: a place that comes later, and not after `=`, has a higher rank."""
    typed = str(order[0]) + "".join(("=" if t else ">") + str(p) for t, p in zip(tied, order[1:], strict=True))
    ranks = parse_ranking(typed, 5)
    expected = dict(zip(order, itertools.accumulate([1, *(not t for t in tied)]), strict=True))
    assert ranks == [expected[place] for place in range(1, 6)]


@pytest.mark.parametrize("seed", range(6))
def test_ranks_go_to_the_texts_that_stood_there(seed: int) -> None:
    screen = Screen(["3 1 2"], seconds=[10.0, 12.5], seed=seed)
    comparison = screen.person.compare(PROMPT, completions("a", "b", "c"))
    assert comparison is not None
    by_place = [comparison.completions[i].text for i in comparison.shown]
    ranked = sorted(zip(comparison.ranks, (c.text for c in comparison.completions), strict=True))
    assert [text for _, text in ranked] == [by_place[2], by_place[0], by_place[1]]
    assert [line.split()[-1] for line in screen.out.getvalue().splitlines() if line[:1] in "123" and line] == by_place
    assert comparison.seconds == 2.5
    assert comparison.annotator == ANN
    assert comparison.prompt == PROMPT


def test_every_order_is_shown_now_and_then() -> None:
    screen = Screen(itertools.repeat("1 2 3"))
    seen = {c.shown for _ in range(200) if (c := screen.person.compare(PROMPT, completions("a", "b", "c")))}
    assert len(seen) == 6  # missing one of six by luck: 6 · (5/6)^200 < 1e-14


def test_idle_time_does_not_count() -> None:
    comparison = Screen(["1"], seconds=[0.0, 10_000.0]).person.compare(PROMPT, completions("a", "b"))
    assert comparison is not None
    assert comparison.seconds == LONGEST_SECONDS


def test_a_pair_needs_one_key_and_three_need_a_line() -> None:
    screen = Screen(["1", "123"])
    screen.person.compare(PROMPT, completions("a", "b"))
    screen.person.compare(PROMPT, completions("a", "b", "c"))
    assert screen.single == [True, False]


def test_a_slip_is_explained_and_asked_again() -> None:
    screen = Screen(["1 1 2", "x", "1 2 3"])
    assert screen.person.compare(PROMPT, completions("a", "b", "c")) is not None
    assert "name each of 1 to 3 once; you named 1 1 2" in screen.out.getvalue()
    assert "'x' is not a ranking" in screen.out.getvalue()


def test_skip_and_end_of_input() -> None:
    assert Screen(["s"]).person.compare(PROMPT, completions("a", "b")) is None
    with pytest.raises(Quit):
        Screen([]).person.compare(PROMPT, completions("a", "b"))


def test_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\td\x07é") == "a\ufffd[2Jb\nc\td\ufffdé"
    screen = Screen(["1"])
    screen.person.compare(Prompt.text("[bold]x[/bold]\x1b[2J"), completions("[red]a[/]", "b\x1b"))
    assert "\x1b" not in screen.out.getvalue()
    assert "[bold]x[/bold]" in screen.out.getvalue()
    assert "[red]a[/]" in screen.out.getvalue()


def questions(count: int) -> list[Question]:
    return [
        Question(prompt=Prompt.text(f"Film {i} was"), completions=completions(f"{i}a", f"{i}b")) for i in range(count)
    ]


def answered(store: Store) -> dict[str, str]:
    """Which text won, by prompt."""
    return {
        c.prompt.messages[0].content: c.completions[c.ranks.index(1)].text for c in store.comparisons(annotator=ANN.id)
    }


def test_undo_takes_back_as_far_as_asked_and_asks_again(tmp_path: Path) -> None:
    with Store(tmp_path / "f.db") as store:
        screen = Screen(["1", "2", "u", "u", "2", "1", "q"])
        sitting = Sitting(screen.person, store.add, store.retract)
        counts = sitting.go_through(questions(3))
        assert counts == {"answered": 2, "skipped": 0, "undone": 2, "left": 1}
        assert set(answered(store)) == {"Film 0 was", "Film 1 was"}
        assert store.count("comparisons") == 2
        shown = [line for line in screen.out.getvalue().splitlines() if "Film" in line]
        assert ["".join(c for c in line if c.isdigit()) for line in shown] == ["0", "1", "2", "1", "0", "1", "2"]


def test_undo_at_the_beginning_does_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "f.db") as store:
        counts = Sitting(Screen(["u", "1"]).person, store.add, store.retract).go_through(questions(1))
        assert counts == {"answered": 1, "skipped": 0, "undone": 0, "left": 0}


def test_quitting_keeps_what_was_answered_and_resuming_shows_only_the_rest(tmp_path: Path) -> None:
    asked = questions(4)
    with Store(tmp_path / "f.db") as store:
        first = Sitting(Screen(["1", "s", "2", "q"]).person, store.add, store.retract).go_through(asked)
        assert first == {"answered": 2, "skipped": 1, "undone": 0, "left": 1}
        rest = list(unanswered(asked, store.comparisons(annotator=ANN.id)))
        assert [q.prompt for q in rest] == [asked[1].prompt, asked[3].prompt]
        assert list(unanswered(asked, store.comparisons(annotator=human("ben").id))) == asked


def test_questions_survive_the_file(tmp_path: Path) -> None:
    path = write_questions(tmp_path, questions(3))
    assert read_questions(path) == questions(3)
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(DataError, match=r"questions.jsonl, line 4: Field required"):
        read_questions(path)
    with pytest.raises(DataError, match=r"tutelage sample"):
        read_questions(tmp_path / "none")


def test_input_without_a_terminal_is_read_by_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    assert read_line(True) == "2"


def test_json_goes_last_to_standard_output_and_the_rest_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(table("", ["name", "value"], [("loss [x]", None)]), {"loss": float("nan"), "path": Path("a")})
    answer.print(as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"loss": None, "path": "a"}
    assert "loss [x]" in err
    answer.print(as_json=False)
    out, err = capsys.readouterr()
    assert "loss [x]" in out
    assert err == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [((1, 2.5), [1, 2.5]), ({1: float("inf")}, {"1": None}), (True, True), (ANN, str(ANN))],
)
def test_plain_is_what_json_can_hold(value: Any, expected: Any) -> None:
    assert plain(value) == expected
