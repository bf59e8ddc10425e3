"""A studio for tests of the raters' pages: batches of every kind, a model that speaks from a script, a browser."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from studio_api import House, enrol

from tutelage.feedback.people import User
from tutelage.feedback.work import BatchSpec, Kind, NewItem
from tutelage.model.tiny import tiny_tokenizer
from tutelage.records import Completion, Message, Prompt, Source
from tutelage.sample.sampler import SamplingParams
from tutelage.sample.scripted import Scripted
from tutelage.studio import talk
from tutelage.studio.speaker import Speaker, Voice

KINDS: dict[Kind, int] = {  # completions of an item
    "comparison": 2,
    "ranking": 6,
    "rating": 1,
    "demonstration": 0,
    "edit": 1,
    "versus": 2,
}
SECRET = "secret-model-9b"
TEXTS = ("Boil the **vinegar**.", "Ask a *gardener*.", "No idea.", "It depends.", "Use gloves.", "Wait a week.")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


def prompt(n: int) -> Prompt:
    """A conversation, different for each number."""
    turns = [("user", f"How do I pickle chillies, number {n}?"), ("assistant", "Which?"), ("user", "Red ones.")]
    return Prompt(messages=tuple(Message(role=role, content=content) for role, content in turns))


def open_batch(house: House, kind: Kind, count: int = 8, *, texts: Sequence[str] = TEXTS, **spec: Any) -> str:
    """A batch of items whose completions carry a model's name; returns its id."""

    def item(n: int) -> NewItem:
        made = [Completion(text=texts[i % len(texts)], source=Source(model=SECRET)) for i in range(KINDS.get(kind, 0))]
        return NewItem(prompt=prompt(n), completions=tuple(made))

    guideline = house.room.batches.add_guideline("Kitchen", "Prefer what is **true**.").id
    plain = {"overlap": 1, "gold_share": 0.0, "repeat_share": 0.0, "guideline": guideline} | spec
    named = BatchSpec(name=f"Kitchen, {kind}", kind=kind, **plain)
    return house.room.batches.open(named, [item(n) for n in range(count)]).id


def speaking(house: House, replies: Sequence[str]) -> Scripted:
    """Have a script speak in the chat; given out two at a time, in order."""
    tokenizer = tiny_tokenizer()
    sampler = Scripted.texts(replies, tokenizer.encode, tokenizer.end)
    voice = Voice(tokenizer, sampler, SamplingParams(max_tokens=400), Source(model=SECRET))
    speaker = Speaker(lambda: voice)
    house.app.dependency_overrides[talk.speaker_of] = lambda: speaker
    return sampler


class Visitor:
    """Somebody signed in, without scripts: follows redirects, sends forms as a browser does."""

    def __init__(self, house: House, user: User | None = None) -> None:
        self.user = user or enrol(house.room.store, "rater", name="Ann")
        self.client = TestClient(house.app, base_url="http://studio.test", headers={"origin": "http://studio.test"})
        self.client.cookies.set("tutelage_session", house.room.entrance.start(self.user))

    def get(self, path: str) -> str:
        """A page's HTML, after redirects."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def send(self, page: str, expect: int = 200, action: str = "", **fields: Any) -> str:
        """Send the form of a page with these fields; the page it leads to."""
        found = re.search(r'<form class="item.*?action="([^"]+)"', page, re.DOTALL)
        assert found, page
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page[found.start() :]))
        answer = self.client.post(found[1] + action, data=hidden | fields)
        assert answer.status_code == expect, answer.text
        return answer.text


@contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """A browser; call it for a context of its own with these options."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context
        browser.close()


class Browsing:
    """A rater in a browser. Collects what must not happen: errors, dialogs, requests that leave this machine."""

    def __init__(self, context: Any, address: str, house: House, user: User | None = None) -> None:
        self.user = user or enrol(house.room.store, "rater", name="Ann")
        self.address, self.context, self.faults = address, context, []
        cookie = {"name": "tutelage_session", "value": house.room.entrance.start(self.user), "url": address}
        context.add_cookies([cookie])
        context.set_default_timeout(20_000)
        self.page = self.tab()

    def tab(self) -> Any:
        """One more page of the same browser."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._leaving)
        return page

    def _leaving(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:")):
            self.faults.append(f"request: {request.url}")

    def goto(self, path: str) -> Any:
        """The page at a path, once its scripts have run."""
        self.page.goto(self.address + path)
        return self.page

    def press(self, *keys: str) -> None:
        """Keys, one after another."""
        for key in keys:
            self.page.keyboard.press(key)

    def item(self) -> str:
        """The item on the screen."""
        return str(self.page.get_attribute("#item", "data-item"))

    def until_item_changes(self, before: str) -> None:
        """Wait for the next item."""
        self.page.wait_for_function("before => document.getElementById('item')?.dataset.item !== before", arg=before)

    def saved(self) -> None:
        """Wait until the status line says that everything is saved."""
        self.page.wait_for_selector("#status[data-state=saved]")

    def serious(self) -> list[str]:
        """What axe finds serious or critical on the page. Its script is read once for each page that is loaded."""
        from axe_playwright_python.sync_playwright import Axe

        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(Axe().axe_script)
        found = self.page.evaluate("axe.run({ resultTypes: ['violations'], selectors: false }).then(r => r.violations)")
        return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]

    def too_wide(self) -> int:
        """Pixels that the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def house_in(folder: Path) -> Iterator[House]:
    """A house for a fixture; its pages follow each other without a rate of the API's."""
    made = House(folder)
    yield made
    made.room.store.close()
