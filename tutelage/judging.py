"""AI judges at work: sampled pairs into labels, labelled pairs into figures about the judge, answers into rewards."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tutelage import history
from tutelage.errors import ConfigError, DataError, Interrupted
from tutelage.evaluate.judges import JudgeFigures, LabelledPair, labelled_pairs, validate_panel
from tutelage.evaluate.statistics import Mean, Rate, bootstrap_mean, clustered_rate
from tutelage.feedback.exchange import Format, import_file
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.judge.asking import Judge
from tutelage.judge.compare import Judged, annotator_of, comparison_of, judge_pairs, pairs
from tutelage.judge.endpoint import Endpoint
from tutelage.judge.local import LocalJudge
from tutelage.judge.memory import Memory, Remembered, Spent
from tutelage.judge.rubric import Rubric, read_rubric
from tutelage.judge.score import ScoreReward
from tutelage.model import causal
from tutelage.progress import progress
from tutelage.questions import FILE, Question, read_questions, unanswered
from tutelage.records import Split, content_id
from tutelage.runs import Run
from tutelage.stage import Settings, Stage, open_store, stage
from tutelage.terminal import human, plain

REPLIES = "judge-replies.db"


@dataclass(frozen=True)
class Labelling:
    """What came of letting judges label."""

    run: Run
    asked: int
    """Pairs put to the judges, each in both orders."""
    known: int
    """Pairs that the same judges had labelled before."""
    labelled: int
    not_judged: dict[str, int]
    """How often an order was not judged, by kind of reason."""
    consistency: Rate | None
    """Pairs on which both orders favour the same text; None when nothing was judged."""
    position_bias: Mean | None
    """What standing first is worth in one order, from -1 to 1; in the labels it cancels."""
    bill: tuple[Spent, ...]
    """What every judge of this project has cost so far, all runs together."""


def run_compare(
    folder: ProjectFolder, flags: Mapping[str, Any], *, source: str | None = None, file: Path | None = None
) -> Labelling:
    """Let the settings' judges label the pairs of a sampling run (the newest, or `source`) or of a file of questions.

    Every label is in the store as soon as its part of the pairs is judged; pairs that the same judges have labelled
    before are left out, so that the same command goes on after an interruption.
    """

    def parents() -> list[history.RunInfo]:
        return [] if file else [history.find_of_kind(folder.runs, "sample", source)]

    with _judging(folder, "judge", flags, parents) as (s, panel, rubric, memory):
        path = file or folder.runs / s.run.facts["parents"][0] / FILE
        found = list(chain.from_iterable(pairs(question) for question in read_questions(path)))
        who = annotator_of(panel, rubric)
        judged = []
        with s.open_store() as store:
            open_pairs = list(unanswered(found, store.comparisons(annotator=who.id)))
            for one in _all_judged(s, panel, rubric, open_pairs):
                label = comparison_of(one, who, rubric)
                if label is not None:
                    store.add(label)
                judged.append(one)
        verdicts = [one.together for one in judged]
        done = [
            (v, one.question.prompt.id) for v, one in zip(verdicts, judged, strict=True) if v.preference is not None
        ]
        prompts = [prompt for _, prompt in done]
        places = [2 * (v.first_place or 0.0) - 1 for v, _ in done]
        report = Labelling(
            run=s.run,
            asked=len(judged),
            known=len(found) - len(open_pairs),
            labelled=len(done),
            not_judged=dict(Counter(reason.partition(":")[0] for v in verdicts for reason in v.reasons)),
            consistency=clustered_rate([float(v.consistent) for v, _ in done], prompts) if done else None,
            position_bias=bootstrap_mean(places, groups=prompts) if done else None,
            bill=tuple(memory.bill()),
        )
        s.run.record({"annotator": who.name, "pairs": report.asked, "labelled": report.labelled})
        s.run.evaluate(plain({key: value for key, value in vars(report).items() if key != "run"}))
    return report


@dataclass(frozen=True)
class Validation:
    """Figures of every judge of a panel, and of the panel as the last one when there are several judges."""

    run: Run
    figures: tuple[JudgeFigures, ...]
    bill: tuple[Spent, ...]


def run_validate(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    format: Format | Literal["auto"] = "auto",
    most: int = 200,
    split: Split | None = None,
) -> Validation:
    """Measure the settings' judges on pairs that people have decided: of the store, or of a file of any known format.

    At most `most` pairs are asked, the same ones every time: those whose hash comes first. The store stays as it is.
    """
    with _judging(folder, "validate", flags, list) as (s, panel, rubric, memory):
        labelled = _labelled(s, file, format, split)
        labelled = sorted(labelled, key=lambda pair: content_id("validate", *sorted(pair.question.key)))[:most]
        if len(labelled) < 2:
            where = str(file) if file else "the store"
            raise DataError(f"{where} has {len(labelled)} pairs that people decided: at least two are needed")
        judged = {one.question.key: one for one in _all_judged(s, panel, rubric, [pair.question for pair in labelled])}
        figures = tuple(validate_panel(labelled, [judged[pair.question.key] for pair in labelled]))
        s.run.record({"pairs": len(labelled), "judges": [judge.name for judge in panel]})
        s.run.evaluate(plain({"figures": [vars(one) for one in figures], "rubric": rubric.version}))
        return Validation(s.run, figures, tuple(memory.bill()))


def score_reward(folder: ProjectFolder, flags: Mapping[str, Any], memory: Memory | None = None) -> ScoreReward:
    """The settings' judge as a reward function (direct RLAIF). Raises ConfigError when it is not exactly one."""
    settings = folder.settings(Settings, flags)
    if len(settings.judge.panel) != 1:
        raise ConfigError(f"a reward has one judge, judge.panel names {len(settings.judge.panel)}")
    judge = judge_of(folder, settings, settings.judge.panel[0])
    rubric = read_rubric(settings.judge.rubric)
    return ScoreReward(Remembered(judge, memory) if memory else judge, rubric, settings.judge.least_mass)


def judge_of(folder: ProjectFolder, settings: Settings, name: str) -> Judge:
    """An endpoint for a URL#model, else a model on this machine: a folder in the project comes first."""
    if "://" in name:
        return Endpoint(name, settings.judge.endpoint)
    inside = folder.path / name
    return LocalJudge(causal.load(inside if inside.exists() else name, device=settings.device))


@contextmanager
def _judging(
    folder: ProjectFolder, kind: str, flags: Mapping[str, Any], parents: Callable[[], list[history.RunInfo]]
) -> Iterator[tuple[Stage, list[Judge], Rubric, Memory]]:
    """A run with its panel, each judge remembering what it said before."""
    settings = folder.settings(Settings, flags)
    if not settings.judge.panel:
        raise ConfigError("no judge is named: give --judge a model or URL#model, or set judge.panel")
    rubric = read_rubric(settings.judge.rubric)
    judges = [judge_of(folder, settings, name) for name in settings.judge.panel]
    prices = settings.judge.endpoint.prices
    try:
        with (
            stage(folder, kind, flags, resume=None, parents=parents) as s,
            Memory(folder.path / REPLIES, prices) as memory,
        ):
            yield s, [Remembered(judge, memory) for judge in judges], rubric, memory
    except Interrupted:
        raise Interrupted("Interrupted. Every answer so far is kept: the same command goes on.") from None


def _all_judged(s: Stage, panel: Sequence[Judge], rubric: Rubric, asked: Iterable[Question]) -> Iterator[Judged]:
    """Every pair judged, and written down for people to read. Raises Interrupted after Ctrl-C, once all is saved."""
    found = list(asked)
    with s.run.interruptible(), progress("Judging", len(found)) as report:
        mass = s.settings.judge.least_mass
        going = judge_pairs(found, panel, rubric, least_mass=mass, going=lambda: not s.run.stop_requested)
        for number, one in enumerate(going, 1):
            s.run.samples(number, [one.row()])
            yield one
            report(number)
        if s.run.stop_requested:
            raise Interrupted("stopped")


def _labelled(s: Stage, file: Path | None, format: Format | Literal["auto"], split: Split | None) -> list[LabelledPair]:
    if file is None:
        with open_store(s.folder, s.settings) as store:
            return labelled_pairs(store.comparisons(split))
    with TemporaryDirectory() as folder, Store(Path(folder) / "labelled.db") as store:
        import_file(file, format, store, annotator=human("people"))
        return labelled_pairs(store.comparisons(split))
