"""Batched decoding over our own decoder: rows that end leave, prompts that wait take their place.

Every step is one pass over the rows being continued and the prompts just let in together (as Sarathi, Agrawal et al.
2023, section 4): a refill costs no pass of its own. Continued rows look into the cache, prompts into themselves. Equal
prompts let in together are computed once. When no prompt waits, the batch shrinks with its rows.

Legend: N prompts, B rows in use, T tokens of a step, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.batch import Packed
from tutelage.model.decoder import Block, Decoder
from tutelage.sample.cache import Cache, Step
from tutelage.sample.draw import draw
from tutelage.sample.sampler import Sampled, SamplingParams, check_prompts, uniforms

PROMPT_TOKENS = 4096  # let in at one step at most, to bound the memory of a pass
VOCABULARY_SLICE = 2048


@dataclass
class Job:
    """What one call of `generate` knows. Everything is on the CPU and indexed by prompt."""

    prompts: Sequence[Sequence[int]]
    lengths: Tensor  # (N,) int64 tokens of each prompt
    limits: Tensor  # (N,) int64 new tokens each may have
    tokens: Tensor  # (N, max_tokens) int64
    logprobs: Tensor  # (N, max_tokens) fp32
    made: Tensor  # (N,) int64 new tokens so far
    waiting: list[int]  # prompts not let in yet; the next one is last
    rows: Tensor  # (B,) int64: the prompt that each row continues

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], max_tokens: int, context: int) -> "Job":
        """A job of which nothing is done. The longest prompts go first, equal prompts side by side."""
        n, lengths = len(prompts), torch.tensor([len(p) for p in prompts])
        return cls(
            prompts=prompts,
            lengths=lengths,
            limits=(context - lengths).clamp(max=max_tokens),
            tokens=torch.zeros(n, max_tokens, dtype=torch.int64),
            logprobs=torch.zeros(n, max_tokens),
            made=torch.zeros(n, dtype=torch.int64),
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

    def __init__(self, decoder: Decoder, end: int) -> None:
        self.decoder, self.end = decoder, end

    def load(self, decoder: Decoder) -> None:
        """Sample from this decoder from now on. Nothing is copied: one trained in place need not be loaded again."""
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
        config, device = self.decoder.config, self.decoder.embed.weight.device
        check_prompts(prompts, config.vocab_size, config.context)
        job = Job.of(prompts, params.max_tokens, config.context)
        uniform = uniforms(seed, len(prompts), params.max_tokens)
        slots, longest = min(params.slots, len(prompts)), int((job.lengths + job.limits).max())
        cache = Cache(config, slots, longest, self.decoder.compute, device)
        head = self.decoder.head_weight().to(self.decoder.compute)
        finished = 0
        while job.waiting or len(job.rows):
            hidden = self._step(job, cache)
            logits = logits_of(hidden, head)
            place = (job.rows, job.made[job.rows])
            token, logprob = draw(
                logits,
                uniform[place].to(device),
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
            )
            job.tokens[place], job.logprobs[place] = token.cpu(), logprob.cpu()
            job.made[job.rows] += 1
            alive = (job.tokens[place] != self.end) & (job.made[job.rows] < job.limits[job.rows])
            if not alive.all():
                self._leave(job, cache, alive)
                finished += int((~alive).sum())
                if progress is not None:
                    progress(finished)
        return [self._sampled(job, i) for i in range(len(prompts))]

    def _step(self, job: Job, cache: Cache) -> Tensor:
        """One pass over the rows in use and those let in now; `job.rows` grows. → last hidden states (B, H), normed."""
        continued = job.rows
        positions = job.lengths[continued] + job.made[continued] - 1
        tokens = job.tokens[continued, job.made[continued] - 1]
        taken, different, copies = job.admit(cache.slots - len(continued))
        step = Step(cache, positions, Packed.of(different) if different else None, copies)
        last = torch.arange(len(continued))
        if different:
            packed = Packed.of(different)
            tokens, positions = torch.cat((tokens, packed.tokens)), torch.cat((positions, packed.positions))
            last = torch.cat((last, packed.last[copies] + len(continued)))
            job.rows = torch.cat((continued, torch.tensor(taken)))
        device = self.decoder.embed.weight.device
        x = self.decoder.embed(tokens.to(device))
        cos, sin = self.decoder.rotation(positions.to(device))
        for i, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, Block)
            x = layer.after(x, step(i, *layer.before(x, cos, sin)))
        hidden: Tensor = self.decoder.norm(x if not different else x[last.to(device)])
        return hidden

    @staticmethod
    def _leave(job: Job, cache: Cache, alive: Tensor) -> None:
        """Close the ranks: living rows from the end of the batch take the places of rows that ended."""
        count = int(alive.sum())
        target, source = (~alive[:count]).nonzero()[:, 0], alive[count:].nonzero()[:, 0] + count
        if len(target):
            device = cache.k[0].device
            held = job.lengths[job.rows[source]] + job.made[job.rows[source]] - 1
            cache.move(source.to(device), target.to(device), int(held.max()))
            job.rows[target] = job.rows[source]
        job.rows = job.rows[:count]

    def _sampled(self, job: Job, i: int) -> Sampled:
        made = int(job.made[i])
        tokens = tuple(job.tokens[i, :made].tolist())
        return Sampled(tokens, job.logprobs[i, :made].clone(), "stop" if tokens[-1] == self.end else "length")


def logits_of(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden (B, H), head (V, H) in the compute dtype → (B, V) fp32.

    On a CPU a slice of the vocabulary at a time: the matrix library does a tall thin product a fifth slower in one go.
    """
    hidden = hidden.to(head.dtype)
    if hidden.device.type != "cpu":
        return F.linear(hidden, head).float()
    out = hidden.new_empty(len(hidden), len(head))
    for part in range(0, len(head), VOCABULARY_SLICE):
        at = slice(part, part + VOCABULARY_SLICE)
        torch.mm(hidden, head[at].t(), out=out[:, at])
    return out.float()
