"""The grader of propositions on OpenAI's labelled safety answers, beside a bag of words."""

from pathlib import Path

import pytest

from tutelage.evaluate.propositions import grader_figures
from tutelage.judge.grading import bag_of_words, fit_grader
from tutelage.judge.propositions import read_labelled, read_rulebook

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "safety-rbr"


@pytest.mark.slow
def test_the_grader_reaches_090_on_the_test_split():
    if not DATA.exists():
        pytest.skip("the shared data set safety-rbr is not beside the project")
    book = read_rulebook("safety")
    train, test = (read_labelled(DATA / f"{split}.jsonl", book) for split in ("train", "test"))
    answers = [(one.prompt, one.text) for one in test]
    found, words = (fit_grader(train, book, f).probabilities(answers) for f in (None, bag_of_words()))
    figures = grader_figures(test, found, book, words=words, training=train)
    print(figures)
    assert figures.auc.mean >= 0.90
    assert figures.auc.mean > figures.bag_of_words
    assert figures.accuracy > figures.majority
