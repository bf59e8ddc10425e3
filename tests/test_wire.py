"""Choices turned into implementations."""

import pytest

from tutelage.errors import DataError
from tutelage.model import causal
from tutelage.records import Prompt
from tutelage.wire import prompt_tokens


def test_a_prompt_that_leaves_no_room_for_an_answer_is_an_error_that_says_so():
    model = causal.load("tiny")  # one token a byte, a context of 256
    assert len(prompt_tokens(model, Prompt.text("x" * 248), 8)) == 248
    with pytest.raises(DataError, match="249 tokens leaves no room for 8 more in a context of 256"):
        prompt_tokens(model, Prompt.text("x" * 249), 8)
