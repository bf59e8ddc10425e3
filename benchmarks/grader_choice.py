"""How the fitted grader of rule-based rewards was chosen: cross-validation on the training split of safety-rbr alone.

    python benchmarks/grader_choice.py ../shared/data/safety-rbr/train.jsonl

Every candidate is fitted on four fifths of the prompts and graded on the rest, for two random cuts into five. What is
compared is the mean area under the ROC curve over the propositions that are true, and false, of at least five answers,
averaged over the cuts. The test split is not read. The winner is what `judge/reading.py` and `judge/grading.py` do.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from tutelage.evaluate.propositions import areas
from tutelage.judge.grading import INVERSE_DECAY, classifiers, said, span
from tutelage.judge.propositions import read_labelled, read_rulebook
from tutelage.judge.reading import STATES, TOKEN, StateReader, States, Words, bag_of_words
from tutelage.model.causal import load

CUTS, FOLDS, FEWEST = 2, 5, 5
DECAYS = (8.0, 32.0, 128.0)
LAYERS, SHARES = (12, 16, 20), (0.1, 0.25, 0.5)
BESIDE = "words, pairs, letters"


def word_pairs(_):
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=TOKEN)


def letters(_):
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3)


def cuts(labelled):
    """Which fold each answer is in, for every cut: the answers to one prompt together."""
    prompts = sorted({one.prompt.id for one in labelled})
    for cut in range(CUTS):
        fold = dict(zip(prompts, np.random.default_rng(cut).permutation(len(prompts)) % FOLDS, strict=True))
        yield np.array([fold[one.prompt.id] for one in labelled])


def products(features, known, new):
    """Those of known answers among themselves, and of new ones with them: all that a classifier sees of either."""
    rows = features.fit(known)
    return (rows @ rows.T).toarray(), (features.transform(new) @ rows.T).toarray()


def candidates(readers, known, new):
    """What can be read, by name, as products. States stand beside the words with a share of the square."""
    some = {"bag of words": bag_of_words, "words and pairs": word_pairs, "letters": letters}
    for name, make in some.items():
        yield name, products(Words(make), known, new)
    words = products(Words(), known, new)
    yield BESIDE, words
    for layer, reader in readers.items():
        states = products(States(reader), known, new)
        for share in SHARES:
            both = tuple((1 - share) * w + share * s for w, s in zip(words, states, strict=True))
            yield f"{BESIDE}, {share} of layer {layer}", both


def graded(labelled, book, readers, fold):
    """(n, P) out of fold by candidate and decay."""
    found = defaultdict(lambda: np.zeros((len(labelled), len(book.ids))))
    for part in range(FOLDS):
        rest, held = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        known, new = ([(labelled[i].prompt, labelled[i].text) for i in some] for some in (rest, held))
        for name, (among, with_new) in candidates(readers, known, new):
            basis = span(among)
            for decay in DECAYS:
                made = classifiers(among @ basis, [labelled[i] for i in rest], book, decay)
                found[name, decay][held] = said(with_new @ basis, made)
    return found


def read_all(labelled):
    """A reader for every layer that has read all answers."""
    model = load("smollm2-135m")
    readers = {layer: StateReader(model, layer) for layer in LAYERS}
    for reader in readers.values():
        reader.remember([(one.prompt, one.text) for one in labelled])
    return readers


def main(path):
    book = read_rulebook("safety")
    labelled = read_labelled(path, book)
    truth = np.array([[one.truth[id] for id in book.ids] for one in labelled])
    told = [k for k, true in enumerate(truth.sum(0)) if FEWEST <= true <= len(truth) - FEWEST]
    print(f"{len(labelled)} answers, {len(told)} propositions", flush=True)
    readers = read_all(labelled)
    each = defaultdict(list)
    for fold in cuts(labelled):
        for key, probabilities in graded(labelled, book, readers, fold).items():
            each[key].append(float(areas(probabilities[:, told], truth[:, told]).mean()))
    for (name, decay), found in sorted(each.items(), key=lambda one: -np.mean(one[1])):
        print(f"{np.mean(found):.4f} {[round(one, 4) for one in found]} {name}, C {decay:g}", flush=True)
    print(f"shipped: {STATES} of the states, C {INVERSE_DECAY:g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
