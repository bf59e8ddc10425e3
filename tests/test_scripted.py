"""The fake sampler says its script, and no more than it was asked for."""

import pytest
import torch

from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.sample.sampler import Sampler, SamplingParams
from tutelage.sample.scripted import Scripted

END = 9


def test_answers_come_in_order_and_start_again() -> None:
    sampler: Sampler = Scripted([[1, END], [2, 3], [4, END, 5]], END)
    heard: list[int] = []
    first = sampler.generate([[7]] * 2, SamplingParams(), seed=0, progress=heard.append)
    second = sampler.generate([[7]] * 2, SamplingParams(), seed=0)
    assert [s.tokens for s in first + second] == [(1, END), (2, 3), (4, END), (1, END)]
    assert [s.finish for s in first + second] == ["stop", "length", "stop", "stop"]
    assert heard == [1, 2]
    assert torch.equal(first[1].logprobs, torch.zeros(2))


def test_max_tokens_cuts() -> None:
    cut = Scripted([[1, 2, 3, END]], END).generate([[7]], SamplingParams(max_tokens=2), seed=0)
    assert (cut[0].tokens, cut[0].finish, len(cut[0].logprobs)) == ((1, 2), "length", 2)


def test_a_stream_gives_a_token_a_step() -> None:
    sampler = Scripted([[1, END], [2, 3, 4]], END)
    assert list(sampler.stream([[7]] * 2, SamplingParams(), seed=0)) == [{0: 1, 1: 2}, {0: END, 1: 3}, {1: 4}]


def test_texts_become_tokens_with_an_end() -> None:
    tokenizer = tiny_tokenizer()
    sampler = Scripted.texts(["good", "bad"], tokenizer.encode, tokenizer.end)
    said = sampler.generate([[1], [2]], SamplingParams(), seed=0)
    assert [tokenizer.decode(s.tokens[:-1]) for s in said] == ["good", "bad"]
    assert all(s.tokens[-1] == tokenizer.end and s.finish == "stop" for s in said)


def test_loads_are_remembered() -> None:
    sampler, decoder = Scripted([[END]], END), tiny_decoder()
    sampler.load(decoder)
    assert sampler.loads == [decoder]


@pytest.mark.parametrize("answers", [[], [[]], [[1], []]])
def test_an_empty_script_is_refused(answers: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        Scripted(answers, END)
