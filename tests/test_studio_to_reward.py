"""End to end: three raters label through the studio, and the reward model trains on what they said, no step between."""

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import studio_api
from studio_api import better_first, question, served
from studio_pages import Browsing, chromium, needs_chromium

import tutelage
from tutelage.feedback.work import BatchSpec
from tutelage.project import Project
from tutelage.studio.client import Studio

LABELS = 60


@pytest.fixture
def films(tmp_path: Path) -> tuple[Project, studio_api.House, str]:
    """A project of a tiny model, a studio over its store, and a batch that asks for sixty comparisons of pairs."""
    project = tutelage.init(tmp_path / "films", model="tiny")
    house = studio_api.House(tmp_path, project.folder.store_url(project.folder.core()))
    spec = BatchSpec(
        name="films", kind="comparison", overlap=2, overlap_share=1, most_answers=2, gold_share=0, repeat_share=0
    )
    batch = house.room.batches.open(spec, [question(i) for i in range(LABELS // 2)])
    return project, house, batch.id


def test_three_raters_60_comparisons_and_a_reward_model_that_names_them(
    films: tuple[Project, studio_api.House, str],
) -> None:
    project, house, _ = films
    raters = [house.person("rater", scopes=["label"]) for _ in range(3)]

    def rate(caller: studio_api.Caller, url: str) -> None:
        with Studio(url, caller.token) as studio:
            while item := studio.next():
                studio.submit(item, better_first(item.texts), seconds=2.0)

    with served(house.app) as address:
        threads = [threading.Thread(target=rate, args=(rater, address)) for rater in raters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trains_on_what_they_said(project, [rater.user.id for rater in raters])


@needs_chromium
def test_three_raters_in_browsers_60_comparisons_and_a_reward_model_that_names_them(
    films: tuple[Project, studio_api.House, str],
) -> None:
    project, house, batch = films
    with chromium() as contexts, served(house.app) as address:
        raters = [Browsing(contexts(), address, house) for _ in range(3)]
        for rater in raters:
            rater.goto(f"/work/{batch}")
        given = 0
        while given < LABELS:
            for rater in raters:
                given += rated(rater)
        for rater in raters:
            rater.goto("/")
            rater.page.wait_for_selector("#status:is([data-state=''], [data-state=saved])", state="attached")
            assert rater.faults == []
            rater.context.close()
    trains_on_what_they_said(project, [rater.user.id for rater in raters])


def rated(rater: Browsing) -> bool:
    """Answer the item on the screen by liking what comes first in the alphabet; False where there is none."""
    page = rater.page
    if not page.query_selector("#item"):
        page.reload()  # the others hold what is left; the page says until when
        return False
    before = rater.item()
    left, right = (one.inner_text() for one in page.query_selector_all("#item .answer .body"))
    rater.press("1" if left < right else "9", "Enter")
    page.wait_for_function("before => document.getElementById('item')?.dataset.item !== before", arg=before)
    return True


def trains_on_what_they_said(project: Project, raters: Iterable[str]) -> None:
    """Sixty labels, some of everybody; a reward model learns their taste, and its lineage leads back to each."""
    with project.store() as store:
        assert store.count("comparisons") == LABELS
        by_rater = {a.id: sum(1 for _ in store.comparisons("train", a.id)) for a in store.annotators()}
    assert set(by_rater) == set(raters)
    assert min(by_rater.values()) >= 5

    run = project.reward({"reward.steps": 3})
    [(_, found)] = project.lineage(run.id).walk()
    assert found.info is not None
    named = {one["id"]: one["labels"] for one in found.info.data["annotators"]}
    assert named == {rater: labels for rater, labels in by_rater.items() if labels}
