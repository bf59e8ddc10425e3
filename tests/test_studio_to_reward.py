"""End to end: three raters label through the studio, and the reward model trains on what they said, no step between."""

import threading
from pathlib import Path

import studio_api
from studio_api import better_first, question, served

import tutelage
from tutelage.feedback.work import BatchSpec
from tutelage.studio.app import create_app
from tutelage.studio.client import Studio

LABELS = 60


def test_three_raters_60_comparisons_and_a_reward_model_that_names_them(tmp_path: Path) -> None:
    project = tutelage.init(tmp_path / "films", model="tiny")
    url = project.folder.store_url(project.folder.core())
    house = studio_api.House(tmp_path, url)
    raters = [house.person("rater", scopes=["label"]) for _ in range(3)]
    spec = BatchSpec(
        name="films", kind="comparison", overlap=2, overlap_share=1, most_answers=2, gold_share=0, repeat_share=0
    )
    house.room.batches.open(spec, [question(i) for i in range(LABELS // 2)])

    def rate(caller: studio_api.Caller, url: str) -> None:
        with Studio(url, caller.token) as studio:
            while item := studio.next():
                studio.submit(item, better_first(item.texts), seconds=2.0)

    with served(create_app(url, project.folder)) as address:
        threads = [threading.Thread(target=rate, args=(rater, address)) for rater in raters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    house.room.store.close()

    with project.store() as store:
        assert store.count("comparisons") == LABELS
        by_rater = {a.id: sum(1 for _ in store.comparisons("train", a.id)) for a in store.annotators()}
    assert set(by_rater) == {rater.user.id for rater in raters}
    assert min(by_rater.values()) >= 5

    run = project.reward({"reward.steps": 3})
    [(_, found)] = project.lineage(run.id).walk()
    assert found.info is not None
    named = {one["id"]: one["labels"] for one in found.info.data["annotators"]}
    assert named == {rater: labels for rater, labels in by_rater.items() if labels}
