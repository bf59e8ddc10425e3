"""What the fitted grader reads of an answer: its words, and what a language model makes of it after the prompt.

1. Words: TF-IDF of words, word pairs and character n-grams, of length 1.
2. States: the mean hidden state in the middle of the model over the answer's tokens, read after the prompt; each number
   less its mean over the labelled answers, over its deviation there, and all of them of mean square 1. So the grader
   sees whether an answer follows from what was said, which its words alone do not tell.

What is chosen here was chosen by cross-validation on the training split of safety-rbr (`docs/log.md`).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tutelage.errors import ModelError
from tutelage.judge.propositions import Numbers
from tutelage.model.batch import Packed, cut
from tutelage.model.causal import Model
from tutelage.model.heads import trunk
from tutelage.records import Prompt

Answers = Sequence[tuple[Prompt, str]]
TOKEN = r"(?u)\b\w[\w']*\b|[!?]"  # a word, or what is asked or shouted
STATES = 0.25  # share of the states in the square of what is read; the rest is the words'
PROMPT_TOKENS, ANSWER_TOKENS = 700, 500  # the end of a prompt and the beginning of an answer are read
MICRO_TOKENS = 4096  # of one forward pass


class Features(Protocol):
    """Answers as rows of numbers."""

    def fit(self, answers: Answers) -> Any:
        """(n, D) of labelled answers, which say what the columns are."""

    def transform(self, answers: Answers) -> Any:
        """(n, D) of any answers."""


def bag_of_words(_: int) -> Any:
    """TF-IDF of single words: the trivial features."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer()


def words_and_letters(texts: int) -> Any:
    """TF-IDF of words, word pairs and character n-grams. Of a hundred texts and more, what is rare is left out."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion, make_pipeline
    from sklearn.preprocessing import Normalizer

    many = texts >= 100
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if many else 1, token_pattern=TOKEN)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3 if many else 1)
    return make_pipeline(FeatureUnion([("words", words), ("letters", letters)]), Normalizer())


class Words:
    """What the words of answers are."""

    def __init__(self, make: Callable[[int], Any] = words_and_letters) -> None:
        """`make` gives a vectoriser of scikit-learn for so many texts."""
        self.make = make
        self.vectorizer: Any = None

    def fit(self, answers: Answers) -> Any:
        """See `Features.fit`."""
        self.vectorizer = self.make(len(answers))
        return self.vectorizer.fit_transform([text for _, text in answers])

    def transform(self, answers: Answers) -> Any:
        """See `Features.transform`."""
        return self.vectorizer.transform([text for _, text in answers])


class StateReader:
    """A language model that reads answers after their prompts."""

    def __init__(self, model: Model, layer: int | None = None) -> None:
        """`layer` counts those that are run; without it, half of them and one more.

        Raises ModelError for a model whose layers are not ours to stop at.
        """
        layers = len(model.decoder.layers)
        if not layers:
            family = model.decoder.config.family
            raise ModelError(
                f"a {family} model has no layers of ours to read states from: name another reader, or none"
            )
        self.model, self.layer = model, min(layers // 2 + 1, layers) if layer is None else layer
        self.known: dict[tuple[str, str], Numbers] = {}

    def remember(self, answers: Answers) -> None:
        """Read these now and never again."""
        for (prompt, text), state in zip(answers, self.states(answers), strict=True):
            self.known[prompt.id, text] = state

    def states(self, answers: Answers) -> Numbers:
        """(n, H) mean state of each answer. Raises what the tokenizer raises for a prompt that it cannot render."""
        new = [(p, t) for p, t in answers if (p.id, t) not in self.known]
        read = dict(zip([(p.id, t) for p, t in new], self._read(new), strict=True))
        found = [self.known[key] if (key := (p.id, t)) in self.known else read[key] for p, t in answers]
        return np.array(found).reshape(len(answers), self.model.decoder.config.hidden_size)

    def _read(self, answers: Answers) -> list[Numbers]:
        tokenizer = self.model.tokenizer
        prompts = [tokenizer.prompt(prompt)[-PROMPT_TOKENS:] for prompt, _ in answers]
        said = [tokenizer.completion(text)[:ANSWER_TOKENS] for _, text in answers]
        found: dict[int, Numbers] = {}
        for part in cut([len(p) + len(a) for p, a in zip(prompts, said, strict=True)], MICRO_TOKENS):
            packed = Packed.of([[*prompts[i], *said[i]] for i in part])
            hidden = trunk(self.model.decoder, packed, self.layer)
            assert hidden is not None
            for i, start in zip(part, packed.starts.tolist(), strict=True):
                first = start + len(prompts[i])
                found[i] = hidden[first : first + len(said[i])].mean(0).double().cpu().numpy()
        return [found[i] for i in range(len(answers))]


class States:
    """The mean states of answers, as in 2."""

    def __init__(self, reader: StateReader) -> None:
        self.reader = reader
        self.mean, self.deviation = np.zeros(0), np.ones(0)

    def fit(self, answers: Answers) -> Any:
        """See `Features.fit`."""
        states = self.reader.states(answers)
        self.mean, self.deviation = states.mean(0), states.std(0) + 1e-6
        return self._scaled(states)

    def transform(self, answers: Answers) -> Any:
        """See `Features.transform`."""
        return self._scaled(self.reader.states(answers))

    def _scaled(self, states: Numbers) -> Any:
        from scipy.sparse import csr_matrix

        return csr_matrix((states - self.mean) / self.deviation / np.sqrt(states.shape[1]))


class WordsAndStates:
    """Both, side by side."""

    def __init__(self, reader: StateReader, share: float = STATES) -> None:
        self.words, self.states, self.share = Words(), States(reader), share

    def fit(self, answers: Answers) -> Any:
        """See `Features.fit`."""
        return self._beside(self.words.fit(answers), self.states.fit(answers))

    def transform(self, answers: Answers) -> Any:
        """See `Features.transform`."""
        return self._beside(self.words.transform(answers), self.states.transform(answers))

    def _beside(self, words: Any, states: Any) -> Any:
        from scipy.sparse import hstack

        return hstack([words * np.sqrt(1 - self.share), states * np.sqrt(self.share)]).tocsr()
