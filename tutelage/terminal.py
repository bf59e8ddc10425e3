"""The person at the terminal: what commands print, and ranking completions by number keys.

Rank best first: `2 1 3`, or `213`; `=` between equals: `2=1>3`. With two completions one key is enough: `1`, `2`, `=`.
`s` skips, `u` takes the last answer back, `q` stops; everything answered is kept.
"""

import json
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tutelage.questions import Question
from tutelage.records import Annotator, Comparison, Completion, Prompt, content_id

PIPE_WIDTH = 160  # columns where nobody watches, so that tables are not folded
LONGEST_SECONDS = 300.0  # whoever takes longer has left the desk: idle time is not judging time
HELP = "best first, e.g. 2 1 3 · ties: 2=1>3 · s skip · u undo · q quit"
HELP_PAIR = "1 or 2 for the better · = tie · s skip · u undo · q quit"


@dataclass(frozen=True)
class Answer:
    """What a command found: something to read, and the same as figures for `--json`."""

    text: Any  # a string or anything rich can print
    figures: Mapping[str, Any]

    def print(self, *, as_json: bool) -> None:
        """Print the text; with `as_json` to standard error, and one line of JSON to standard output."""
        console = Console(stderr=as_json, highlight=False)
        if not console.is_terminal:
            console.width = PIPE_WIDTH
        console.print(self.text, soft_wrap=isinstance(self.text, str), markup=False)
        if as_json:
            print(json.dumps(plain(self.figures), ensure_ascii=False, allow_nan=False), flush=True)


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses' fields and mappings as objects, what is not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table whose cells are text as it stands."""
    made = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        made.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    return made


def number(value: Any) -> str:
    """A figure to read: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def human(name: str) -> Annotator:
    """A human annotator; the same name is always the same person."""
    return Annotator(id=content_id("human", name), kind="human", name=name)


class Quit(Exception):  # noqa: N818 - a wish, not an error
    """The person wants to stop."""


class Undo(Exception):  # noqa: N818
    """The person wants to take the last answer back."""


def printable(text: str) -> str:
    """The text without control characters: what a model writes must not steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def read_line(single_key: bool) -> str:
    """What the person types; one key without Enter where that is enough. Raises EOFError at the end of input."""
    if not (single_key and sys.stdin.isatty()):
        return input("> ")
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        key = sys.stdin.read(1)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    if key == "\x04":
        raise EOFError
    return key


def parse_ranking(text: str, k: int) -> list[int]:
    """The rank of each of the k places on the screen, 1 best, from `2 1 3`, `213`, `2>1>3` or `2=1>3`.

    Raises ValueError saying what is wrong with it.
    """
    compact = re.sub(r"\s*([=>])\s*", r"\1", text.strip())
    if k == 2 and compact in ("=", "1=2", "2=1"):
        return [1, 1]
    if k == 2 and compact in ("1", "2"):
        return [1, 2] if compact == "1" else [2, 1]
    if not re.fullmatch(r"[1-9](?:[=>\s,]*[1-9])*", compact):
        raise ValueError(f"{text.strip()!r} is not a ranking")
    groups = [[int(d) for d in part if d.isdigit()] for part in re.findall(r"[1-9](?:=[1-9])*", compact)]
    named = sorted(d for group in groups for d in group)
    if named != list(range(1, k + 1)):
        raise ValueError(f"name each of 1 to {k} once; you named {' '.join(map(str, named))}")
    rank = {place: number for number, group in enumerate(groups, 1) for place in group}
    return [rank[place] for place in range(1, k + 1)]


class TerminalAnnotator:
    """A person who ranks at the terminal."""

    def __init__(
        self,
        annotator: Annotator,
        *,
        read: Callable[[bool], str] = read_line,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`read(single_key)` gets what is typed, `clock` the time in seconds, `rng` the order on the screen."""
        self.annotator = annotator
        self._read = read
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._rng = rng or random.Random()

    def compare(self, prompt: Prompt, completions: Sequence[Completion]) -> Comparison | None:
        """Show prompt and completions in random order and ask for a ranking; None when the person skips.

        Raises Undo or Quit when that is what the person asks for.
        """
        k = len(completions)
        shown = self._rng.sample(range(k), k)
        self._show(prompt, [completions[i].text for i in shown])
        started = self._clock()
        by_place = self._ask(k)
        if by_place is None:
            return None
        ranks = {original: by_place[place] for place, original in enumerate(shown)}
        return Comparison(
            prompt=prompt,
            completions=tuple(completions),
            ranks=tuple(ranks[i] for i in range(k)),
            shown=tuple(shown),
            annotator=self.annotator,
            seconds=min(self._clock() - started, LONGEST_SECONDS),
        )

    def _ask(self, k: int) -> list[int] | None:
        while True:
            try:
                typed = self._read(k == 2).strip()
            except EOFError as error:
                raise Quit from error
            match typed.lower():
                case "s":
                    return None
                case "u":
                    raise Undo
                case "q":
                    raise Quit
            try:
                return parse_ranking(typed, k)
            except ValueError as error:
                self._console.print(f"[yellow]{escape(str(error))}.[/] {HELP_PAIR if k == 2 else HELP}")

    def _show(self, prompt: Prompt, texts: Sequence[str]) -> None:
        self._console.rule()
        for message in prompt.messages:
            self._console.print(Panel(escape(printable(message.content)), title=message.role, title_align="left"))
        for place, text in enumerate(texts, 1):
            self._console.print(f"[bold cyan]{place}[/]  {escape(printable(text).strip())}\n")
        self._console.print(f"[dim]{HELP_PAIR if len(texts) == 2 else HELP}[/]")


class Sitting:
    """A person going through questions. Each answer is saved before the next question is shown; undo asks again."""

    def __init__(
        self,
        person: TerminalAnnotator,
        save: Callable[[Comparison], object],
        retract: Callable[[str], object],
    ) -> None:
        self._person, self._save, self._retract = person, save, retract
        self._before: list[tuple[Prompt, Sequence[Completion], Comparison | None]] = []
        self.undone = 0

    def ask(self, prompt: Prompt, completions: Sequence[Completion]) -> Comparison | None:
        """The person's ranking, saved; None when skipped. On undo the question before is asked again first.

        Raises Quit when the person wants to stop.
        """
        while True:
            try:
                comparison = self._person.compare(prompt, completions)
                break
            except Undo:
                if self._before:
                    earlier, texts, last = self._before.pop()
                    self._take_back(last)
                    self.ask(earlier, texts)
        if comparison is not None:
            self._save(comparison)
        self._before.append((prompt, completions, comparison))
        return comparison

    def _take_back(self, comparison: Comparison | None) -> None:
        if comparison is not None:
            self._retract(comparison.id)
        self.undone += 1

    def go_through(self, questions: Sequence[Question]) -> dict[str, int]:
        """Ask one after another until the end or until the person quits; counts of what came of it."""
        try:
            for question in questions:
                self.ask(question.prompt, question.completions)
        except Quit:
            pass
        answered = sum(comparison is not None for *_, comparison in self._before)
        skipped = len(self._before) - answered
        left = len(questions) - len(self._before)
        return {"answered": answered, "skipped": skipped, "undone": self.undone, "left": left}
