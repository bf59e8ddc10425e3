"""The transformers sampler: the engine's completions on the same weights, and a family we don't serve."""

from collections.abc import Iterator

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tutelage.errors import ModelError
from tutelage.model.batch import Packed
from tutelage.model.decoder import Decoder
from tutelage.model.foreign import ForeignDecoder
from tutelage.model.layout import fill, parse_config
from tutelage.model.maths import token_logprobs
from tutelage.model.tiny import tiny_decoder
from tutelage.sample.engine import Engine
from tutelage.sample.hf import HFSampler
from tutelage.sample.sampler import SamplingParams

END = 5
PROMPTS = [[1, 2, 3, 4, 6], [7], [8, 9], [10] * 9, [11, 12, 13]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gpt2() -> ForeignDecoder:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_positions=24,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    inner = GPT2LMHeadModel(config)
    inner.generation_config.repetition_penalty = 5.0  # a default of the model's that must have no say
    inner.generation_config.min_length = 20
    return ForeignDecoder(inner)


@pytest.mark.parametrize("extra", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}])
@torch.no_grad()
def test_it_gives_the_engines_completions(extra: dict[str, float]) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    inner = LlamaForCausalLM(config).eval()
    own = decoder_like(inner)
    params = SamplingParams(max_tokens=10, slots=3, **extra)
    theirs = HFSampler(ForeignDecoder(inner), END).generate(PROMPTS, params, seed=4)
    ours = Engine(own, END).generate(PROMPTS, params, seed=4)
    assert [(s.tokens, s.finish) for s in theirs] == [(s.tokens, s.finish) for s in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
    steps = list(HFSampler(ForeignDecoder(inner), END).stream(PROMPTS, params, seed=4))
    assert [tuple(s[i] for s in steps if i in s) for i in range(len(PROMPTS))] == [s.tokens for s in ours]


def decoder_like(inner: LlamaForCausalLM) -> Decoder:
    """Our decoder with the same weights."""
    config = parse_config(inner.config.to_dict())
    weights = inner.state_dict()
    return fill(Decoder(config), lambda name: weights[name])


@torch.no_grad()
def test_a_foreign_familys_logprobs_are_the_trainers() -> None:
    decoder, heard = gpt2(), []
    sampler = HFSampler(decoder, END)
    params = SamplingParams(max_tokens=18, slots=2, temperature=0.8)
    got = sampler.generate(PROMPTS, params, seed=0, progress=heard.append)
    for prompt, s in zip(PROMPTS, got, strict=True):
        hidden = decoder(Packed.of([[*prompt, *s.tokens]]))[len(prompt) - 1 : -1]
        want = token_logprobs(hidden, decoder.head_weight(), torch.tensor(s.tokens), temperature=0.8).logprob
        assert torch.allclose(s.logprobs, want, atol=1e-5, rtol=0)
        assert END not in s.tokens[:-1]
        assert s.finish == ("stop" if s.tokens[-1] == END else "length")
        assert s.finish == "stop" or len(s.tokens) == min(18, 24 - len(prompt))
    assert heard[-1] == len(PROMPTS)
    assert decoder.inner.generation_config.repetition_penalty == 5.0  # ours to use, not to change
    alone = sampler.generate(PROMPTS[:1], params, seed=0)
    assert alone[0].tokens == got[0].tokens


def test_each_decoder_has_its_sampler() -> None:
    with pytest.raises(ModelError, match="use HFSampler"):
        Engine(gpt2(), END)
    with pytest.raises(ModelError, match="not our llama decoder"):
        HFSampler(tiny_decoder(), END)
