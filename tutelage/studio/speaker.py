"""The project's model, speaking: one thread that everybody's conversations share, and replies as they grow.

A model's thread is its lock: two conversations wait for each other, the pages do not. Who stops listening stops the
work at the next token.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tutelage.errors import TutelageError
from tutelage.folder import ProjectFolder
from tutelage.model.causal import fingerprint
from tutelage.model.chat import Tokenizer
from tutelage.records import Completion, Prompt, Source
from tutelage.sample.sampler import Sampler, SamplingParams
from tutelage.stage import Settings
from tutelage.wire import model_of, newest_policy, sampler_of

REPLIES = 2
REPLY_TOKENS = 256  # a reply may be as long, also where the project samples shorter ones
SEEDS = 2**32


@dataclass(frozen=True)
class Voice:
    """A model that is ready to speak, and what its completions say of where they come from."""

    tokenizer: Tokenizer
    sampler: Sampler
    params: SamplingParams
    source: Source


@dataclass(frozen=True)
class Growing:
    """Two replies so far; `done` when they are whole."""

    texts: tuple[str, ...]
    done: tuple[Completion, Completion] | None = None


class Speaker:
    """Speaks with the voice that `load` gives it; it is asked before every reply, in the thread of the model."""

    def __init__(self, load: Callable[[], Voice]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="voice")

    async def replies(self, prompt: Prompt) -> AsyncIterator[Growing]:
        """Two replies, growing; the last one given is `done`. Raises what the model raises, as TutelageError."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        grown: asyncio.Queue[Growing | TutelageError] = asyncio.Queue()

        def tell(what: Growing | TutelageError) -> None:
            loop.call_soon_threadsafe(grown.put_nowait, what)

        working = loop.run_in_executor(self._thread, self._speak, prompt, tell, stop)
        try:
            while True:
                listening = asyncio.ensure_future(grown.get())
                both: set[asyncio.Future[Any]] = {listening, working}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not listening.done():
                    listening.cancel()
                    await working  # it ended without a last word: raises what ended it
                    return
                found = listening.result()
                if isinstance(found, TutelageError):
                    raise found
                yield found
                if found.done is not None:
                    return
        finally:
            stop.set()

    def _speak(self, prompt: Prompt, tell: "Callable[[Growing | TutelageError], None]", stop: threading.Event) -> None:
        """In the model's thread."""
        try:
            voice, seed = self._load(), secrets.randbelow(SEEDS)
            tokens: list[list[int]] = [[] for _ in range(REPLIES)]
            asked = [voice.tokenizer.prompt(prompt)] * REPLIES
            for step in voice.sampler.stream(asked, voice.params, seed=seed):
                if stop.is_set():
                    return
                for i, token in step.items():
                    tokens[i].append(token)
                tell(Growing(tuple(voice.tokenizer.decode(one) for one in tokens)))
        except TutelageError as error:
            tell(error)
            return
        end, source = voice.tokenizer.end, voice.source.model_copy(update={"seed": seed})

        def whole(one: list[int]) -> Completion:
            text = voice.tokenizer.decode(one).strip()
            return Completion(text=text, finish="stop" if one[-1] == end else "length", source=source)

        left, right = whole(tokens[0]), whole(tokens[1])
        tell(Growing((left.text, right.text), (left, right)))


class ProjectVoice:
    """The voice of a project: its newest policy, loaded when first needed and again when there is a newer one."""

    def __init__(self, project: ProjectFolder) -> None:
        self._project = project
        self._loaded: tuple[str | None, Voice] | None = None

    def __call__(self) -> Voice:
        """Raises what loading a model raises."""
        run = newest_policy(self._project)
        name = None if run is None else run.id
        if self._loaded is None or self._loaded[0] != name:
            settings = self._project.settings(Settings)
            model = model_of(self._project, settings, run)
            tokens = max(settings.sampling.max_tokens, REPLY_TOKENS)
            params = settings.sampling.model_copy(update={"max_tokens": tokens})
            source = Source(
                model=model.name, checkpoint=fingerprint(model.decoder), run=name, sampling=params.model_dump()
            )
            self._loaded = name, Voice(model.tokenizer, sampler_of(model), params, source)
        return self._loaded[1]
