"""AI judges at work: sampled pairs into labels, labelled pairs into figures about the judge, answers into rewards."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tutelage.records import Annotator, Split, content_id
from tutelage.runs import Run
from tutelage.stage import Settings, Stage, open_store, stage
from tutelage.terminal import human, plain
from tutelage.wire import sampler_of

REPLIES = "judge-replies.db"
JudgeAll = Callable[[Sequence[Question], Callable[[], bool]], Iterator[Judged]]
"""Judges pairs while the second argument says to go on."""


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

    with judging(folder, "judge", flags, sampled(folder, source, file)) as (s, panel, memory):
        rubric = read_rubric(s.settings.judge.rubric)
        who = annotator_of(panel, rubric)
        return label(s, memory, file, who, rubric, _by_rubric(s, panel, rubric))


def sampled(folder: ProjectFolder, source: str | None, file: Path | None) -> Callable[[], list[history.RunInfo]]:
    """The sampling run that pairs come from, as the parents of the run that judges them; none for a file."""
    return lambda: [] if file else [history.find_of_kind(folder.runs, "sample", source)]


def label(
    s: Stage, memory: Memory, file: Path | None, who: Annotator, rubric: Rubric, judge_all: JudgeAll
) -> Labelling:
    """Every pair of the file, or of the run's parent, that `who` has not labelled yet: judged, and in the store."""
    path = file or s.folder.runs / s.run.facts["parents"][0] / FILE
    found = list(chain.from_iterable(pairs(question) for question in read_questions(path)))
    judged = []
    with s.open_store() as store:
        open_pairs = list(unanswered(found, store.comparisons(annotator=who.id)))
        for one in _all_judged(s, open_pairs, judge_all):
            made = comparison_of(one, who, rubric)
            if made is not None:
                store.add(made)
            judged.append(one)
    verdicts = [one.together for one in judged]
    done = [(v, one.question.prompt.id) for v, one in zip(verdicts, judged, strict=True) if v.preference is not None]
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
    with judging(folder, "validate", flags, list) as (s, panel, memory):
        rubric = read_rubric(s.settings.judge.rubric)
        labelled = _labelled(s, file, format, split)
        labelled = sorted(labelled, key=lambda pair: content_id("validate", *sorted(pair.question.key)))[:most]
        if len(labelled) < 2:
            where = str(file) if file else "the store"
            raise DataError(f"{where} has {len(labelled)} pairs that people decided: at least two are needed")
        asked = [pair.question for pair in labelled]
        judged = {one.question.key: one for one in _all_judged(s, asked, _by_rubric(s, panel, rubric))}
        figures = tuple(validate_panel(labelled, [judged[pair.question.key] for pair in labelled]))
        s.run.record({"pairs": len(labelled), "judges": [judge.name for judge in panel]})
        s.run.evaluate(plain({"figures": [vars(one) for one in figures], "rubric": rubric.version}))
        return Validation(s.run, figures, tuple(memory.bill()))


def score_reward(folder: ProjectFolder, flags: Mapping[str, Any], memory: Memory | None = None) -> ScoreReward:
    """The settings' judge as a reward function (direct RLAIF). Raises ConfigError when it is not exactly one."""
    return graded_by(folder, folder.settings(Settings, flags), memory)


def graded_by(folder: ProjectFolder, settings: Settings, memory: Memory | None) -> ScoreReward:
    """See `score_reward`."""
    config = settings.judge
    return ScoreReward(
        one_judge(folder, settings, memory), read_rubric(config.rubric), config.least_mass, config.ungraded
    )


def one_judge(folder: ProjectFolder, settings: Settings, memory: Memory | None) -> Judge:
    """The panel's only judge, remembering what it said. Raises ConfigError when there is another number of them."""
    if len(settings.judge.panel) != 1:
        raise ConfigError(f"a reward has one judge, judge.panel names {len(settings.judge.panel)}")
    judge = judge_of(folder, settings, settings.judge.panel[0])
    return Remembered(judge, memory) if memory else judge


def judge_of(folder: ProjectFolder, settings: Settings, name: str) -> Judge:
    """An endpoint for a URL#model, else a model on this machine: a folder in the project comes first."""
    if "://" in name:
        return Endpoint(name, settings.judge.endpoint)
    inside = folder.path / name
    model = causal.load(inside if inside.exists() else name, device=settings.device)
    return LocalJudge(model, sampler_of(model))


@contextmanager
def judging(
    folder: ProjectFolder,
    kind: str,
    flags: Mapping[str, Any],
    parents: Callable[[], list[history.RunInfo]],
    judges: Sequence[Judge] = (),
) -> Iterator[tuple[Stage, list[Judge], Memory]]:
    """A run with its panel, each judge remembering what it said before; or with the judges given, as they are."""
    settings = folder.settings(Settings, flags)
    if not (judges or settings.judge.panel):
        raise ConfigError("no judge is named: give --judge a model or URL#model, or set judge.panel")
    named = [] if judges else [judge_of(folder, settings, name) for name in settings.judge.panel]
    prices = settings.judge.endpoint.prices
    try:
        with (
            stage(folder, kind, flags, resume=None, parents=parents) as s,
            Memory(folder.path / REPLIES, prices) as memory,
        ):
            yield s, [*judges, *(Remembered(judge, memory) for judge in named)], memory
    except Interrupted:
        raise Interrupted("Interrupted. Every answer so far is kept: the same command goes on.") from None


def _by_rubric(s: Stage, panel: Sequence[Judge], rubric: Rubric) -> JudgeAll:
    mass = s.settings.judge.least_mass
    return lambda asked, going: judge_pairs(asked, panel, rubric, least_mass=mass, going=going)


def _all_judged(s: Stage, asked: Sequence[Question], judge_all: JudgeAll) -> Iterator[Judged]:
    """Every pair judged, and written down for people to read. Raises Interrupted after Ctrl-C, once all is saved."""
    with s.run.interruptible(), progress("Judging", len(asked)) as report:
        for number, one in enumerate(judge_all(asked, lambda: not s.run.stop_requested), 1):
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
