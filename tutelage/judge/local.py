"""A judge on this machine: any causal language model we load. Every answer is a soft label, or words of its own.

The probability of an option is that of its tokens as the model's reply, over the options' sum (Lee et al. 2023, section
2.1). Where an option begins another ("1" and "10", two tokens), the longer one's probability is taken off the
shorter's. A model without a chat template reads the question as text that ends in "Answer:". Open questions are
answered by the likeliest token at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import torch

from tutelage.errors import DataError, ModelError
from tutelage.judge.asking import Ask, Reply, Usage
from tutelage.judge.verdict import of_words
from tutelage.model.batch import Batch, Packed, cut
from tutelage.model.causal import Model, fingerprint
from tutelage.model.heads import Policy
from tutelage.records import Message, Prompt
from tutelage.sample.sampler import Sampler, SamplingParams

TOGETHER = 16  # questions taken at a time
MICRO_TOKENS = 4096  # of one forward pass
Tokens = tuple[int, ...]


class LocalJudge:
    """A judge over a model of ours."""

    def __init__(self, model: Model, sampler: Sampler | None = None) -> None:
        """`sampler` writes the answers to open questions; without it they are not judged."""
        self.model, self.name, self.sampler = model, model.name, sampler
        self.policy = Policy(model.decoder)
        try:
            model.tokenizer.prompt(Prompt.user("?"))
            self.chats = True
        except ModelError:
            self.chats = False
        form = "chat" if self.chats else "text"
        self.identity = f"{fingerprint(model.decoder)} {model.decoder.compute} {form}"

    def choose(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Reply]]:
        """See `Judge.choose`. A question that does not fit the model, or holds its control tokens, is not judged."""
        source = enumerate(asks)
        while part := list(islice(source, TOGETHER)):
            prompts: dict[int, Tokens] = {}
            for place, ask in part:
                try:
                    prompts[place] = self._prompt(ask)
                except DataError as error:
                    yield place, Reply(None, reason=f"not for this model: {error}")
            yield from self._write(
                [(place, ask) for place, ask in part if place in prompts and not ask.options], prompts
            )
            asked = [(place, ask) for place, ask in part if place in prompts and ask.options]
            asked.sort(key=lambda one: len(prompts[one[0]]))
            for group in cut([len(prompts[place]) for place, _ in asked], MICRO_TOKENS):
                rows = [asked[i] for i in group]
                yield from self._answer(rows, [prompts[place] for place, _ in rows])

    def _prompt(self, ask: Ask) -> Tokens:
        """Raises DataError when the question cannot be put to this model."""
        tokenizer, context = self.model.tokenizer, self.model.decoder.config.context
        prompt = Prompt(messages=ask.messages) if self.chats else Prompt.text(_as_text(ask.messages))
        tokens = tuple(tokenizer.prompt(prompt))
        room = max((len(option) for option in self._options(ask)), default=ask.room)
        if len(tokens) + room > context:
            raise DataError(f"a question of {len(tokens)} tokens does not fit its context of {context}")
        return tokens

    def _write(self, asked: list[tuple[int, Ask]], prompts: Mapping[int, Tokens]) -> Iterator[tuple[int, Reply]]:
        """Open questions, those with room for as many tokens together."""
        for room in sorted({ask.room for _, ask in asked}):
            places = [place for place, ask in asked if ask.room == room]
            if self.sampler is None:
                yield from ((place, Reply(None, reason="not for this model: it has no sampler")) for place in places)
                continue
            params = SamplingParams(max_tokens=room, temperature=0)
            written = self.sampler.generate([prompts[place] for place in places], params, seed=0)
            for place, one in zip(places, written, strict=True):
                usage = Usage(calls=1, read=len(prompts[place]), written=len(one.tokens))
                text = self.model.tokenizer.decode(one.tokens)
                yield place, of_words(text, cut=one.finish == "length", usage=usage)

    def _options(self, ask: Ask) -> list[Tokens]:
        before = "" if self.chats else " "
        return [tuple(self.model.tokenizer.encode(before + option)) for option in ask.options]

    @torch.no_grad()
    def _answer(self, rows: list[tuple[int, Ask]], prompts: list[Tokens]) -> Iterator[tuple[int, Reply]]:
        """One pass over each prompt with each proper beginning of an option behind it."""
        sequences: dict[tuple[int, Tokens], int] = {}
        wanted: dict[tuple[int, Tokens], int] = {}  # (row, beginning of an option) -> place among the log-probabilities
        index: list[int] = []
        target: list[int] = []
        for row, (_, ask) in enumerate(rows):
            for option in self._options(ask):
                for end in range(1, len(option) + 1):
                    if (row, option[:end]) not in wanted:
                        wanted[row, option[:end]] = len(target)
                        index.append(sequences.setdefault((row, option[: end - 1]), len(sequences)))
                        target.append(option[end - 1])
        packed = Packed.of([prompts[row] + beginning for row, beginning in sequences])
        at = torch.tensor(index)
        logprob = self.policy(Batch(packed, packed.last[at], torch.tensor(target), at)).logprob.double().tolist()
        for row, (place, ask) in enumerate(rows):
            options = self._options(ask)
            whole = [sum(logprob[wanted[row, option[:end]]] for end in range(1, len(option) + 1)) for option in options]
            share = alone(options, torch.tensor(whole, dtype=torch.float64).exp().tolist())
            mass = sum(share)
            usage = Usage(calls=1, read=len(prompts[row]), written=1)
            if mass > 0:
                yield place, Reply(tuple(p / mass for p in share), mass=min(mass, 1.0), usage=usage)
            else:
                yield place, Reply(None, reason="off the form: no option has any probability", usage=usage)


def alone(options: list[Tokens], probabilities: list[float]) -> list[float]:
    """Probability that the reply begins with an option and with no longer one that the option begins."""
    return [
        max(
            0.0,
            p - sum(q for longer, q in zip(options, probabilities, strict=True) if _goes_on(option, longer)),
        )
        for option, p in zip(options, probabilities, strict=True)
    ]


def _goes_on(option: Tokens, longer: Tokens) -> bool:
    return len(longer) > len(option) and longer[: len(option)] == option


def _as_text(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(message.content for message in messages) + "\n\nAnswer:"
