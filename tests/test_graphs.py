"""Recorded passes draw what passes launched one by one draw. On a CPU a traced graph stands in for CUDA's."""

from collections.abc import Callable, Iterator

import pytest
import torch
from test_engine import END, FAMILIES, LLAMA, decoder_of, lora, prompts_of
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from tutelage.errors import TrainingError
from tutelage.model.decoder import Decoder
from tutelage.sample import engine, graphs
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampled, SamplingParams

PARAMS = SamplingParams(max_tokens=20, slots=20)
recorded: list[int] = []  # rows of each graph


def record(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """As CUDA does: a fixed list of operations on the tensors that were there, which a tensor put elsewhere escapes."""
    out = run()
    traced = make_fx(run)()
    recorded.append(len(out[0]))

    def again() -> None:
        for place, value in zip(out, traced(), strict=True):
            place.copy_(value)

    return again, out


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recorded.clear()
    monkeypatch.setattr(graphs, "record", record)
    yield
    torch.set_num_threads(threads)


def recording(monkeypatch: pytest.MonkeyPatch, decoder: Decoder, end: int = END, capture: int | None = None) -> Engine:
    monkeypatch.setattr(engine, "GRAPHS_ON", "cpu")
    return Engine(decoder, end, capture=capture)


def same(found: list[Sampled], wanted: list[Sampled]) -> None:
    assert [(s.tokens, s.finish) for s in found] == [(s.tokens, s.finish) for s in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
        assert (a.hidden is None) == (b.hidden is None)
        if a.hidden is not None and b.hidden is not None:
            assert torch.allclose(a.hidden, b.hidden, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
@pytest.mark.parametrize("capture", [None, 2])
def test_what_is_drawn_is_the_same(monkeypatch: pytest.MonkeyPatch, family: str, capture: int | None) -> None:
    decoder = lora() if family == "lora" else decoder_of(FAMILIES[family])
    prompts = prompts_of(50)
    wanted = Engine(decoder, END, capture=capture).generate(prompts, PARAMS, seed=3)
    assert not recorded
    same(recording(monkeypatch, decoder, capture=capture).generate(prompts, PARAMS, seed=3), wanted)
    assert set(recorded) == {20}  # a fourth of 20 is fewer than the fewest rows of a graph


def test_a_few_rows_have_a_graph_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompts = decoder_of(LLAMA), prompts_of(64)
    params = SamplingParams(max_tokens=36, slots=64)
    drawn = [t for s in Engine(decoder, -1).generate(prompts, params, seed=0) for t in s.tokens]
    often = max(set(drawn), key=drawn.count)  # so that rows leave
    params = SamplingParams(max_tokens=46, slots=64)
    wanted = Engine(decoder, often).generate(prompts, params, seed=0)
    assert 1 <= sum(s.finish == "length" for s in wanted) <= 16
    same(recording(monkeypatch, decoder, end=often).generate(prompts, params, seed=0), wanted)
    assert set(recorded) == {64, 16}


def test_prompts_wait_until_some_rows_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompts = decoder_of(LLAMA), prompts_of(60)
    params = SamplingParams(max_tokens=20, slots=24)
    taken: list[int] = []
    admit = engine.Job.admit

    def counted(job: engine.Job, room: int) -> tuple[list[int], list[tuple[int, ...]], list[int]]:
        found = admit(job, room)
        taken.append(len(found[0]))
        return found

    monkeypatch.setattr(engine.Job, "admit", counted)
    wanted = Engine(decoder, END).generate(prompts, params, seed=5)
    taken.clear()
    same(recording(monkeypatch, decoder).generate(prompts, params, seed=5), wanted)
    assert taken[0] == 24
    assert all(n >= 3 for n in taken[1:-1])  # an eighth of 24


def test_graphs_live_as_long_as_the_weights_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompts = decoder_of(LLAMA).compute_in(torch.bfloat16), prompts_of(10)
    sampler = recording(monkeypatch, decoder)
    first = sampler.generate(prompts, PARAMS, seed=1)
    made = len(recorded)
    assert made > 0
    same(sampler.generate(prompts, PARAMS, seed=1), first)
    assert len(recorded) == made
    with torch.no_grad():
        decoder.layers[0].qkv.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    changed = sampler.generate(prompts, PARAMS, seed=1)
    monkeypatch.setattr(engine, "GRAPHS_ON", "cuda")
    same(changed, Engine(decoder, END).generate(prompts, PARAMS, seed=1))
    assert [s.tokens for s in changed] != [s.tokens for s in first]


def test_what_is_trained_keeps_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "GRAPHS_ON", "cpu")
    decoder, prompts = decoder_of(LLAMA), prompts_of(10)
    trained, resting = Engine(decoder, END, resting=False), Engine(decoder, END)
    for sampler in (trained, resting):
        sampler.generate(prompts, PARAMS, seed=1)
    assert not trained._kept
    assert len(resting._kept) == 1


def test_two_streams_at_once_have_a_cache_each(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompts = decoder_of(LLAMA), prompts_of(8)
    params = SamplingParams(max_tokens=10)
    sampler = recording(monkeypatch, decoder, end=-1)
    wanted = [[s.tokens for s in sampler.generate(prompts, params, seed=seed)] for seed in (1, 2)]
    both = [sampler.stream(prompts, params, seed=seed) for seed in (1, 2)]
    found: list[dict[int, list[int]]] = [{}, {}]
    for steps in zip(*both, strict=True):
        for so_far, step in zip(found, steps, strict=True):
            for i, token in step.items():
                so_far.setdefault(i, []).append(token)
    assert [[tuple(one[i]) for i in range(8)] for one in found] == wanted


def test_after_weights_that_are_not_numbers_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompts = decoder_of(LLAMA), prompts_of(8)
    sampler = recording(monkeypatch, decoder)
    wanted = sampler.generate(prompts, PARAMS, seed=1)
    weight = decoder.layers[1].out.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="are not numbers"):
        sampler.generate(prompts, PARAMS, seed=1)
    with torch.no_grad():
        weight.copy_(kept)
    same(sampler.generate(prompts, PARAMS, seed=1), wanted)
