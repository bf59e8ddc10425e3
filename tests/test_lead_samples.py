"""A lead has answers sampled from the studio, by the call of `tutelage sample`; from there a batch."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from studio_api import House
from test_lead_pages import NEW, Browser

from tutelage.feedback.audit import entries
from tutelage.project import Project
from tutelage.questions import read_questions
from tutelage.records import Prompt
from tutelage.runs import Run
from tutelage.stage import Settings
from tutelage.studio.sampling import Sampling, Wanted

FORM = {"run": "", "prompts": "2", "completions": "3", "temperature": "0.9", "top_p": "1", "max_tokens": "8"}


@pytest.fixture
def films(tmp_path: Path) -> Iterator[tuple[Project, House]]:
    """A project with a tiny model, a studio over its store, three prompts in it."""
    project = Project.init(tmp_path / "films", model="tiny")
    house = House(tmp_path, project.folder.store_url(project.folder.core()))
    house.room.store.add(*(Prompt.text(f"film {i}") for i in range(3)))
    sampling = Sampling(project.folder, house.room.store)
    house.app.state.room = house.room = replace(house.room, project=project.folder, sampling=sampling)
    yield project, house
    house.room.store.close()


def unfinished(project: Project, drawn: int) -> Run:
    """A sampling run that this process is at."""
    run = Run.start(project.folder.runs, "sample", Settings(), parents=[])
    run.record({"drawn": drawn, "completions": 6})
    return run


def test_from_a_form_to_a_batch(films: tuple[Project, House]) -> None:
    _, house = films
    lead = Browser(house, "lead")
    assert lead.post("/lead/samples", FORM).headers["location"] == "/lead/samples"
    house.room.sampling.wait()
    page = lead.get("/lead/samples")
    [job] = house.room.sampling.jobs()
    assert (job.run.status, job.of, job.drawn, job.questions) == ("done", 6, 6, 2)
    assert f'href="/lead/batches/new?run={job.run.id}"' in page
    assert "2 prompts with 6 answers" in page
    assert f'value="{job.run.id}" selected' in lead.get(f"/lead/batches/new?run={job.run.id}")
    lead.post("/lead/batches/new", NEW | {"run": job.run.id, "kind": "ranking"})
    [batch] = house.room.batches.all()
    assert house.room.batches.progress(batch.id).items == 2
    source = read_questions(job.run.path / "questions.jsonl")[0].completions[0].source
    assert (source.run, source.sampling["temperature"], source.sampling["max_tokens"]) == (job.run.id, 0.9, 8)
    [line] = entries(house.room.store, actions=["sample"])
    assert (line.user, line.detail["prompts"]) == (lead.user.id, 2)


def test_one_run_at_a_time_and_how_far_it_is(films: tuple[Project, House]) -> None:
    project, house = films
    lead, run = Browser(house, "lead"), unfinished(project, 4)
    page = lead.get("/lead/samples")
    assert '<progress max="6" value="4"' in page
    assert "4 of 6 answers" in page
    refused = lead.post("/lead/samples", FORM | {"prompts": "17"}, 409).text
    assert "A sampling run is going on" in refused
    assert 'value="17"' in refused  # nothing typed is lost
    run.finish("done")
    assert "<progress" not in lead.get("/lead/samples")


def test_a_run_that_ended_with_its_studio_says_so(films: tuple[Project, House]) -> None:
    project, house = films
    run = unfinished(project, 4)
    run.finish("interrupted")  # the lock is let go, as at kill -9
    facts = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    page = Browser(house, "lead").get("/lead/samples")
    assert "ended with the studio" in page
    assert "It ended at 4 of 6 answers, and kept none. Sample again." in page
    house.room.sampling.start("person-1", Wanted(prompts=1, completions=2, max_tokens=4))  # nothing is in the way
    house.room.sampling.wait()
    assert sorted(job.run.status for job in house.room.sampling.jobs()) == ["done", "killed"]


def test_what_is_wrong_is_told(films: tuple[Project, House]) -> None:
    _, house = films
    lead = Browser(house, "lead")
    assert (
        "completions: Input should be less than or equal to 9"
        in lead.post("/lead/samples", FORM | {"completions": "10"}, 422).text
    )
    lead.post("/lead/samples", FORM | {"run": "sft-none"})
    house.room.sampling.wait()
    assert "no run &#39;sft-none&#39;" in lead.get("/lead/samples")
    with pytest.raises(Exception, match="has no project"):
        Sampling(None, house.room.store).start("person-1", Wanted())
