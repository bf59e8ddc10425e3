"""Text ↔ tokens: the only bridge between records and tensors. Says which tokens are trained.

Four choices, each because the default hurts:

1. Text never becomes a control token. `<|im_end|>` typed by somebody is cut into ordinary tokens (in a chat turn, where
   the template decides, it is refused), else a user could end the model's turn.
2. No default system turn. Templates of SmolLM2 and Qwen2.5 put one before a conversation without it; we cut it out, so
   that the model reads the prompt the record shows and nothing else.
3. Pad is never end: where they are the same, code that hides padding from the loss never trains the end.
4. The end token is trained exactly when the completion ended by itself (`finish == "stop"`).
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import DataError, ModelError
from tutelage.model.batch import Example
from tutelage.records import Finish, Prompt

SYSTEM_TURN = (
    "<|im_start|>system\n",
    "<|im_end|>\n",
)  # how the templates that add a default system turn open and close it
ANCHOR = "\n"


class Tokenizer:
    """A transformers tokenizer behind the five verbs we need. Raises ModelError where it can't be trained with."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        if inner.eos_token_id is None:
            raise ModelError("the tokenizer has no end token: set eos_token in tokenizer_config.json")
        self.end: int = inner.eos_token_id
        self.begin: int | None = inner.bos_token_id
        special = {token.content: at for at, token in inner.added_tokens_decoder.items() if token.special}
        self.special: dict[str, int] = special | dict(zip(inner.all_special_tokens, inner.all_special_ids, strict=True))
        self.pad: int = self._choose_pad()
        self._prefix = self._find_prefix()
        self._anchor: list[int] = [] if self._faithful() else self._plain(ANCHOR)

    def __len__(self) -> int:
        """The number of tokens it knows; a model's output may be wider."""
        return len(self._inner)

    def _choose_pad(self) -> int:
        """The tokenizer's pad, or another control token where that is the end or missing."""
        inner = self._inner
        preferred = [inner.pad_token_id, inner.unk_token_id, *sorted(self.special.values())]
        for token in preferred:
            if token is not None and token not in (self.end, self.begin):
                inner.pad_token = inner.convert_ids_to_tokens(token)
                return int(token)
        raise ModelError(
            f"the tokenizer has no pad token apart from its end token {inner.eos_token!r}, and training so "
            "never teaches the model to stop: set pad_token in tokenizer_config.json to a token that text never holds"
        )

    def _find_prefix(self) -> list[int]:
        """What the tokenizer wants before a text, such as Llama 3's begin token; nothing for SmolLM2."""
        bare, full = self._plain("a"), self._inner("a", add_special_tokens=True)["input_ids"]
        return list(full[: full.index(bare[0])])

    def _plain(self, text: str) -> list[int]:
        return list(self._inner(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._inner.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _faithful(self) -> bool:
        return self._text(self._plain(" a b")) == " a b" and self._text(self._plain("a")) == "a"

    def encode(self, text: str) -> list[int]:
        """Tokens of a piece of text, nothing added, no control tokens, whatever it says.

        Tokenizers that put a space before every text (Llama 2's) get the piece behind a line break, which is cut off
        again, so that a prompt and its completion join as they were written.
        """
        behind = self._plain(ANCHOR + text) if self._anchor else []
        cut = len(self._anchor)
        return behind[cut:] if self._anchor and behind[:cut] == self._anchor else self._plain(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens left out."""
        return self._text([*self._anchor, *ids]).removeprefix(ANCHOR) if self._anchor else self._text(ids)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokens of a prompt: the bare text for role `text`, else the chat template up to the assistant's turn.

        Raises DataError for an empty text and for control tokens in a turn, ModelError without a chat template.
        """
        first = prompt.messages[0]
        if first.role == "text":
            tokens = self._prefix + self.encode(first.content)
            if not tokens:
                raise DataError("the prompt is empty and this model has no begin token: give it at least one character")
            return tokens
        return list(self._inner(self._render(prompt), add_special_tokens=False)["input_ids"])

    def _render(self, prompt: Prompt) -> str:
        """The conversation by the chat template, without a system turn that the prompt doesn't have."""
        if not self._inner.chat_template:
            raise ModelError("this model's tokenizer has no chat template: use prompts of role 'text', or a chat model")
        for message in prompt.messages:
            found = [s for s in self.special if s in message.content]
            if found:
                turn = f"a turn of role {message.role!r} contains the control token {found[0]!r}"
                raise DataError(f"{turn}, which would break the conversation: remove it from the text")
        turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
        text: str = self._inner.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        opening, closing = SYSTEM_TURN
        if prompt.messages[0].role != "system" and text.startswith(opening):
            text = text.partition(closing)[2]
        return text

    def completion(self, text: str, finish: Finish = "stop") -> list[int]:
        """Tokens of a completion, with the end token when the model ended it by itself."""
        return self.encode(text) + ([self.end] if finish == "stop" else [])

    def example(self, prompt: Prompt, text: str, *, max_tokens: int, finish: Finish = "stop") -> Example:
        """Prompt and completion as one sequence of at most `max_tokens`; exactly the completion's tokens are trained.

        A completion that is too long is cut at the end and loses its end token with the rest. Raises DataError when the
        prompt leaves no room for a single token: cutting a prompt would change what was asked.
        """
        before, after = self.prompt(prompt), self.completion(text, finish)
        if len(before) >= max_tokens:
            start = self.decode(before[:12])
            raise DataError(
                f"the prompt that starts {start!r} has {len(before)} tokens, but max_tokens is {max_tokens} for "
                "prompt and completion together: raise it or drop the prompt"
            )
        tokens = (*before, *after)[:max_tokens]
        return Example(tokens, tuple(i >= len(before) for i in range(len(tokens))))

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, under a class name that transformers 4 knows too."""
        self._inner.save_pretrained(str(folder))
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.get("tokenizer_class") == "TokenizersBackend":
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        if self._inner.chat_template:
            settings["chat_template"] = self._inner.chat_template
        path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder. Raises ModelError when it can't be read."""
    from transformers import AutoTokenizer

    # it warns of every text longer than the context; we cut or refuse those ourselves
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    try:
        return Tokenizer(AutoTokenizer.from_pretrained(str(folder)))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} holds no tokenizer that transformers reads: {error}") from error
