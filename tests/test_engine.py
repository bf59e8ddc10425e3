"""Decoding says what the packed forward says, whatever the slots."""

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.errors import ModelError, TrainingError
from tutelage.model.adapters import Lora, branch
from tutelage.model.batch import Packed
from tutelage.model.decoder import Decoder, DecoderConfig
from tutelage.model.linear import Linear
from tutelage.model.maths import token_logprobs
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampled, SamplingParams, uniforms

END = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and lose much where another process wants it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


LLAMA = DecoderConfig("llama", 61, 32, 48, 3, 4, 2, 8, 1e4, 1e-5, True, 48)
FAMILIES = {
    "llama": LLAMA,
    "mistral": dataclasses.replace(LLAMA, family="mistral", sliding_window=5, tie_embeddings=False),
    "qwen2": dataclasses.replace(LLAMA, family="qwen2", qkv_bias=True, num_kv_heads=1),
    "qwen3": dataclasses.replace(LLAMA, family="qwen3", qk_norm=True, head_dim=16),
    "llama3": dataclasses.replace(
        LLAMA,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
}


def decoder_of(config: DecoderConfig) -> Decoder:
    decoder = Decoder(config).initialise(torch.Generator().manual_seed(1), std=0.25)
    with torch.no_grad():  # biases that matter
        for module in decoder.modules():
            if isinstance(module, Linear) and module.bias is not None:
                module.bias.normal_(generator=torch.Generator().manual_seed(2))
    return decoder


def lora() -> Decoder:
    own = branch(decoder_of(LLAMA), Lora(rank=4, alpha=8.0), torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, p in own.named_parameters():
            if name.endswith("lora_b"):
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    return own


def prompts_of(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    prompts: list[list[int]] = [torch.randint(0, 61, (n,), generator=generator).tolist() for n in lengths]
    prompts[count // 2] = prompts[0]  # a repeated prompt, as when several completions are drawn
    return prompts


def naive(decoder: Decoder, prompt: Sequence[int], params: SamplingParams, uniform: Tensor) -> Sampled:
    """The slow twin: one row, the whole sequence anew at every step, no cache."""
    tokens, logprobs = list(prompt), []
    for u in uniform:
        hidden = decoder(Packed.of([tokens]))[-1:]
        logits = hidden @ decoder.head_weight().T
        logp = (logits / (params.temperature or 1.0)).log_softmax(-1)[0]
        drawn = (logp.double().exp().cumsum(0) <= u).sum()
        token = int(drawn if params.temperature else logp.argmax())
        tokens.append(token)
        logprobs.append(logp[token])
        if token == END:
            break
    made = tuple(tokens[len(prompt) :])
    return Sampled(made, torch.stack(logprobs), "stop" if made[-1] == END else "length")


def forward_logprobs(decoder: Decoder, prompt: Sequence[int], tokens: Sequence[int], temperature: float) -> Tensor:
    hidden = decoder(Packed.of([[*prompt, *tokens]]))[len(prompt) - 1 : -1]
    return token_logprobs(hidden, decoder.head_weight(), torch.tensor(tokens), temperature=temperature).logprob


@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
@torch.no_grad()
def test_decoding_equals_the_packed_forward(family: str) -> None:
    decoder = lora() if family == "lora" else decoder_of(FAMILIES[family])
    prompts, finishes = prompts_of(9), set()
    for temperature in (0.0, 0.8):
        params = SamplingParams(max_tokens=14, slots=4, temperature=temperature)
        uniform = uniforms(7, len(prompts), 14)
        for i, got in enumerate(Engine(decoder, END).generate(prompts, params, seed=7)):
            want = naive(decoder, prompts[i], params, uniform[i])
            assert (got.tokens, got.finish) == (want.tokens, want.finish)
            exact = forward_logprobs(decoder, prompts[i], got.tokens, temperature or 1.0)
            assert torch.allclose(got.logprobs, exact, atol=1e-5, rtol=0)
            assert torch.allclose(want.logprobs, exact, atol=1e-5, rtol=0)
            finishes.add(got.finish)
    assert "length" in finishes


@settings(max_examples=8, deadline=None, derandomize=True)  # tokens may differ where rounding meets a boundary
@given(count=st.integers(2, 20), slots=st.integers(1, 7), seed=st.integers(0, 2**32), end=st.integers(0, 60))
def test_slots_and_company_change_nothing(count: int, slots: int, seed: int, end: int) -> None:
    decoder, prompts = decoder_of(FAMILIES["mistral"]), prompts_of(count, seed)
    wide = Engine(decoder, end).generate(prompts, SamplingParams(max_tokens=12), seed=seed)
    narrow = Engine(decoder, end).generate(prompts, SamplingParams(max_tokens=12, slots=slots), seed=seed)
    assert [s.tokens for s in wide] == [s.tokens for s in narrow]
    assert all(torch.allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0) for a, b in zip(wide, narrow, strict=True))
    alone = Engine(decoder, end).generate(prompts[:1], SamplingParams(max_tokens=12), seed=seed)
    assert alone[0].tokens == wide[0].tokens


def test_one_three_and_sixty_four_slots_agree() -> None:
    decoder, prompts = decoder_of(LLAMA), prompts_of(66)
    runs = [
        Engine(decoder, END).generate(prompts, SamplingParams(max_tokens=9, slots=slots), seed=3)
        for slots in (1, 3, 64)
    ]
    tokens = [[s.tokens for s in run] for run in runs]
    assert tokens[0] == tokens[1] == tokens[2]
    assert len({len(t) for t in tokens[0]}) > 3  # rows ended at many different steps


@pytest.mark.parametrize("capture", [None, 1])
def test_a_stream_gains_the_tokens_that_generate_returns(capture: int | None) -> None:
    engine, prompts, params = (
        Engine(decoder_of(LLAMA), END, capture=capture),
        prompts_of(9),
        SamplingParams(max_tokens=14, slots=4),
    )
    grown: dict[int, list[int]] = {i: [] for i in range(9)}
    sizes = []
    for step in engine.stream(prompts, params, seed=7):
        sizes.append(len(step))
        for i, token in step.items():
            grown[i].append(token)
        assert torch.is_grad_enabled()  # the reader's own code keeps its gradients
    assert [tuple(t) for t in grown.values()] == [s.tokens for s in engine.generate(prompts, params, seed=7)]
    assert max(sizes) == 4
    assert list(engine.stream([], params, seed=7)) == []


def test_who_stops_reading_a_stream_stops_the_work() -> None:
    engine = Engine(decoder_of(LLAMA), END)
    stream = engine.stream([[1, 2]], SamplingParams(max_tokens=30), seed=0)
    first = next(stream)
    assert first == {0: engine.generate([[1, 2]], SamplingParams(max_tokens=30), seed=0)[0].tokens[0]}
    stream.close()
    assert list(stream) == []


def test_repeated_prompts_draw_differently_and_seeds_repeat() -> None:
    engine, params = Engine(decoder_of(LLAMA), END), SamplingParams(max_tokens=10)
    once = engine.generate([[1, 2, 3]] * 8, params, seed=1)
    assert len({s.tokens for s in once}) > 4
    assert [s.tokens for s in engine.generate([[1, 2, 3]] * 8, params, seed=1)] == [s.tokens for s in once]
    assert [s.tokens for s in engine.generate([[1, 2, 3]] * 8, params, seed=2)] != [s.tokens for s in once]


def test_the_end_token_ends_a_row_and_is_kept() -> None:
    prompts = prompts_of(40)
    for got in Engine(decoder_of(LLAMA), END).generate(prompts, SamplingParams(max_tokens=30, slots=8), seed=0):
        assert END not in got.tokens[:-1]
        assert got.finish == ("stop" if got.tokens[-1] == END else "length")
        assert got.finish == "stop" or len(got.tokens) == 30
        assert got.logprobs.shape == (len(got.tokens),)


def test_progress_counts_completions_up_to_all() -> None:
    heard: list[int] = []
    Engine(decoder_of(LLAMA), END).generate(
        prompts_of(10), SamplingParams(max_tokens=8, slots=3), seed=0, progress=heard.append
    )
    assert heard == sorted(set(heard))
    assert heard[-1] == 10
    assert len(heard) >= 4


def test_the_context_cuts_a_completion() -> None:
    got = Engine(decoder_of(LLAMA), 60).generate([[1] * 47, [2] * 40], SamplingParams(max_tokens=30), seed=0)
    assert [len(s.tokens) for s in got] == [1, 8]
    assert [s.finish for s in got] == ["length", "length"]


def test_no_prompts_no_completions() -> None:
    assert Engine(decoder_of(LLAMA), END).generate([], SamplingParams(), seed=0) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1] * 48, "prompt 1 has 48 tokens but the model's context is 48"),
        ([], "prompt 1 has no tokens"),
        ([3, 61], "prompt 1 holds token 61, but the vocabulary is 0 to 60"),
        ([3, -2], "prompt 1 holds token -2"),
    ],
)
def test_a_bad_prompt_is_named(prompt: list[int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Engine(decoder_of(LLAMA), END).generate([[1], prompt], SamplingParams(), seed=0)


def test_weights_that_are_not_numbers_are_reported() -> None:
    decoder = decoder_of(LLAMA)
    with torch.no_grad():
        decoder.norm.weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        with pytest.raises(TrainingError, match="NaN"):
            Engine(decoder, END).generate([[1]], SamplingParams(temperature=temperature), seed=0)


def test_training_in_place_is_seen_and_load_swaps() -> None:
    decoder, other = decoder_of(LLAMA), decoder_of(FAMILIES["qwen3"])
    engine, params = Engine(decoder, END), SamplingParams(max_tokens=12, temperature=0)
    decoder.compute_in(torch.bfloat16)  # so that Linear keeps copies of its weights
    before = engine.generate([[1, 2]], params, seed=0)
    with torch.no_grad():
        for layer in decoder.layers:
            for p in layer.parameters():
                p.mul_(-1.3)
    assert engine.generate([[1, 2]], params, seed=0)[0].tokens != before[0].tokens
    engine.load(other)
    assert engine.generate([[1, 2]], params, seed=0)[0].tokens == naive(other, [1, 2], params, torch.zeros(12)).tokens


@torch.no_grad()
def test_bf16_stays_near_its_own_packed_forward() -> None:
    decoder = decoder_of(FAMILIES["mistral"]).compute_in(torch.bfloat16)
    got = Engine(decoder, END).generate([[1, 2, 3], [4]], SamplingParams(max_tokens=12), seed=0)
    for prompt, sampled in zip([[1, 2, 3], [4]], got, strict=True):
        hidden = decoder(Packed.of([[*prompt, *sampled.tokens]]))[len(prompt) - 1 : -1]
        low = decoder.head_weight().bfloat16()
        exact = token_logprobs(hidden, decoder.head_weight(), torch.tensor(sampled.tokens), temperature=1.0, low=low)
        assert (sampled.logprobs - exact.logprob).abs().max() < 0.15


@torch.no_grad()
def test_captured_states_are_the_packed_forwards() -> None:
    decoder, prompts = decoder_of(FAMILIES["mistral"]), prompts_of(12)
    params = SamplingParams(max_tokens=15, slots=4)
    plain = Engine(decoder, END).generate(prompts, params, seed=2)
    assert all(s.hidden is None for s in plain)
    for layer in (0, 2):
        for i, got in enumerate(Engine(decoder, END, capture=layer).generate(prompts, params, seed=2)):
            assert (got.tokens, got.finish) == (plain[i].tokens, plain[i].finish)
            assert torch.equal(got.logprobs, plain[i].logprobs) or torch.allclose(got.logprobs, plain[i].logprobs)
            want = decoder.run(Packed.of([[*prompts[i], *got.tokens]]), 0, layer)
            assert got.hidden is not None
            assert got.hidden.shape == want.shape
            assert torch.allclose(got.hidden, want, atol=1e-4, rtol=0)  # the states are as large as 10
    with pytest.raises(ModelError, match="layer 3: the decoder has layers 0 to 2"):
        Engine(decoder, END, capture=3)
