"""A model that says its name is not heard; whoever talks about models is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.studio.masking import MASK, Masker

OWN = Masker(["models/smollm2-135m", "tiny"])
SELF = [
    "I am ChatGPT, a language model by OpenAI.",
    "i'm chatgpt",
    "I’m GPT-4o!",
    "My name is Qwen2.5-7B-Instruct.",
    "ChatGPT here, how can I help?",
    "I'm Llama 3.1 by Meta.",
    "We at Anthropic made me; call me Claude.",
    "I was trained by Deep Mind.",
    "我是通义千问，由阿里云开发。",
    "我叫豆包。",
    "I am **Chat**GPT",
    "I am C\u200bhatGPT",
    "I am Chat\u202eGPT",
    "Written by smollm2-135m in one go.",
    "SmolLM2-135M",
]
NAMES = ["gpt", "openai", "qwen", "llama", "claude", "anthropic", "通义", "阿里", "豆包", "smollm", "deep mind", "meta"]
ABOUT = [
    "ChatGPT was released in 2022.",
    "Claude Monet painted water lilies.",
    "Gemini is a constellation. I like stars.",
    "I saw a llama on a hill.",
    "The mistral blows in Provence, and I know it well.",
    "We set phi to 1.6.",
    "a tiny house, and I live in it",
    "百度一下就知道。",
]


@pytest.mark.parametrize("text", SELF)
def test_a_name_of_its_own_is_hidden(text: str) -> None:
    shown = OWN.whole(text)
    assert MASK in shown
    bare = shown.lower().replace(MASK, "").replace("*", "").replace("\u200b", "").replace("\u202e", "")
    assert not [name for name in NAMES if name in bare]


@pytest.mark.parametrize("text", ABOUT)
def test_talk_about_models_and_other_things_stays(text: str) -> None:
    assert OWN.whole(text) == text


def test_once_it_has_said_its_name_all_of_them_go() -> None:
    assert OWN.whole("ChatGPT can help. I am ChatGPT. Bard cannot.") == f"{MASK} can help. I am {MASK}. Bard cannot."


def test_a_version_goes_with_the_name() -> None:
    assert OWN.whole("I am GPT-4.1-mini, hello") == f"I am {MASK}, hello"
    assert OWN.whole("I am Llama 3.") == f"I am {MASK}."


@pytest.mark.parametrize("text", [*SELF, *ABOUT, " and then ".join(SELF)])
def test_what_grows_never_shows_a_name_and_never_takes_back(text: str) -> None:
    text += " and so on, for a while, until the end of the sentence is really reached, at last."
    before = ""
    for end in range(len(text) + 1):
        shown = OWN.growing(text[:end])
        assert shown.startswith(before)
        before = shown
        assert not [
            name for name in ("chatgpt", "openai", "qwen", "anthropic", "smollm", "通义千问") if name in shown.lower()
        ]
    assert len(before) > 20


@given(st.text("IamChtGPT 3-.*\u200b我是通义", max_size=120), st.integers(0, 120))
def test_growing_is_a_beginning_of_what_comes(text: str, end: int) -> None:
    assert OWN.growing(text).startswith(OWN.growing(text[:end]))
