"""Rule-based rewards at work: the grader, the weights, and how good they are, from a project's settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import history
from tutelage.checkpoint import write_atomically
from tutelage.errors import ConfigError, DataError
from tutelage.evaluate.propositions import GraderFigures, grader_figures
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.judge.grading import FittedGrader, Grader, JudgeGrader, fit_grader, out_of_fold
from tutelage.judge.memory import Memory
from tutelage.judge.propositions import (
    Labelled,
    Numbers,
    Rulebook,
    ranked_pairs,
    read_behaviours,
    read_labelled,
    read_rulebook,
)
from tutelage.judge.reading import Answers, Features, StateReader, Words, WordsAndStates, bag_of_words
from tutelage.judge.rule_weights import Pairs, RuleBasedReward, fit_weights
from tutelage.judging import REPLIES, one_judge
from tutelage.learn.best_of_n import score
from tutelage.learn.reward import load_reward
from tutelage.learn.rollout import Reward
from tutelage.model import causal
from tutelage.model.chat import Tokenizer
from tutelage.records import Prompt
from tutelage.runs import Run
from tutelage.stage import Settings, Stage, stage
from tutelage.terminal import plain

MOST_COMPARISONS = 1000  # of the store's, that weights are fitted on
KEPT = "propositions.json"


@dataclass(frozen=True)
class Weight:
    """What a proposition is worth where a behaviour is asked for, in deviations of the reward."""

    behaviour: str
    proposition: str
    weight: float
    wanted: int
    """The sign that the rulebook gives it."""


@dataclass(frozen=True)
class Weighing:
    """The weights, and what they do to the ranked pairs they were fitted on."""

    weights: tuple[Weight, ...]
    pairs: int
    hinge: float
    """Mean hinge loss with the weights."""
    hinge_without: float
    """The same with the reward model alone."""
    accuracy: float
    """Share of pairs in the right order with the weights."""
    accuracy_without: float
    """The same with the reward model alone; ½ where there is none."""


@dataclass(frozen=True)
class Graded:
    """What `tutelage propositions` found."""

    run: Run
    figures: GraderFigures | None
    """None where a judge grades and there are no labelled answers."""
    held_out: str
    """What the figures are measured on."""
    weighing: Weighing | None
    """None where no two answers are ranked."""


class Rules:
    """A project's rulebook, labelled answers and grader."""

    def __init__(self, folder: ProjectFolder, settings: Settings, memory: Memory | None) -> None:
        """Raises ConfigError or DataError for what cannot be read, and where a classifier has nothing to learn from."""
        self.folder, self.config = folder, settings.propositions
        named = folder.path / self.config.rulebook
        self.book: Rulebook = read_rulebook(named if named.is_file() else self.config.rulebook)
        if self.config.otherwise not in self.book.behaviours:
            raise ConfigError(
                f"propositions.otherwise is {self.config.otherwise!r}, but the rulebook has {[*self.book.behaviours]}"
            )
        labelled, behaviours = self.config.labelled, self.config.behaviours
        self.labelled = [] if labelled is None else read_labelled(folder.path / labelled, self.book)
        self.behaviours = {} if behaviours is None else read_behaviours(folder.path / behaviours, self.book)
        self.reader = self._reader(settings.device)
        self.grader: Grader
        match self.config.grader:
            case "fitted":
                self.grader = fit_grader(self.labelled, self.book, self.features())
            case "judge":
                self.grader = JudgeGrader(one_judge(folder, settings, memory), self.book, settings.judge.least_mass)

    def _reader(self, device: str) -> StateReader | None:
        """The model that reads along, which has then read the labelled answers."""
        if not self.config.reader:
            return None
        inside = self.folder.path / self.config.reader
        reader = StateReader(causal.load(inside if inside.exists() else self.config.reader, device=device))
        reader.remember(_answers(self.labelled))
        return reader

    def features(self) -> Features:
        """What a classifier of these settings reads."""
        return Words() if self.reader is None else WordsAndStates(self.reader)

    def graded(self) -> Numbers:
        """(n, P) of the labelled answers, by graders that did not learn from them."""
        if isinstance(self.grader, FittedGrader):
            return out_of_fold(self.labelled, self.book, self.features)
        return self.grader.probabilities(_answers(self.labelled))

    def pairs(
        self, store: Store, tokenizer: Tokenizer | None, network: Reward | None, graded: Numbers | None = None
    ) -> Pairs | None:
        """What weights are fitted on; None when nothing is ranked."""
        match self.config.pairs:
            case "labelled":
                answers, asked = _answers(self.labelled), [one.behaviour for one in self.labelled]
                ranked = ranked_pairs(self.labelled, self.book)
                probabilities = self.graded() if graded is None and ranked else graded
            case "comparisons":
                answers, asked, ranked = self._compared(store)
                probabilities = self.grader.probabilities(answers) if ranked else None
        if not ranked or probabilities is None:
            return None
        phi = self.book.phi(probabilities, asked)
        scores = np.zeros(len(answers))
        if network is not None and tokenizer is not None:
            scores = text_scores(network, tokenizer, answers)
        better, worse = (list(side) for side in zip(*ranked, strict=True))
        return Pairs(phi[better], phi[worse], scores[better], scores[worse])

    def _compared(self, store: Store) -> tuple[list[tuple[Prompt, str]], list[str], list[tuple[int, int]]]:
        """The store's decided training comparisons of the prompts whose behaviour is known, or of all if none is."""
        answers: list[tuple[Prompt, str]] = []
        asked: list[str] = []
        ranked: list[tuple[int, int]] = []
        known = (c for c in store.comparisons("train") if not self.behaviours or c.prompt.id in self.behaviours)
        for c in islice(known, MOST_COMPARISONS):
            ranked += [(len(answers) + i, len(answers) + j) for i, j in c.pairs()]
            answers += [(c.prompt, one.text) for one in c.completions]
            asked += [self.behaviours.get(c.prompt.id, self.config.otherwise)] * len(c.completions)
        return answers, asked, ranked

    def reward(self, weights: Numbers) -> RuleBasedReward:
        """What is added to the reward model's score."""
        return RuleBasedReward(self.book, self.grader, weights, self.behaviours, self.config.otherwise)

    def weighed(self, pairs: Pairs, weights: Numbers) -> Weighing:
        """The weights by name, and what they do."""
        rows = [
            Weight(f.behaviour, self.book.ids[f.proposition], float(w), f.sign)
            for f, w in zip(self.book.features, weights, strict=True)
        ]
        nothing = np.zeros(len(weights))
        return Weighing(
            tuple(rows),
            len(pairs.better),
            pairs.hinge(weights),
            pairs.hinge(nothing),
            pairs.accuracy(weights),
            pairs.accuracy(nothing),
        )


def rule_based_reward(
    s: Stage, store: Store, tokenizer: Tokenizer, network: Reward | None, memory: Memory | None
) -> RuleBasedReward:
    """The settings' rule-based reward. Its weights are fitted when the run begins, and kept in its folder.

    Raises DataError when nothing ranked says what the propositions are worth.
    """
    rules, path = Rules(s.folder, s.settings, memory), s.run.path / KEPT
    if not path.exists():
        pairs = rules.pairs(store, tokenizer, network)
        weights = fit_weights(_some(pairs), rules.config.decay)
        write_atomically(path, json.dumps(plain(rules.weighed(_some(pairs), weights)), indent=1))
    kept = json.loads(path.read_text(encoding="utf-8"))
    return rules.reward(np.array([row["weight"] for row in kept["weights"]]))


def run_propositions(
    folder: ProjectFolder, flags: Mapping[str, Any], *, test: Path | None = None, scorer: str | None = None
) -> Graded:
    """Measure the settings' grader and fit its weights: figures and weights are left in the run made.

    `test`: labelled answers that are only measured on; without it, each labelled answer is graded by a classifier that
    did not learn from its prompt. `scorer`: the reward run whose scores the weights are added to; without it, the
    newest, or none.
    """

    def parents() -> list[RunInfo]:
        if scorer is None and history.newest_done(folder.runs, "reward") is None:
            return []
        return [history.find_of_kind(folder.runs, "reward", scorer)]

    with stage(folder, "propositions", flags, resume=None, parents=parents) as s, s.open_store() as store:
        with Memory(folder.path / REPLIES, s.settings.judge.endpoint.prices) as memory:
            rules = Rules(folder, s.settings, memory)
            held_out = rules.labelled if test is None else read_labelled(test, rules.book)
            graded = rules.graded() if rules.labelled and (test is None or rules.config.pairs == "labelled") else None
            figures = _figures(rules, held_out, graded if test is None else None) if held_out else None
            found = s.run.facts["parents"]
            network = load_reward(folder.runs / found[0] / "model", s.settings.device) if found else None
            pairs = rules.pairs(store, None if network is None else network.tokenizer, network, graded)
            weighing = None if pairs is None else rules.weighed(pairs, fit_weights(pairs, rules.config.decay))
        where = str(test) if test else "labelled answers, five folds by prompt"
        s.run.evaluate(plain({"figures": figures, "measured_on": where, "weighing": weighing}))
    return Graded(s.run, figures, where, weighing)


def text_scores(network: Reward, tokenizer: Tokenizer, answers: Answers) -> Numbers:
    """(n,) what a reward says of texts."""
    prompts = [tokenizer.prompt(prompt) for prompt, _ in answers]
    return np.asarray(score(network, prompts, [tokenizer.completion(text) for _, text in answers]).double().numpy())


def _figures(rules: Rules, held_out: Sequence[Labelled], graded: Numbers | None) -> GraderFigures:
    """`graded`: what is already known of the held-out answers, which are then the labelled ones themselves."""
    known, answers = rules.labelled or held_out, _answers(held_out)
    if graded is not None or not rules.labelled:
        words = out_of_fold(known, rules.book, partial(Words, bag_of_words))
    else:
        words = fit_grader(known, rules.book, Words(bag_of_words)).probabilities(answers)
    probabilities = rules.grader.probabilities(answers) if graded is None else graded
    return grader_figures(held_out, probabilities, rules.book, words=words, training=known)


def _answers(labelled: Sequence[Labelled]) -> list[tuple[Prompt, str]]:
    return [(one.prompt, one.text) for one in labelled]


def _some(pairs: Pairs | None) -> Pairs:
    """Raises DataError for none."""
    if pairs is None:
        raise DataError(
            "no two answers to one prompt are ranked differently, so nothing says what the propositions are worth: "
            "label several answers to a prompt (propositions.labelled), or set propositions.pairs to 'comparisons'"
        )
    return pairs
