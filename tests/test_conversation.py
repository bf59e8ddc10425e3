"""Live chat: two replies a turn, the chosen one goes on, every choice is a label; nothing tells which model speaks."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_api import House
from studio_pages import SECRET, Visitor, house_in, open_batch, prompt, speaking

from tutelage.errors import ModelError, StudioError
from tutelage.feedback.conversation import Conversations
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import Held, Ranked, Rated
from tutelage.folder import ProjectFolder
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.records import Completion, Message, Prompt, Source
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams
from tutelage.studio.speaker import Growing, ProjectVoice, Speaker, Voice


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from house_in(tmp_path)


def pair(left: str, right: str) -> tuple[Completion, Completion]:
    return Completion(text=left, source=Source(model=SECRET)), Completion(text=right, source=Source(model=SECRET))


def held(house: House, rater: str, **spec: Any) -> tuple[Conversations, str]:
    batch = open_batch(house, "chat", 2, **spec)
    found = house.room.desk.next(rater, batch)
    assert isinstance(found, Held)
    return Conversations(house.room.store), found.id


def test_the_chosen_reply_goes_on_and_every_choice_is_a_label(house: House) -> None:
    talks, item = held(house, "person-1")
    here = talks.of("person-1", item)
    assert not here.speaks  # the prompt asks already
    first = here.asking("")
    assert first.messages[-1].content == "Red ones."
    here = talks.offer("person-1", item, first, pair("Boil it.", "Fry it."))
    assert here.texts == ("Boil it.", "Fry it.")
    here = talks.choose("person-1", item, 1, key="k1", ranks=(2, 1), seconds=2.0)
    assert (here.number, here.speaks, here.messages[-1].content) == (2, True, "Fry it.")
    second = here.asking("How long?")
    assert [m.content for m in second.messages[-2:]] == ["Fry it.", "How long?"]
    talks.offer("person-1", item, second, pair("An hour.", "A day."))
    here = talks.choose("person-1", item, 2, key="k2", ranks=(1, 1), seconds=None)
    assert here.messages[-1].content == "An hour."  # of a tie the left one goes on
    closed = talks.close("person-1", item)
    assert closed.closed
    one, two = house.room.store.comparisons()
    assert (one.ranks, one.prompt, two.ranks, two.prompt) == ((2, 1), first, (1, 1), second)
    assert one.completions[0].source.model == SECRET
    assert one.annotator.id == "person-1"
    assert house.room.batches.progress(closed.batch).finished == 1
    following = house.room.desk.next("person-1", closed.batch)
    assert isinstance(following, Held)
    assert following.id != item


def test_choices_are_in_ones_own_answers_and_in_pace_and_cost(house: House) -> None:
    talks, item = held(house, "person-1")
    for number, (ranks, seconds) in enumerate([((2, 1), 4.0), ((1, 1), 10.0)], 1):
        asked = talks.of("person-1", item).asking("How long?" if number == 2 else "")
        talks.offer("person-1", item, asked, pair("An hour.", "A day."))
        talks.choose("person-1", item, number, key=f"k{number}", ranks=ranks, seconds=1000 * seconds)
    plain = house.room.desk.next("person-1", open_batch(house, "rating", 1))
    assert isinstance(plain, Held)
    house.room.desk.submit("person-1", plain.id, "key", Rated(score=3), 1e9)
    rating, talk = house.room.desk.recent("person-1")
    assert (rating.kind, rating.turns) == ("rating", 0)
    assert (talk.item, talk.kind, talk.turns, talk.texts) == (item, "chat", 2, ("An hour.", "A day."))
    assert talk.answer == Ranked(ranks=(1, 1))  # the last choice
    assert talk.messages[-1].content == "How long?"
    assert house.room.desk.recent("person-1", 1) == [rating]
    batch, oversight = talk.batch, Oversight(house.room.store)
    labels = list(house.room.store.comparisons())
    work = oversight.work(batch)["person-1"]
    assert (work.answered, work.seconds) == (2, [one.seconds for one in labels])
    assert oversight.work()["person-1"].answered == 3
    assert oversight.labels(batch) == {one.id for one in labels}
    assert oversight.daily(7, batch) == {talk.created[:10]: 2}
    assert set(oversight.periods()) == {one.id for one in labels}  # the rating is no comparison


def test_a_conversation_in_the_list_says_why_it_cannot_be_changed(house: House) -> None:
    ann = Visitor(house)
    talks, item = held(house, ann.user.id)
    talks.offer(ann.user.id, item, talks.of(ann.user.id, item).asking(""), pair("a", "b"))
    talks.choose(ann.user.id, item, 1, key="k", ranks=(1, 2), seconds=1.0)
    page = ann.get("/recent")
    assert "A conversation: 1 choices" in page
    assert "Cannot be changed: the conversation went on from your choices." in page
    assert ">Correct<" not in page


def test_the_same_choice_twice_is_one_label_and_no_other_replaces_it(house: House) -> None:
    talks, item = held(house, "person-1")
    asked = talks.of("person-1", item).asking("")
    talks.offer("person-1", item, asked, pair("a", "b"))
    for _ in range(3):
        talks.choose("person-1", item, 1, key="k", ranks=(1, 2), seconds=1.0)
    assert house.room.store.count("comparisons") == 1
    with pytest.raises(StudioError, match="This turn is over"):
        talks.choose("person-1", item, 1, key="other", ranks=(2, 1), seconds=1.0)
    with pytest.raises(StudioError, match="went on in another tab"):
        talks.offer("person-1", item, asked, pair("c", "d"))
    with pytest.raises(StudioError, match="Write something first"):
        talks.of("person-1", item).asking(" \n")


def test_the_last_turn_closes_and_an_empty_conversation_cannot(house: House) -> None:
    talks, item = held(house, "person-1", turns=1)
    with pytest.raises(StudioError, match="or skip this one"):
        talks.close("person-1", item)
    talks.offer("person-1", item, talks.of("person-1", item).asking(""), pair("a", "b"))
    with pytest.raises(StudioError, match="waits for a choice"):
        talks.of("person-1", item).asking("more")
    assert talks.choose("person-1", item, 1, key="k", ranks=(1, 2), seconds=1.0).closed
    assert talks.close("person-1", item).closed  # again changes nothing
    assert house.room.batches.progress(talks.of("person-1", item).batch).answered == 1


def test_nothing_is_chosen_in_a_conversation_that_is_closed_or_skipped(house: House) -> None:
    """Replies that another tab still shows: choosing there would count the item twice, and label what is over."""
    talks, item = held(house, "person-1", turns=2, overlap=2, overlap_share=1.0)
    talks.offer("person-1", item, talks.of("person-1", item).asking(""), pair("a", "b"))
    talks.choose("person-1", item, 1, key="k1", ranks=(1, 2), seconds=1.0)
    talks.offer("person-1", item, talks.of("person-1", item).asking("And?"), pair("c", "d"))
    batch = talks.close("person-1", item).batch
    other = house.room.desk.next("person-1", batch)
    assert isinstance(other, Held)
    talks.offer("person-1", other.id, talks.of("person-1", other.id).asking(""), pair("e", "f"))
    house.room.desk.skip("person-1", other.id, "unclear")
    for over, number in [(item, 2), (other.id, 1)]:
        with pytest.raises(StudioError, match="This turn is over") as refused:
            talks.choose("person-1", over, number, key="k2", ranks=(1, 2), seconds=1.0)
        assert refused.value.status == 409
        assert talks.close("person-1", over).closed
    assert house.room.batches.progress(batch).answered == 1
    assert house.room.store.count("comparisons") == 1


def test_a_draft_ends_with_what_it_was_for(house: House) -> None:
    talks, item = held(house, "person-1")
    desk = house.room.desk

    def draft_after(act: Callable[[], object]) -> str | None:
        desk.draft("person-1", item, '{"text": "Of turn one"}')
        act()
        return desk.held("person-1", item).draft

    asked = talks.of("person-1", item).asking("")
    assert draft_after(lambda: None) is not None
    assert draft_after(lambda: talks.offer("person-1", item, asked, pair("a", "b"))) is None
    assert draft_after(lambda: talks.choose("person-1", item, 1, key="k", ranks=(1, 2), seconds=1.0)) is None
    assert draft_after(lambda: talks.close("person-1", item)) is None


@pytest.mark.parametrize("turns", [1, 2])
def test_the_last_conversation_finishes_its_batch(house: House, turns: int) -> None:
    """By its last turn, or closed by the rater."""
    house.room.outbox.add("person-x", "https://example.org/hook", ["batch.finished"])
    talks, item = held(house, "person-1", turns=turns)
    told = []
    while item:
        talks.offer("person-1", item, talks.of("person-1", item).asking(""), pair("a", "b"))
        talks.choose("person-1", item, 1, key=item, ranks=(1, 2), seconds=1.0)
        batch = talks.close("person-1", item).batch
        told += [len(house.room.outbox.claim())]
        following = house.room.desk.next("person-1", batch)
        item = following.id if isinstance(following, Held) else ""
    assert told == [0, 1]


def test_a_conversation_belongs_to_one_person(house: House) -> None:
    talks, item = held(house, "person-1")
    with pytest.raises(StudioError, match="not given to you"):
        talks.of("person-2", item)


REPLIES = ["I am ChatGPT. **Boil** it.", "Fry <script>alert(1)</script> it.", "An hour.", "A day."]


def test_replies_stream_and_no_name_is_in_the_stream(house: House) -> None:
    speaking(house, REPLIES)
    ann, batch = Visitor(house), open_batch(house, "chat", 1, turns=2)
    page = ann.get(f"/work/{batch}")  # leads on to the chat
    place = re.search(r'data-place="([^"]+)"', page)[1]  # type: ignore[index]
    headers = {"accept": "application/json", "x-csrf-token": re.search(r'csrf-token" content="(\w+)', page)[1]}  # type: ignore[index]
    lines = [json.loads(line) for line in ann.client.post(f"{place}/say", headers=headers).text.splitlines()]
    html = lines[-1]["html"]
    grown = ["".join(line["more"][i] for line in lines[:-1]) for i in range(2)]
    assert not grown[0]  # too short to be sure of before its end
    assert "I am [name masked]. <strong>Boil</strong> it." in html
    assert "&lt;script&gt;" in html
    assert "ChatGPT" not in json.dumps(lines)
    assert SECRET not in json.dumps(lines)
    assert 'name="preference"' in ann.get(f"/chat/{batch}")  # a reload keeps the replies
    key = re.search(r'name="key" value="(\w+)"', html)[1]  # type: ignore[index]
    chosen = {"number": 1, "preference": 1, "key": key, "seconds": 4}
    answer = ann.client.post(f"{place}/choose", data=chosen, headers=headers).json()
    assert "<textarea" in answer["html"]
    assert house.room.store.count("comparisons") == 1


def test_long_replies_are_heard_before_they_end(house: House) -> None:
    long = "Boil the vinegar with salt and sugar, let it cool, and pour it over. " * 3
    speaking(house, [long, f"I am ChatGPT. {long}"])
    ann, batch = Visitor(house), open_batch(house, "chat", 1)
    page = ann.get(f"/chat/{batch}")
    place = re.search(r'data-place="([^"]+)"', page)[1]  # type: ignore[index]
    headers = {"accept": "application/json", "x-csrf-token": re.search(r'csrf-token" content="(\w+)', page)[1]}  # type: ignore[index]
    lines = [json.loads(line) for line in ann.client.post(f"{place}/say", headers=headers).text.splitlines()]
    grown = ["".join(line["more"][i] for line in lines[:-1]) for i in range(2)]
    assert len(lines) > 50
    assert long.startswith(grown[0])
    assert len(grown[0]) > 100
    assert grown[1].startswith("I am [name masked]. Boil")


def test_without_scripts_the_page_waits(house: House) -> None:
    speaking(house, REPLIES)
    ann, batch = Visitor(house), open_batch(house, "chat", 1, turns=2)
    choosing = ann.send(ann.get(f"/chat/{batch}"))
    assert "[name masked]" in choosing
    ann.send(choosing, expect=422)
    writing = ann.send(choosing, preference=-1)
    ann.send(writing, expect=422, text="")
    last = ann.send(ann.send(writing, text="How long?"), preference=1)
    assert "Every item here has its answers" in last
    one, two = house.room.store.comparisons()
    assert [m.content for m in two.prompt.messages[-2:]] == ["I am ChatGPT. **Boil** it.", "How long?"]
    assert (one.ranks, two.ranks) == ((1, 2), (2, 1))


def test_a_studio_without_a_project_says_so(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "chat", 1)
    assert "start it in a project folder" in ann.send(ann.get(f"/chat/{batch}"), expect=503)


# ---- the model's thread


def heard(speaker: Speaker, asked: Prompt) -> list[Growing]:
    async def listen() -> list[Growing]:
        return [step async for step in speaker.replies(asked)]

    return asyncio.run(listen())


def test_the_engine_speaks_and_its_replies_are_whole() -> None:
    tokenizer = tiny_tokenizer()
    engine = Engine(tiny_decoder(), tokenizer.end)
    voice = Voice(tokenizer, engine, SamplingParams(max_tokens=12), Source(model="tiny"))
    steps = heard(Speaker(lambda: voice), Prompt.user("Hello"))
    left, right = steps[-1].done or ()
    assert left.source.seed == right.source.seed is not None
    whole = tokenizer.prompt(Prompt.user("Hello"))
    again = engine.generate([whole] * 2, voice.params, seed=left.source.seed or 0)
    assert [(tokenizer.decode(s.tokens).strip(), s.finish) for s in again] == [
        (left.text, left.finish),
        (right.text, right.finish),
    ]
    assert all(step.done is None for step in steps[:-1])


def test_what_is_wrong_with_the_model_is_told() -> None:
    def broken() -> Voice:
        raise ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        heard(Speaker(broken), Prompt.user("Hello"))


def test_who_stops_listening_stops_the_model() -> None:
    tokenizer, drawn = tiny_tokenizer(), []

    class Counting(Engine):
        def stream(self, *args: Any, **options: Any) -> Iterator[dict[int, int]]:
            for step in super().stream(*args, **options):
                drawn.append(step)
                yield step

    engine = Counting(tiny_decoder(context=4000), end=-1)  # no token: only the limit ends a reply
    limits = iter([3000, 2])
    speaker = Speaker(lambda: Voice(tokenizer, engine, SamplingParams(max_tokens=next(limits)), Source(model="tiny")))

    async def leave() -> Growing:
        replies = speaker.replies(Prompt.user("Hello"))
        await anext(replies)
        await replies.aclose()  # type: ignore[attr-defined]
        return [step async for step in speaker.replies(prompt(0))][-1]  # after the first: they share a thread

    assert asyncio.run(leave()).done is not None
    assert len(drawn) < 500


def test_a_project_speaks_with_its_newest_policy(tmp_path: Path) -> None:
    voice = ProjectVoice(ProjectFolder.init(tmp_path, model="tiny", store="x.db"))
    first = voice()
    assert first.source.model == "tiny"
    assert first.source.run is None
    assert first.params.max_tokens == 256
    assert voice() is first
    asked = Prompt(messages=(Message(role="user", content="Hello"),))
    assert heard(Speaker(lambda: first), asked)[-1].done is not None
