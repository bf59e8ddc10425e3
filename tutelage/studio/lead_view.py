"""What the leads' pages show: figures with their text, people by name, moments, items side by side."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, timedelta

from markupsafe import Markup

from tutelage.evaluate.statistics import Mean, Median, Rate, mean, median, win_rate
from tutelage.feedback.batches import Progress
from tutelage.feedback.effort import Work
from tutelage.feedback.oversight import Case, Said
from tutelage.feedback.people import User
from tutelage.feedback.work import TAKES, Batch, Ranked, Rated, Written
from tutelage.quality.habits import SECONDS_PER_HOUR
from tutelage.studio import figures
from tutelage.studio.masking import Masker
from tutelage.studio.text import Shown, markdown, plain, tame
from tutelage.studio.view import Turn, turns_of
from tutelage.studio.words import Translate

SNIPPET = 140  # characters
FEWEST_DAYS, MOST_DAYS = 14, 30  # of a chart
NOTHING_HIDDEN = Masker()


@dataclass(frozen=True)
class Figure:
    """A number to read, with its picture; both empty where nothing was seen."""

    text: str
    svg: str = ""


UNSEEN = Figure("–")


def share(rate: Rate | None, *, middle: float | None = None) -> Figure:
    """A rate: percent, interval, n."""
    if rate is None:
        return UNSEEN
    text = f"{rate.rate:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}] n {rate.n:,}"
    return Figure(text, figures.rate(rate, middle=middle))


def seconds(found: Median | None, end: float) -> Figure:
    """A median time, on an axis up to `end` seconds."""
    if found is None:
        return UNSEEN
    if not math.isfinite(found.high):
        return Figure(f"{found.median:.1f} s n {found.n:,}")
    text = f"{found.median:.1f} s [{found.low:.1f}, {found.high:.1f}] n {found.n:,}"
    return Figure(text, figures.whisker(found.low, found.median, found.high, end=end or 1.0))


def money(cost: Mean | None) -> str:
    """What a label costs, in the project's currency."""
    if cost is None:
        return "–"
    interval = f" [{cost.low:.3f}, {cost.high:.3f}]" if math.isfinite(cost.high) else ""
    return f"{cost.mean:.3f}{interval} n {cost.n:,}"


def moment(stamp: str) -> str:
    """An ISO 8601 time as it is read: to the minute, in UTC."""
    return stamp[:16].replace("T", " ")


def calendar(counts: Mapping[str, int]) -> dict[str, int]:
    """Every day up to the last of these (ISO 8601), without any or not: since the first, FEWEST_DAYS to MOST_DAYS."""
    if not counts:
        return {}
    first, last = (date.fromisoformat(day) for day in (min(counts), max(counts)))
    first = max(min(first, last - timedelta(days=FEWEST_DAYS - 1)), last - timedelta(days=MOST_DAYS - 1))
    days = (str(first + timedelta(days=i)) for i in range((last - first).days + 1))
    return {day: counts.get(day, 0) for day in days}


def snippet(text: str) -> str:
    """The beginning of a text in one line."""
    words = " ".join(tame(text).split())
    return words if len(words) <= SNIPPET else f"{words[:SNIPPET]}…"


@dataclass(frozen=True)
class BatchRow:
    """A batch in a list."""

    batch: Batch
    progress: Progress
    bar: Markup
    deadline: str
    """As `deadline_of` has it."""


def batch_row(batch: Batch, progress: Progress, translate: Translate) -> BatchRow:
    """A batch with its bar: what is answered of what is wanted."""
    said = translate("{answered} of {wanted} answers").format(answered=progress.answered, wanted=progress.wanted)
    parts = [("answered", progress.answered), ("held", min(progress.held, progress.wanted - progress.answered))]
    return BatchRow(batch, progress, figures.bar(parts, progress.wanted, said), deadline_of(batch))


def deadline_of(batch: Batch) -> str:
    """A batch's deadline in UTC, as a form's field of date and time has it; empty where there is none."""
    if batch.spec.deadline is None:
        return ""
    return batch.spec.deadline.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds").removesuffix(":00")


@dataclass(frozen=True)
class WorkRow:
    """What one person has done, in a table."""

    name: str
    work: Work
    pace: Figure
    gold: Figure
    repeats: Figure
    cost: str


def work_rows(work: Mapping[str, Work], people: Mapping[str, User]) -> list[WorkRow]:
    """Everybody, the busiest first."""
    slowest = max((max(one.seconds) for one in work.values() if one.seconds), default=1.0)
    paces = {who: median(one.seconds) if one.seconds else None for who, one in work.items()}
    end = max((p.high for p in paces.values() if p is not None and math.isfinite(p.high)), default=slowest)
    rows = []
    for who, one in sorted(work.items(), key=lambda pair: -pair[1].answered):
        wage = people[who].hourly_cost if who in people else None
        costs = [s / SECONDS_PER_HOUR * wage for s in one.seconds] if wage is not None else []
        rows.append(
            WorkRow(
                name=named(who, people),
                work=one,
                pace=seconds(paces[who], end),
                gold=share(win_rate(one.gold) if one.gold else None),
                repeats=share(win_rate(one.repeats) if one.repeats else None),
                cost=money(mean(costs) if costs else None),
            )
        )
    return rows


def named(who: str, people: Mapping[str, User]) -> str:
    """A person's name, for leads; the id of whoever is no user, such as an imported annotator."""
    return people[who].name if who in people else who


@dataclass(frozen=True)
class Verdict:
    """What one person said of one completion."""

    name: str
    text: str
    best: bool


@dataclass(frozen=True)
class Side:
    """One completion of an item, with what everybody said of it."""

    letter: str
    text: Shown
    source: str
    verdicts: tuple[Verdict, ...]
    decided: str
    """A lead's decision: the rank or score; empty where there is none."""


@dataclass(frozen=True)
class CaseView:
    """An item for discussion."""

    case: Case
    asked: tuple[Turn, ...]
    sides: tuple[Side, ...]
    rated: bool
    """Whether the answers are scores, not ranks."""
    decidable: bool
    """Whether a lead can decide it: of texts none is the right one."""


def case_view(case: Case, people: Mapping[str, User], translate: Translate) -> CaseView:
    """An item side by side. Texts are shown whole, also where a model names itself."""
    shown = plain if case.prompt.messages[0].role == "text" else markdown
    rated = any(isinstance(said.answer, Rated) for said in case.said)
    sides = tuple(
        Side(
            letter="ABCDEFGHI"[i],
            text=shown(completion.text),
            source=completion.source.model + (f" · {completion.source.run}" if completion.source.run else ""),
            verdicts=tuple(_verdict(said, i, people, translate) for said in case.said),
            decided="" if case.adjudicated is None else str(_value(case.adjudicated, i)),
        )
        for i, completion in enumerate(case.completions)
    )
    decidable = bool(case.said) and TAKES[case.kind] != "written"
    return CaseView(case, turns_of(case.prompt.messages, NOTHING_HIDDEN), sides, rated, decidable)


def _value(said: Said, i: int) -> int:
    match said.answer:
        case Ranked(ranks=ranks):
            return ranks[i]
        case Rated(score=score):
            return score
    return 0


def _verdict(said: Said, i: int, people: Mapping[str, User], translate: Translate) -> Verdict:
    name = named(said.rater, people)
    match said.answer:
        case Written(text=text):
            return Verdict(name, tame(text), False)
        case Rated(score=score, flags=flags):
            return Verdict(name, f"{score}/7" + "".join(f" · {flag}" for flag in flags), score >= 6)
        case Ranked(ranks=ranks, strength=strength):
            tied = ranks.count(ranks[i]) > 1
            place = translate("place {rank}, tied" if tied else "place {rank}").format(rank=ranks[i])
            clear = f" ({strength})" if strength is not None and ranks[i] == 1 else ""
            return Verdict(name, place + clear, ranks[i] == 1)
