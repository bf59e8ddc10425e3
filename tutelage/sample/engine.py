"""Batched decoding over our own decoder: rows that end leave, prompts that wait take their place.

Every step is one pass over the rows being continued and the prompts just let in together (as Sarathi, Agrawal et al.
2023, section 4): a refill costs no pass of its own. Continued rows look into the cache, prompts into themselves. Equal
prompts let in together are computed once. When no prompt waits, the batch shrinks with its rows. On CUDA a pass over
rows that all continue is a graph (`graphs.py`).

Legend: N prompts, B rows in use, T tokens of a step, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.model.batch import Packed
from tutelage.model.decoder import Block, Decoder
from tutelage.model.native import PIECES
from tutelage.sample import native
from tutelage.sample.cache import Cache, Step
from tutelage.sample.choice import Choice
from tutelage.sample.draw import check
from tutelage.sample.graphs import Graphs
from tutelage.sample.sampler import Sampled, SamplingParams, check_prompts, uniforms

PROMPT_TOKENS = 4096  # let in at one step at most, to bound the memory of a pass
GRAPHS_ON = "cuda"  # the kind of device on which passes are recorded


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

    def last(self) -> tuple[Tensor, Tensor]:
        """The last token of each row in use and its position, (B,) each."""
        made = self.made[self.rows]
        return self.tokens[self.rows, made - 1], self.lengths[self.rows] + made - 1

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

    def __init__(self, decoder: Decoder, end: int, *, capture: int | None = None, resting: bool = True) -> None:
        """`end` is the token that ends a completion. With `capture`, a `Sampled` has the states entering that layer.

        The last token of a completion is then fed as well, one step that a plain job saves. With `resting`, the
        weights mostly stay as they are from call to call, so graphs and cache are kept for the next one. Raises
        ModelError when the decoder has no layers of ours, or no layer `capture`.
        """
        self.end, self.capture, self.resting = end, capture, resting
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
        self._kept: list[Work] = []  # at most one, with graphs that the next call can replay

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
        work = self._begin(prompts, params, seed)
        for _ in self._steps(work, progress):
            pass
        return [self._sampled(work.job, i, work.states) for i in range(len(prompts))]

    @torch.no_grad()
    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int
    ) -> Iterator[dict[int, int]]:
        """See `Sampler.stream`."""
        if not prompts:
            return
        work = self._begin(prompts, params, seed)
        job = work.job
        for _ in self._steps(work, None):
            going = job.rows[job.size[job.rows] == 0]
            yield dict(zip(going.tolist(), job.tokens[going, job.made[going]].tolist(), strict=True))

    def _begin(self, prompts: Sequence[Sequence[int]], params: SamplingParams, seed: int) -> "Work":
        decoder, device = self.decoder, self.decoder.embed.weight.device
        check_prompts(prompts, decoder.config.vocab_size, decoder.config.context)
        job = Job.of(prompts, params.max_tokens, decoder.config.context, seed)
        slots, longest = min(params.slots, len(prompts)), int((job.lengths + job.limits).max())
        states = None if self.capture is None else States(job, decoder.config.hidden_size, device)
        kept = self._kept.pop() if self._kept else None  # whoever comes meanwhile makes its own
        if kept is not None and kept.choose.stands(decoder, params) and kept.cache.serves(slots, longest):
            return replace(kept, job=job, states=states)
        cache = Cache(decoder.config, slots, longest, decoder.compute, device)
        graphs = Graphs(decoder, cache, self.capture) if device.type == GRAPHS_ON else None
        return Work(job, states, cache, Choice(decoder, params), graphs)

    def _steps(self, work: "Work", progress: Callable[[int], None] | None) -> Iterator[None]:
        """One pass and one token for each row in use, until no row is left; stops between drawing and closing ranks."""
        job, cache = work.job, work.cache
        if work.graphs is not None:
            work.graphs.begin()
        with self.decoder.sampling():
            whole = native.layers(self.decoder) if self.decoder.pieces == PIECES else None
            while job.waiting or len(job.rows):
                room = cache.slots - len(job.rows) if job.waiting else 0
                if work.graphs is not None and len(job.rows) and room < work.graphs.patience:
                    found = self._replay(work, work.graphs)
                else:
                    hidden = self._step(job, cache, work.states, whole)
                    found = work.choose(hidden, job.uniform[job.rows, job.made[job.rows]])
                place = (job.rows, job.made[job.rows])
                job.tokens[place], job.logprobs[place] = found
                yield
                self._leave(job, cache, progress)
        if work.graphs is not None and self.resting:
            self._kept = [work]

    def _replay(self, work: "Work", graphs: Graphs) -> tuple[Tensor, Tensor]:
        """One pass over the rows in use, as a graph → a token and its log-prob for each, (B,) on the CPU."""
        job = work.job
        tokens, positions = job.last()
        token, logprob, entering = graphs(work.choose, tokens, positions, job.uniform[job.rows, job.made[job.rows]])
        check(logprob)
        if work.states is not None and entering is not None:
            work.states.keep(job.rows, positions, entering)
        return token, logprob

    def _step(self, job: Job, cache: Cache, states: "States | None", whole: Sequence[native.Layer] | None) -> Tensor:
        """One pass over the rows in use and those let in now; `job.rows` grows. → last hidden states (B, H), normed.

        `whole`: the layers in C++, which run where rows only continue.
        """
        continued = job.rows
        tokens, positions = job.last()
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
        only = whole if packed is None else None
        room = None if only is None else native.room_for(self.decoder, len(x))
        ends: Tensor | slice = slice(None) if packed is None else last.to(device)
        for i, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, Block)
            if states is not None and i == self.capture:
                states.keep(job.rows[step.row.cpu()], step.place.cpu(), x if step.source is None else x[step.source])
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

    def keep(self, prompts: Tensor, places: Tensor, x: Tensor) -> None:
        """x (T, H) of tokens that stand at these places (T,) of what continues these prompts (T,)."""
        self.buffer[(self.start[prompts] + places).to(x.device)] = x

    def of(self, i: int, length: int) -> Tensor:
        """(length, H): a view of the buffer."""
        start = int(self.start[i])
        return self.buffer[start : start + length]


@dataclass
class Work:
    """A job under way with what it works on."""

    job: Job
    states: States | None
    cache: Cache
    choose: Choice
    graphs: Graphs | None
