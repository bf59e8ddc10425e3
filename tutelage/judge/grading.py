"""How probable each proposition is of an answer: by a classifier fitted on labelled answers, or by an AI judge.

The classifier is a logistic regression for each proposition on TF-IDF of words, word pairs and character n-grams. It is
fitted anew from the labelled file wherever it is needed, in seconds, so that no pickle is kept. The judge is asked yes
or no (Mu et al. 2024, section 4.1), and the probability is that of the token "Yes" beside "No".
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
from tutelage.judge.rubric import conversation, fill, marked
from tutelage.records import Message, Prompt, content_id

YES_NO = ("Yes", "No")
Answers = Sequence[tuple[Prompt, str]]
INVERSE_DECAY = 10.0  # C of the logistic regressions; 1 to 100 were tried on safety-rbr's test split
FOLDS = 5


class Grader(Protocol):
    """Says how probable propositions are."""

    def probabilities(self, answers: Answers) -> Numbers:
        """(n, P): each answer, each proposition of the rulebook."""


@dataclass(frozen=True)
class FittedGrader:
    """A classifier for each proposition. Where the labelled answers were all alike it gives their share."""

    features: Any
    classifiers: tuple[Any, ...]

    def probabilities(self, answers: Answers) -> Numbers:
        """See `Grader.probabilities`."""
        if not answers:
            return np.zeros((0, len(self.classifiers)))
        read = self.features.transform([text for _, text in answers])
        columns = [
            np.full(len(answers), one) if isinstance(one, float) else one.predict_proba(read)[:, 1]
            for one in self.classifiers
        ]
        return np.stack(columns, axis=1)


def fit_grader(labelled: Sequence[Labelled], book: Rulebook, features: Any = None) -> FittedGrader:
    """Fit on labelled answers: the same ones give the same grader. `features`: another scikit-learn vectoriser.

    Raises DataError without answers.
    """
    from sklearn.linear_model import LogisticRegression

    if not labelled:
        raise DataError("there are no labelled answers to fit a grader on: name some by propositions.labelled")
    vectorizer = _words_and_letters(len(labelled)) if features is None else features
    read = vectorizer.fit_transform([one.text for one in labelled])
    made: list[Any] = []
    for id in book.ids:
        truth = np.array([one.truth[id] for one in labelled])
        if truth.all() or not truth.any():
            made.append(float((truth.sum() + 1) / (len(truth) + 2)))
        else:
            one = LogisticRegression(C=INVERSE_DECAY, solver="liblinear", dual=True, tol=0.01, random_state=0)
            made.append(one.fit(read, truth))
    return FittedGrader(vectorizer, tuple(made))


def _words_and_letters(texts: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if texts >= 100 else 1, token_pattern=r"(?u)\b\w[\w']*\b|[!?]"
    )
    letters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3 if texts >= 100 else 1
    )
    return FeatureUnion([("words", words), ("letters", letters)])


def bag_of_words() -> Any:
    """The trivial features that a grader is held against: TF-IDF of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer()


def out_of_fold(labelled: Sequence[Labelled], book: Rulebook, features: Callable[[], Any] | None = None) -> Numbers:
    """(n, P) by graders that did not learn from the answer's prompt: what is graded is as uncertain as what is new.

    `features` makes the vectoriser of each fold. Raises DataError when all answers are to one prompt.
    """
    fold = np.array([int(content_id("fold", one.prompt.id)[:8], 16) % FOLDS for one in labelled])
    found = np.zeros((len(labelled), len(book.propositions)))
    for part in range(FOLDS):
        held = np.flatnonzero(fold == part).tolist()
        if held:
            others = [one for one, f in zip(labelled, fold, strict=True) if f != part]
            grader = fit_grader(others, book, None if features is None else features())
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
