"""How probable each proposition is of an answer: by a classifier fitted on labelled answers, or by an AI judge.

The classifier is a logistic regression for each proposition on the answer's words, and where a model reads along, on
its hidden states (`reading.py`). It is fitted anew from the labelled file wherever it is needed, in seconds, so that no
pickle is kept. The judge is asked yes or no (Mu et al. 2024, section 4.1), and the probability is that of the token
"Yes" beside "No".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError, JudgeError
from tutelage.judge.asking import Ask, Judge
from tutelage.judge.compare import JudgeConfig, heard
from tutelage.judge.propositions import Labelled, Numbers, Rulebook
from tutelage.judge.reading import Answers, Features, Words
from tutelage.judge.rubric import conversation, fill, marked
from tutelage.records import Message, Prompt, content_id

YES_NO = ("Yes", "No")
INVERSE_DECAY = 32.0  # C of the logistic regressions, chosen with the features
FOLDS = 5


class Grader(Protocol):
    """Says how probable propositions are."""

    def probabilities(self, answers: Answers) -> Numbers:
        """(n, P): each answer, each proposition of the rulebook."""


@dataclass(frozen=True)
class FittedGrader:
    """A classifier for each proposition. Where the labelled answers were all alike it gives their share."""

    features: Features
    rows: Any
    """(n, D) of the n labelled answers."""
    basis: Numbers
    """(n, R): from an answer's products with those rows to its coordinates in the space they span."""
    classifiers: tuple[Any, ...]

    def probabilities(self, answers: Answers) -> Numbers:
        """See `Grader.probabilities`."""
        if not answers:
            return np.zeros((0, len(self.classifiers)))
        return said((self.features.transform(answers) @ self.rows.T).toarray() @ self.basis, self.classifiers)


def said(read: Numbers, classifiers: Sequence[Any]) -> Numbers:
    """(n, P) by classifiers of coordinates (n, R)."""
    columns = [
        np.full(len(read), one) if isinstance(one, float) else one.predict_proba(read)[:, 1] for one in classifiers
    ]
    return np.stack(columns, axis=1)


def fit_grader(labelled: Sequence[Labelled], book: Rulebook, features: Features | None = None) -> FittedGrader:
    """Fit on labelled answers: the same ones give the same grader. `features`: what is read; without it, words.

    The weights of a logistic regression lie in the space that its examples span, so that is where it is solved.
    Raises DataError without answers.
    """
    if not labelled:
        raise DataError("there are no labelled answers to fit a grader on: name some by propositions.labelled")
    features = features or Words()
    rows = features.fit([(one.prompt, one.text) for one in labelled])
    products = (rows @ rows.T).toarray()
    basis = span(products)
    return FittedGrader(features, rows, basis, classifiers(products @ basis, labelled, book))


def span(products: Numbers) -> Numbers:
    """(n, R): what takes products with n rows to coordinates in the space of the rows, from their own products."""
    lengths, directions = np.linalg.eigh(products)
    kept = lengths > 1e-9 * lengths[-1]
    found: Numbers = directions[:, kept] / np.sqrt(lengths[kept])
    return found


def classifiers(
    read: Numbers, labelled: Sequence[Labelled], book: Rulebook, inverse_decay: float = INVERSE_DECAY
) -> tuple[Any, ...]:
    """For each proposition a logistic regression on coordinates (n, R), or the share of a truth that never changes."""
    from sklearn.linear_model import LogisticRegression

    made: list[Any] = []
    for id in book.ids:
        truth = np.array([one.truth[id] for one in labelled])
        if truth.all() or not truth.any():
            made.append(float((truth.sum() + 1) / (len(truth) + 2)))
        else:
            made.append(LogisticRegression(C=inverse_decay, solver="newton-cholesky").fit(read, truth))
    return tuple(made)


def out_of_fold(labelled: Sequence[Labelled], book: Rulebook, features: Callable[[], Features] = Words) -> Numbers:
    """(n, P) by graders that did not learn from the answer's prompt: what is graded is as uncertain as what is new.

    `features` makes what each fold's grader reads. Raises DataError when all answers are to one prompt.
    """
    fold = np.array([int(content_id("fold", one.prompt.id)[:8], 16) % FOLDS for one in labelled])
    found = np.zeros((len(labelled), len(book.propositions)))
    for part in range(FOLDS):
        held = np.flatnonzero(fold == part).tolist()
        if held:
            others = [one for one, f in zip(labelled, fold, strict=True) if f != part]
            grader = fit_grader(others, book, features())
            found[held] = grader.probabilities([(labelled[i].prompt, labelled[i].text) for i in held])
    return found


def proposition_ask(statement: str, prompt: Prompt, text: str) -> Ask:
    """Is this statement true of this answer?"""
    spoken = conversation(prompt)
    key = content_id(spoken, text)[:12]
    filled = {
        "statement": statement,
        "conversation": marked("conversation", key, spoken),
        "answer": marked("answer", key, text),
    }
    return Ask((Message(role="user", content=fill("proposition", filled)),), YES_NO, (text, statement))


@dataclass(frozen=True)
class JudgeGrader:
    """An AI judge, asked of each proposition whether it is true: P questions an answer."""

    judge: Judge
    book: Rulebook
    least_mass: float = JudgeConfig().least_mass

    def probabilities(self, answers: Answers) -> Numbers:
        """See `Grader.probabilities`. Raises JudgeError where the judge does not answer: a guess would be learned."""
        every = [(prompt, text, one) for prompt, text in answers for one in self.book.propositions]
        replies = dict(self.judge.choose(proposition_ask(one.text, prompt, text) for prompt, text, one in every))
        found: NDArray[np.float64] = np.zeros(len(every))
        for place, (_, _, one) in enumerate(every):
            probabilities, reason = heard(replies[place], self.least_mass)
            if probabilities is None:
                raise JudgeError(
                    f"{self.judge.name} did not say whether {one.id} is true of an answer: {reason}. Use another "
                    "judge, or lower judge.least_mass"
                )
            found[place] = probabilities[0]
        return found.reshape(len(answers), len(self.book.propositions))
