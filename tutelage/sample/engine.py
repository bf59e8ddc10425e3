"""Batched decoding over our own decoder: rows that end leave, prompts that wait take their place.

Every step is one pass over the rows being continued and the prompts just let in together (as Sarathi, Agrawal et al.
2023, section 4): a refill costs no pass of its own. Continued rows look into the cache, prompts into themselves. Equal
prompts let in together are computed once. When no prompt waits, the batch shrinks with its rows.

Legend: N prompts, B rows in use, T tokens of a step, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.model.batch import Packed
from tutelage.model.decoder import Block, Decoder
from tutelage.model.native import FEW_ROWS, PIECES, panels, product
from tutelage.sample import native
from tutelage.sample.cache import Cache, Step
from tutelage.sample.draw import draw
from tutelage.sample.sampler import Sampled, SamplingParams, check_prompts, uniforms

PROMPT_TOKENS = 4096  # let in at one step at most, to bound the memory of a pass
VOCABULARY_SLICE = 2048


@dataclass
class Job:
    """What one call of `generate` knows. All of it but the hidden states is on the CPU and indexed by prompt."""

    prompts: Sequence[Sequence[int]]
    lengths: Tensor  # (N,) int64 tokens of each prompt
    limits: Tensor  # (N,) int64 new tokens each may have
    tokens: Tensor  # (N, max_tokens + 1) int64; the last column only holds what follows the last token of a completion
    logprobs: Tensor  # (N, max_tokens + 1) fp32
    uniform: Tensor  # (N, max_tokens + 1) fp64
    made: Tensor  # (N,) int64 tokens drawn so far
    size: Tensor  # (N,) int64 tokens of the completion, 0 while it goes on
    waiting: list[int]  # prompts not let in yet; the next one is last
    rows: Tensor  # (B,) int64: the prompt that each row continues

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], max_tokens: int, context: int, seed: int) -> "Job":
        """A job of which nothing is done. The longest prompts go first, equal prompts side by side."""
        n, lengths = len(prompts), torch.tensor([len(p) for p in prompts])
        return cls(
            prompts=prompts,
            lengths=lengths,
            limits=(context - lengths).clamp(max=max_tokens),
            tokens=torch.zeros(n, max_tokens + 1, dtype=torch.int64),
            logprobs=torch.zeros(n, max_tokens + 1),
            uniform=F.pad(uniforms(seed, n, max_tokens), (0, 1)),
            made=torch.zeros(n, dtype=torch.int64),
            size=torch.zeros(n, dtype=torch.int64),
            waiting=sorted(range(n), key=lambda i: (len(prompts[i]), tuple(prompts[i]), -i)),
            rows=torch.zeros(0, dtype=torch.int64),
        )

    def admit(self, room: int) -> tuple[list[int], list[tuple[int, ...]], list[int]]:
        """Take up to `room` waiting prompts: which, the different ones among them, and for each its place in those."""
        taken: list[int] = []
        different: dict[tuple[int, ...], int] = {}
        cost = 0
        while self.waiting and len(taken) < room:
            prompt = tuple(self.prompts[self.waiting[-1]])
            if prompt not in different:
                cost += len(prompt)
                if different and cost > PROMPT_TOKENS:
                    break
            different.setdefault(prompt, len(different))
            taken.append(self.waiting.pop())
        return taken, list(different), [different[tuple(self.prompts[i])] for i in taken]


class Engine:
    """A Sampler over our decoder. Rows are independent: slots and company change speed, never a completion."""

    def __init__(self, decoder: Decoder, end: int, *, capture: int | None = None) -> None:
        """`end` is the token that ends a completion. With `capture`, a `Sampled` has the states entering that layer.

        The last token of a completion is then fed as well, one step that a plain job saves. Raises ModelError when
        the decoder has no layers of ours, or no layer `capture`.
        """
        self.end, self.capture = end, capture
        self.load(decoder)

    def load(self, decoder: Decoder) -> None:
        """Sample from this decoder from now on. Nothing is copied: one trained in place need not be loaded again."""
        layers = len(decoder.layers)
        if layers != decoder.config.num_layers:
            raise ModelError(f"a {decoder.config.family} model has no layers of ours to decode with: use HFSampler")
        if self.capture is not None and not 0 <= self.capture < layers:
            raise ModelError(
                f"can't capture what enters layer {self.capture}: the decoder has layers 0 to {layers - 1}"
            )
        self.decoder = decoder

    @torch.no_grad()  # not inference_mode: Linear.low() reads the weights' version, which inference tensors lack
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """See `Sampler.generate`. A completion that meets the end of the context finishes with "length"."""
        if not prompts:
            return []
        job, cache, states = self._begin(prompts, params, seed)
        for _ in self._steps(job, cache, states, params, progress):
            pass
        return [self._sampled(job, i, states) for i in range(len(prompts))]

    @torch.no_grad()
    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int
    ) -> Iterator[dict[int, int]]:
        """See `Sampler.stream`."""
        if not prompts:
            return
        job, cache, states = self._begin(prompts, params, seed)
        for _ in self._steps(job, cache, states, params, None):
            going = job.rows[job.size[job.rows] == 0]
            yield dict(zip(going.tolist(), job.tokens[going, job.made[going]].tolist(), strict=True))

    def _begin(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seed: int
    ) -> "tuple[Job, Cache, States | None]":
        config, device = self.decoder.config, self.decoder.embed.weight.device
        check_prompts(prompts, config.vocab_size, config.context)
        job = Job.of(prompts, params.max_tokens, config.context, seed)
        slots, longest = min(params.slots, len(prompts)), int((job.lengths + job.limits).max())
        cache = Cache(config, slots, longest, self.decoder.compute, device)
        return job, cache, None if self.capture is None else States(job, config.hidden_size, device)

    def _steps(
        self,
        job: Job,
        cache: Cache,
        states: "States | None",
        params: SamplingParams,
        progress: Callable[[int], None] | None,
    ) -> Iterator[None]:
        """One pass and one token for each row in use, until no row is left; stops between drawing and closing ranks."""
        choose = Choice(self.decoder, params)
        with self.decoder.few_rows():
            whole = native.layers(self.decoder) if self.decoder.pieces == PIECES else None
            while job.waiting or len(job.rows):
                hidden = self._step(job, cache, states, whole)
                place = (job.rows, job.made[job.rows])
                job.tokens[place], job.logprobs[place] = choose(hidden, job.uniform[place])
                yield
                self._leave(job, cache, progress)

    def _step(self, job: Job, cache: Cache, states: "States | None", whole: Sequence[native.Layer] | None) -> Tensor:
        """One pass over the rows in use and those let in now; `job.rows` grows. → last hidden states (B, H), normed.

        `whole`: the layers in C++, which run where rows only continue.
        """
        continued = job.rows
        positions = job.lengths[continued] + job.made[continued] - 1
        tokens = job.tokens[continued, job.made[continued] - 1]
        taken, different, copies = job.admit(cache.slots - len(continued))
        packed = Packed.of(different) if different else None
        step = Step(cache, positions, packed, copies, compiled=self.decoder.pieces == PIECES)
        last = torch.arange(len(continued))
        if packed is not None:
            tokens, positions = torch.cat((tokens, packed.tokens)), torch.cat((positions, packed.positions))
            last = torch.cat((last, packed.last[copies] + len(continued)))
            job.rows = torch.cat((continued, torch.tensor(taken)))
        device = self.decoder.embed.weight.device
        x = self.decoder.embed(tokens.to(device))
        cos, sin = self.decoder.rotation(positions.to(device))
        only = whole if packed is None and len(x) <= FEW_ROWS else None
        room = None if only is None else native.room_for(self.decoder, len(x))
        ends: Tensor | slice = slice(None) if packed is None else last.to(device)
        for i, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, Block)
            if states is not None and i == self.capture:
                states.keep(job.rows, step, x)
            if only is not None and room is not None:
                only[i](x, cos, sin, (cache.k[i], cache.v[i]), positions, room)
            else:
                attended = step(i, *layer.before(x, cos, sin))
                if i == len(self.decoder.layers) - 1:  # of a prompt only the end is asked for
                    x, attended, ends = x[ends], attended[ends], slice(None)
                x = layer.after(x, attended)
        hidden: Tensor = self.decoder.norm(x[ends])
        return hidden

    def _leave(self, job: Job, cache: Cache, progress: Callable[[int], None] | None) -> None:
        """Count what was drawn, let the rows that are done go, and close the ranks behind them.

        Living rows from the end of the batch take the places of rows that left.
        """
        rows = job.rows
        over = job.size[rows] > 0  # its last token was fed in this pass, for its hidden state
        ended = job.tokens[rows, job.made[rows]] == self.end
        job.made[rows] += 1
        ended = (ended | (job.made[rows] == job.limits[rows])) & ~over
        job.size[rows[ended]] = job.made[rows[ended]]
        if progress is not None and ended.any():
            progress(int((job.size > 0).sum()))
        alive = ~ended if self.capture is None else ~over
        count = int(alive.sum())
        if count == len(rows):
            return
        target, source = (~alive[:count]).nonzero()[:, 0], alive[count:].nonzero()[:, 0] + count
        if len(target):
            device = cache.device
            held = job.lengths[rows[source]] + job.made[rows[source]] - 1
            cache.move(source.to(device), target.to(device), int(held.max()))
            rows[target] = rows[source]
        job.rows = rows[:count]

    def _sampled(self, job: Job, i: int, states: "States | None") -> Sampled:
        n = int(job.size[i])
        tokens = tuple(job.tokens[i, :n].tolist())
        hidden = None if states is None else states.of(i, int(job.lengths[i]) + n)
        return Sampled(tokens, job.logprobs[i, :n].clone(), "stop" if tokens[-1] == self.end else "length", hidden)


class States:
    """The hidden states entering one layer, for every token of every prompt and completion, in one buffer."""

    def __init__(self, job: Job, width: int, device: torch.device) -> None:
        room = job.lengths + job.limits
        self.start = room.cumsum(0) - room  # (N,) int64
        self.buffer = torch.empty(int(room.sum()), width, device=device)

    def keep(self, rows: Tensor, step: Step, x: Tensor) -> None:
        """x (T, H) of one step, whose tokens are in these rows; rows (B,) says which prompt each continues."""
        at = self.start[rows[step.row.cpu()]].to(x.device) + step.place
        self.buffer[at] = x if step.source is None else x[step.source]

    def of(self, i: int, length: int) -> Tensor:
        """(length, H): a view of the buffer."""
        start = int(self.start[i])
        return self.buffer[start : start + length]


class Choice:
    """From last hidden states to tokens: the output matrix and the draw."""

    def __init__(self, decoder: Decoder, params: SamplingParams) -> None:
        self.head, self.params = decoder.head_weight().to(decoder.compute), params
        self.compiled = decoder.pieces == PIECES
        self.panels = panels(self.head) if self.compiled else None

    def __call__(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (B, H) fp32, uniform (B,) fp64 on the CPU → tokens (B,) int64 and log-probs (B,) fp32, on the CPU."""
        p, hidden = self.params, hidden.to(self.head.dtype)
        if self.panels is not None and len(hidden) <= FEW_ROWS:
            logits = product(hidden, self.panels, len(self.head))
        else:
            logits = logits_of(hidden, self.head)
        if self.compiled and p.temperature > 0 and not p.top_k and p.top_p == 1:
            return native.draw(logits, uniform, p.temperature)
        there = uniform.to(logits.device)
        token, logprob = draw(logits.float(), there, temperature=p.temperature, top_k=p.top_k, top_p=p.top_p)
        return token.cpu(), logprob.cpu()


def logits_of(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden (B, H), head (V, H), both in the compute dtype → (B, V) in it.

    On a CPU in fp32 a slice of the vocabulary at a time: the matrix library does a tall thin product a fifth slower in
    one go.
    """
    if hidden.device.type != "cpu" or head.dtype != torch.float32:
        return F.linear(hidden, head)
    out = hidden.new_empty(len(hidden), len(head))
    for part in range(0, len(head), VOCABULARY_SLICE):
        at = slice(part, part + VOCABULARY_SLICE)
        torch.mm(hidden, head[at].t(), out=out[:, at])
    return out
