"""The fake: a sampler that says what it was told to. For tests, and for trying a loop without a model."""

from collections.abc import Callable, Iterator, Sequence

import torch

from tutelage.model.decoder import Decoder
from tutelage.sample.sampler import Sampled, SamplingParams, replay


class Scripted:
    """A Sampler that answers from a script, whatever the prompt and the seed.

    The answers are given out in order and start again after the last one, across calls. An answer that holds the end
    token ends there ("stop"); one without it, or cut at `max_tokens`, finishes with "length". Every log-probability is
    0: a script is certain.
    """

    def __init__(self, answers: Sequence[Sequence[int]], end: int) -> None:
        """Raises ValueError when there is no answer or one is empty."""
        if not answers or not all(answers):
            raise ValueError(f"a script needs at least one answer and no empty ones; got {list(answers)}")
        self.answers, self.end = [tuple(a) for a in answers], end
        self.given = 0  # answers given out so far
        self.loads: list[Decoder] = []  # what `load` was called with, for a test to look at

    @classmethod
    def texts(cls, texts: Sequence[str], encode: Callable[[str], Sequence[int]], end: int) -> "Scripted":
        """A script of texts, each followed by the end token."""
        return cls([(*encode(text), end) for text in texts], end)

    def load(self, decoder: Decoder) -> None:
        """Remember the decoder; the script stays."""
        self.loads.append(decoder)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """The next answers of the script, one for each prompt."""
        out = []
        for _ in prompts:
            answer = self.answers[self.given % len(self.answers)]
            self.given += 1
            length = answer.index(self.end) + 1 if self.end in answer else len(answer)
            tokens = answer[: min(length, params.max_tokens)]
            out.append(Sampled(tokens, torch.zeros(len(tokens)), "stop" if tokens[-1] == self.end else "length"))
            if progress is not None:
                progress(len(out))
        return out

    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int
    ) -> Iterator[dict[int, int]]:
        """The next answers of the script, token by token."""
        yield from replay(self.generate(prompts, params, seed=seed))
