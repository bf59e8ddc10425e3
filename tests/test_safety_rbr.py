"""The grader of propositions on OpenAI's labelled safety answers, beside a bag of words.

    pytest tests/test_safety_rbr.py -m slow -s

What the grader reads was chosen on the training split alone (`docs/log.md`); here the test split is
measured.
"""

from pathlib import Path

import pytest
import torch

from tutelage.evaluate.propositions import grader_figures
from tutelage.judge.grading import fit_grader
from tutelage.judge.propositions import read_labelled, read_rulebook
from tutelage.judge.reading import StateReader, Words, WordsAndStates, bag_of_words
from tutelage.model.causal import load, model_folder

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "safety-rbr"


def measured(features):
    """Figures on the test split of a grader fitted on the training split."""
    if not DATA.exists():
        pytest.skip("the shared data set safety-rbr is not beside the project")
    book = read_rulebook("safety")
    train, test = (read_labelled(DATA / f"{split}.jsonl", book) for split in ("train", "test"))
    answers = [(one.prompt, one.text) for one in test]
    found, words = (fit_grader(train, book, f).probabilities(answers) for f in (features, Words(bag_of_words)))
    figures = grader_figures(test, found, book, words=words, training=train)
    for one in figures.propositions:
        print(one)
    print(f"macro {figures.auc}, bag of words {figures.bag_of_words:.3f}, accuracy {figures.accuracy:.3f}")
    assert figures.auc.mean > figures.bag_of_words
    assert figures.accuracy > figures.majority
    return figures.auc.mean


@pytest.mark.slow
def test_the_grader_of_words_reaches_090_on_the_test_split():
    assert measured(Words()) >= 0.90


@pytest.mark.slow
def test_the_grader_that_a_model_reads_along_with_reaches_090_on_the_test_split():
    folder = model_folder("smollm2-135m")
    if not folder.is_dir():
        pytest.skip("needs the download: tutelage models get smollm2-135m")
    assert measured(WordsAndStates(StateReader(load(folder, compute=torch.float32)))) >= 0.90
