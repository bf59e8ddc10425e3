"""A project from Python, three lines a stage.

import tutelage
project = tutelage.open("films")
run = project.sft({"sft.steps": 100})
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from tutelage import history
from tutelage.folder import ProjectFolder
from tutelage.history import Difference, Lineage, RunInfo

if TYPE_CHECKING:
    from tutelage.constitutional import Revising, RoundFigures
    from tutelage.evaluate.best_of_n import Point
    from tutelage.feedback.exchange import ExportReport, Format, ImportReport
    from tutelage.feedback.store import Store
    from tutelage.judge.asking import Judge
    from tutelage.judge.score import ScoreReward
    from tutelage.judging import Labelling, Validation
    from tutelage.learn.online_dpo import Annotate
    from tutelage.prioritising import Compared, Prioritised
    from tutelage.quality.summary import Quality
    from tutelage.questions import Question
    from tutelage.records import Annotator, Split
    from tutelage.rule_based import Graded
    from tutelage.runs import Run
    from tutelage.trial import Trial

    Judges = Sequence[Judge]

Flags = Mapping[str, Any]
NONE: Flags = {}


class Against(TypedDict, total=False):
    """Runs by id: the sft run to start from, the reward run, a second one for safety, the unfinished run to resume."""

    start: str | None
    scorer: str | None
    safety: str | None
    resume: str | None


class Project:
    """A project folder and what can be done in it. `settings` go over the file's, by dotted key.

    Every verb raises a TutelageError whose message says what was found, where, and what to do.
    """

    def __init__(self, folder: ProjectFolder) -> None:
        self.folder = folder

    @classmethod
    def open(cls, path: Path | str = ".", config: Path | str | None = None) -> "Project":
        """The project in a folder, with the settings in its tutelage.yaml or in another file."""
        return cls(ProjectFolder.at(path, config))

    @classmethod
    def init(cls, path: Path | str = ".", *, model: str = "smollm2-135m", store: str = "tutelage.db") -> "Project":
        """Make a new project: settings, an empty store, a folder for runs."""
        project = cls(ProjectFolder.init(path, model=model, store=store))
        with project.store():
            return project

    def store(self, settings: Flags = NONE) -> "Store":
        """The project's feedback, to be used with `with`."""
        from tutelage.feedback.store import Store

        return Store(self.folder.store_url(self.folder.core(settings)))

    def import_file(
        self,
        path: Path | str,
        format: "Format | Literal['auto']" = "auto",
        *,
        annotator: "Annotator",
        strict: bool = False,
        settings: Flags = NONE,
    ) -> "ImportReport":
        """Add a file's records to the store. Bad lines are reported and left out, or with `strict` stop everything."""
        from tutelage.feedback.exchange import import_file

        with self.store(settings) as store:
            return import_file(path, format, store, annotator=annotator, strict=strict)

    def export_file(
        self, path: Path | str, format: "Format", *, split: "Split | None" = None, settings: Flags = NONE
    ) -> "ExportReport":
        """Write what the store holds to a file."""
        from tutelage.feedback.exchange import export_file

        with self.store(settings) as store:
            return export_file(path, format, store, split=split)

    def prioritise(self, batch: str, scorers: Sequence[str], settings: Flags = NONE) -> "Prioritised":
        """Order what is left of a batch by how much an ensemble of reward runs would learn from each answer."""
        from tutelage.prioritising import prioritise

        return prioritise(self.folder, settings, batch, scorers)

    def compare_arms(self, runs: Sequence[str], settings: Flags = NONE) -> "Compared":
        """A reward run of either arm of active selection, on the same held-out pairs."""
        from tutelage.prioritising import compare

        return compare(self.folder, settings, runs)

    def backup(self, path: Path | str | None = None, settings: Flags = NONE) -> Path:
        """Write the whole store to a file, or to one named by the time in the project folder. Returns the file."""
        from tutelage.feedback.backup import back_up, backup_name
        from tutelage.feedback.database import parse_url

        url = parse_url(self.folder.store_url(self.folder.core(settings)))
        made = self.folder.path / backup_name(url) if path is None else Path(path)
        back_up(url, made)
        return made

    def restore(self, path: Path | str, *, replace: bool = False, settings: Flags = NONE) -> None:
        """Bring the store to what a backup holds; with `replace` also where it is not empty. Stop the studio first."""
        from tutelage.feedback.backup import restore
        from tutelage.feedback.database import parse_url

        restore(Path(path), parse_url(self.folder.store_url(self.folder.core(settings))), replace=replace)

    def sft(self, settings: Flags = NONE, *, resume: str | None = None) -> "Run":
        """Fine-tune on the store's demonstrations. `resume`: "newest" unfinished run, or the id of one."""
        from tutelage.wire import run_sft

        return run_sft(self.folder, settings, resume=resume)

    def reward(self, settings: Flags = NONE, *, start: str | None = None, resume: str | None = None) -> "Run":
        """Train a reward model on the store's rankings, from the newest sft run's model or `start`'s."""
        from tutelage.wire import run_reward

        return run_reward(self.folder, settings, start=start, resume=resume)

    def ppo(self, settings: Flags = NONE, **runs: Unpack[Against]) -> "Run":
        """Train the newest sft run's model against the newest reward run's; `ppo.reward` names other rewards."""
        from tutelage.roads_rl import run_ppo

        return run_ppo(self.folder, settings, **runs)

    def dpo(
        self,
        settings: Flags = NONE,
        *,
        start: str | None = None,
        online: "Annotate | str | None" = None,
        resume: str | None = None,
    ) -> "Run":
        """Train the newest sft run's model (or `start`'s) on the store's rankings, without a reward model.

        `online`: compare its own fresh samples instead, by a function of prompt and completions, or a reward run.
        """
        from tutelage.roads import run_dpo

        return run_dpo(self.folder, settings, start=start, online=online, resume=resume)

    def group(self, settings: Flags = NONE, **runs: Unpack[Against]) -> "Run":
        """Train as `ppo` does, but by RLOO, GRPO or REINFORCE."""
        from tutelage.roads_rl import run_group

        return run_group(self.folder, settings, **runs)

    def raft(self, settings: Flags = NONE, **runs: Unpack[Against]) -> "Run":
        """Fine-tune the newest sft run's model on the best of its own samples, in rounds."""
        from tutelage.roads_rl import run_raft

        return run_raft(self.folder, settings, **runs)

    def best_of_n(
        self,
        settings: Flags = NONE,
        *,
        run: str | None = None,
        scorer: str | None = None,
        safety: str | None = None,
        gold: str | None = None,
        samples: int = 64,
    ) -> "tuple[Run, tuple[Point, ...]]":
        """The best-of-n curve of the newest policy (or `run`'s) on held-out prompts, drawn in the run it returns."""
        from tutelage.roads_rl import run_curve

        return run_curve(self.folder, settings, model=run, scorer=scorer, safety=safety, gold=gold, samples=samples)

    def sample(
        self, settings: Flags = NONE, *, model: str | None = None, prompts: int = 100, completions: int = 4
    ) -> "tuple[Run, int]":
        """Sample completions to rank, from the newest policy or the run named. Returns the run and its questions."""
        from tutelage.wire import run_sample

        return run_sample(self.folder, settings, model=model, prompts=prompts, completions=completions)

    def questions(self, annotator: str, *, source: str | None = None, settings: Flags = NONE) -> "list[Question]":
        """What this annotator has not ranked yet, of the newest sampling run or the one named."""
        from tutelage.questions import FILE, read_questions, unanswered

        path = history.find_of_kind(self.folder.runs, "sample", source).path / FILE
        with self.store(settings) as store:
            return list(unanswered(read_questions(path), store.comparisons(annotator=annotator)))

    def quality(
        self,
        settings: Flags = NONE,
        *,
        gold: str | None = None,
        wage: float | None = None,
        split: "Split | None" = None,
    ) -> "Quality":
        """How good the store's labels are. `gold`: an annotator whose rankings are right; `wage`: an hour's."""
        from tutelage.quality.summary import of_store

        with self.store(settings) as store:
            return of_store(store, gold=gold, wage=wage, split=split)

    def evaluate(
        self, run: str, settings: Flags = NONE, *, against: str | None = None, judge: str | None = None
    ) -> "Trial":
        """Measure a run on what it was never trained on; the figures are left in its eval.json."""
        from tutelage.trial import evaluate

        return evaluate(self.folder, settings, name=run, against=against, judge=judge)

    def report(self, run: str) -> Path:
        """Write the run's report.html and return its path."""
        from tutelage.evaluate.run_report import write_run_report

        return write_run_report(history.find_run(self.folder.runs, run).path)

    def judge_compare(
        self, settings: Flags = NONE, *, source: str | None = None, file: Path | None = None
    ) -> "Labelling":
        """Let AI judges (`judge.panel`) label the pairs of the newest sampling run, of `source`, or of a file."""
        from tutelage.judging import run_compare

        return run_compare(self.folder, settings, source=source, file=file)

    def judge_validate(
        self,
        settings: Flags = NONE,
        *,
        file: Path | None = None,
        format: "Format | Literal['auto']" = "auto",
        pairs: int = 200,
        split: "Split | None" = None,
    ) -> "Validation":
        """Measure AI judges on pairs that people have decided, of the store or of a file."""
        from tutelage.judging import run_validate

        return run_validate(self.folder, settings, file=file, format=format, most=pairs, split=split)

    def constitution_revise(
        self, settings: Flags = NONE, *, run: str | None = None, prompts: int = 100, critic: "Judge | None" = None
    ) -> "Revising":
        """Let a critic (`judge.panel`, or the one given) revise answers by a constitution, into demonstrations."""
        from tutelage.constitutional import run_revise

        return run_revise(self.folder, settings, model=run, prompts=prompts, critic=critic)

    def constitution_compare(
        self, settings: Flags = NONE, *, source: str | None = None, file: Path | None = None, judges: "Judges" = ()
    ) -> "Labelling":
        """Label sampled pairs as `judge_compare` does, by the principles of a constitution."""
        from tutelage.constitutional import run_principles

        return run_principles(self.folder, settings, source=source, file=file, judges=judges)

    def constitution_report(self, run: str | None = None) -> "tuple[RunInfo, tuple[RoundFigures, ...]]":
        """How evasive the texts of a revising or sampling run are, round by round."""
        from tutelage.constitutional import evasion_of

        return evasion_of(self.folder, run)

    def propositions(self, settings: Flags = NONE, *, test: Path | None = None, scorer: str | None = None) -> "Graded":
        """Measure the grader of rule-based rewards, on `test` or by folds, and fit the weights of its propositions."""
        from tutelage.rule_based import run_propositions

        return run_propositions(self.folder, settings, test=test, scorer=scorer)

    def judge_reward(self, settings: Flags = NONE) -> "ScoreReward":
        """The judge as a reward function of (prompt, text), from -1 to 1: direct RLAIF."""
        from tutelage.judging import score_reward

        return score_reward(self.folder, settings)

    def runs(self, kind: str | None = None) -> list[RunInfo]:
        """Every run, newest first."""
        return history.list_runs(self.folder.runs, kind)

    def lineage(self, run: str) -> Lineage:
        """The run and all it came from."""
        return history.lineage(self.folder.runs, run)

    def compare(self, runs: Sequence[str]) -> Difference:
        """How runs differ, in settings and in numbers."""
        return history.compare(self.folder.runs, runs)
