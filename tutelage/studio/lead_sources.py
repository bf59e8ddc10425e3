"""Where a new batch's questions come from: sampling runs, the store's prompts, labels that are known to be right."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tutelage import history
from tutelage.errors import StudioError
from tutelage.feedback.asking import from_prompts, from_questions, versus
from tutelage.feedback.work import K, Kind, NewItem, Ranked, Rated
from tutelage.questions import FILE, Question, read_questions
from tutelage.records import Annotator
from tutelage.studio.room import Room
from tutelage.studio.view import whole

MOST = 100_000  # questions of a batch
WRITES: tuple[Kind, ...] = ("demonstration", "chat")  # work that begins from prompts alone
SIZES = tuple(str(k) for k in range(K["ranking"][0], K["ranking"][1] + 1))  # answers of a ranking


@dataclass(frozen=True)
class SampleRun:
    """A sampling run that can be asked about."""

    id: str
    started: str
    model: str
    sampling: str
    questions: int
    completions: int


@dataclass(frozen=True)
class Sources:
    """Everything there is to ask."""

    runs: tuple[SampleRun, ...]
    prompts: int
    experts: tuple[Annotator, ...]
    """Whose rankings and ratings may serve as gold."""


def sources(room: Room) -> Sources:
    """What the project has to ask about, the newest run first."""
    runs = [] if room.project is None else history.list_runs(room.project.runs, "sample")
    found = [_sample_run(run) for run in runs if (run.path / FILE).is_file()]
    return Sources(tuple(found), room.store.count("prompts"), tuple(room.store.annotators()))


def items_of(room: Room, kind: Kind, fields: Mapping[str, str]) -> list[NewItem]:
    """The items that a form asks for. Raises StudioError 422 for what cannot be asked."""
    number = fields.get("count", "")
    count = whole(number)
    if count is None or not 1 <= count <= MOST:
        raise StudioError(f"The number of questions is '{number}', expected 1 to {MOST:,}", 422)
    gold = [] if not fields.get("gold") else list(islice(_gold(room, kind, fields["gold"]), MOST))
    if fields.get("pass_mark", "").strip():
        return gold[:count]
    return [*islice(_asked(room, kind, fields), count), *gold]


def _asked(room: Room, kind: Kind, fields: Mapping[str, str]) -> Iterator[NewItem]:
    if kind in WRITES:
        return from_prompts(room.store.prompts("train", ranked=None))
    first = _questions(room, fields.get("run", ""))
    if kind == "versus":
        return versus(first, _questions(room, fields.get("other", "")))
    return from_questions(first, kind, _ranked(fields.get("k", "").strip()))


def _ranked(size: str) -> int | None:
    """How many answers a ranking is of; None for all there are."""
    if size and size not in SIZES:
        raise StudioError(f"A ranking is of {SIZES[0]} to {SIZES[-1]} answers, not of '{size}'", 422)
    return int(size) if size else None


def _questions(room: Room, run: str) -> list[Question]:
    if room.project is None or not run:
        raise StudioError("Choose a sampling run: `tutelage sample` makes one", 422)
    return read_questions(history.find_of_kind(room.project.runs, "sample", run).path / FILE)


def _gold(room: Room, kind: Kind, annotator: str) -> Iterator[NewItem]:
    """What an annotator has said, as known answers to this kind of work."""
    match kind:
        case "comparison" | "ranking" | "versus":
            for c in room.store.comparisons(annotator=annotator):
                if (len(c.completions) == 2) == (kind != "ranking"):
                    yield NewItem(prompt=c.prompt, completions=c.completions, gold=Ranked(ranks=c.ranks))
        case "rating":
            for r in room.store.ratings(annotator=annotator):
                yield NewItem(prompt=r.prompt, completions=(r.completion,), gold=Rated(score=r.score, flags=r.flags))
        case _:
            raise StudioError("A text has no gold answer: only rankings and ratings can be checked", 422)


def _sample_run(run: history.RunInfo) -> SampleRun:
    questions = read_questions(run.path / FILE)
    source = questions[0].completions[0].source if questions else None
    settings: dict[str, Any] = {} if source is None else source.sampling
    told = ", ".join(
        f"{key} {value}" for key, value in settings.items() if key in ("temperature", "top_p", "max_tokens")
    )
    return SampleRun(
        id=run.id,
        started=run.started,
        model="" if source is None else source.model,
        sampling=told,
        questions=len(questions),
        completions=max((len(q.completions) for q in questions), default=0),
    )
