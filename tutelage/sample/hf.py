"""A Sampler over any causal LM of transformers, for architectures that our decoder does not serve.

transformers feeds the model and keeps its cache (every architecture has its own); the token is ours. A logits processor
draws it with `draw` and leaves `generate` no other choice. So completions and log-probabilities mean the same as the
engine's, on the same weights they are the same, and none of the library's defaults (top_k = 50 is one) has a say.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from tutelage.errors import ModelError
from tutelage.model.decoder import Decoder
from tutelage.model.foreign import ForeignDecoder
from tutelage.sample.draw import draw
from tutelage.sample.sampler import Sampled, SamplingParams, check_prompts, replay, uniforms


class Choice:
    """The logits processor: draws a token for each row and rules out all others."""

    def __init__(self, uniform: Tensor, params: SamplingParams) -> None:
        self.uniform, self.params = uniform, params  # (B, max_tokens) fp64
        self.tokens: list[Tensor] = []  # (B,) each
        self.logprobs: list[Tensor] = []  # (B,) each

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, so far), scores (B, V) fp32, the logits → (B, V): 0 for the token drawn, -inf elsewhere."""
        uniform = self.uniform[:, len(self.tokens)].to(scores.device)
        p = self.params
        token, logprob = draw(scores.float(), uniform, temperature=p.temperature, top_k=p.top_k, top_p=p.top_p)
        self.tokens.append(token.cpu())
        self.logprobs.append(logprob.cpu())
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


class HFSampler:
    """A Sampler over a `ForeignDecoder`. Rows that end wait for the last of their batch of `slots`."""

    def __init__(self, decoder: Decoder, end: int) -> None:
        """Raises ModelError when the decoder is one of ours."""
        self.end = end
        self.load(decoder)

    def load(self, decoder: Decoder) -> None:
        """Sample from this decoder from now on. Nothing is copied. Raises ModelError when it is one of ours."""
        if not isinstance(decoder, ForeignDecoder):
            raise ModelError(f"HFSampler samples from a model of transformers, not our {decoder.config.family} decoder")
        self.decoder = decoder

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """See `Sampler.generate`. A completion that meets the end of the context finishes with "length"."""
        config = self.decoder.config
        check_prompts(prompts, config.vocab_size, config.context)
        uniform = uniforms(seed, len(prompts), params.max_tokens)
        out: dict[int, Sampled] = {}

        def limit(i: int) -> int:
            return min(params.max_tokens, config.context - len(prompts[i]))

        for most, group in groupby(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), limit):
            alike = list(group)
            for start in range(0, len(alike), params.slots):
                part = alike[start : start + params.slots]
                choice = Choice(uniform[part], params)
                self._run([prompts[i] for i in part], most, choice)
                tokens, logprobs = torch.stack(choice.tokens, 1), torch.stack(choice.logprobs, 1)
                out |= {i: self._cut(tokens[j], logprobs[j]) for j, i in enumerate(part)}
                if progress is not None:
                    progress(len(out))
        return [out[i] for i in range(len(prompts))]

    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int
    ) -> Iterator[dict[int, int]]:
        """See `Sampler.stream`. transformers gives nothing back before the end, so all comes then."""
        yield from replay(self.generate(prompts, params, seed=seed))

    def _run(self, prompts: Sequence[Sequence[int]], max_tokens: int, choice: Choice) -> None:
        """Let transformers feed the model; `choice` keeps what was drawn."""
        longest = max(len(p) for p in prompts)
        rows = torch.tensor([[self.end] * (longest - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        inner, device = self.decoder.inner, self.decoder.embed.weight.device
        plain = GenerationConfig(
            do_sample=False,
            num_beams=1,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=max_tokens,
            eos_token_id=self.end,
            pad_token_id=self.end,
        )
        own = inner.generation_config  # taken away for the call: generate() fills what we leave unset from it
        inner.generation_config = plain
        compute = self.decoder.compute
        try:
            with torch.autocast(device.type, dtype=compute, enabled=compute != torch.float32):
                inner.generate(
                    rows.to(device),
                    attention_mask=mask.to(device),
                    generation_config=plain,
                    logits_processor=LogitsProcessorList([choice]),
                )
        finally:
            inner.generation_config = own

    def _cut(self, tokens: Tensor, logprobs: Tensor) -> Sampled:
        """A row up to its end token."""
        ends = (tokens == self.end).nonzero()
        n = int(ends[0]) + 1 if len(ends) else len(tokens)
        return Sampled(tuple(tokens[:n].tolist()), logprobs[:n].clone(), "stop" if len(ends) else "length")
