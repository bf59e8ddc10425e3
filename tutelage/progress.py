"""Progress on standard error: a bar where somebody watches, a line now and then where nobody does."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)


class Report(Protocol):
    """Called with how much is done and a few words on how it goes."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show it."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Report]:
    """A bar for `total` pieces of work; yields the function to report with."""
    if not console.is_terminal:
        quarter = 0

        def lines(done: int, note: str = "") -> None:
            nonlocal quarter
            if done == total or done * 4 // total > quarter:
                quarter = done * 4 // total
                print(f"{description}: {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)

        yield lines
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, note="")

        def draw(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield draw
