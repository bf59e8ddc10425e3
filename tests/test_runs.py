"""Run directories: nothing half-written is ever taken for whole, and nothing whole is ever lost."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError

from tutelage import checkpoint, history
from tutelage.config import Section
from tutelage.errors import CheckpointError, RunError
from tutelage.runs import Run, rng_state, set_rng_state


class Settings(Section):
    steps: int = 3
    """Number of steps."""


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weight": torch.full((100,), float(step)), "schedule": {"rate": 0.5, "names": ["a", "b"]}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.start(tmp_path / "runs", "ppo", Settings(), parents=["sft-1"], command="tutelage ppo")


def test_start_writes_what_the_run_is(run: Run) -> None:
    facts = json.loads((run.path / "run.json").read_text())
    assert facts["kind"] == "ppo"
    assert facts["parents"] == ["sft-1"]
    assert facts["status"] == "running"
    assert facts["command"] == "tutelage ppo"
    assert facts["versions"]["torch"] == torch.__version__
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {"steps": 3}
    assert run.id.startswith("ppo-20")
    run.finish()
    assert json.loads((run.path / "run.json").read_text())["status"] == "done"


def test_the_newest_of_two_begun_in_one_second_is_known(tmp_path: Path) -> None:
    begun = [Run.start(tmp_path, "ppo", Settings()).id for _ in range(8)]  # by chance: 1 in 40,320
    assert [found.id for found in history.list_runs(tmp_path)] == begun[::-1]


def test_save_and_restore_round_trip(run: Run) -> None:
    run.save(200, state(200), lambda folder: (folder / "weights.bin").write_bytes(b"abc") and None)
    restored = Run.open(run.path).restore()
    assert restored is not None
    step, found, folder = restored
    assert (step, folder.name) == (200, "000200")
    assert torch.equal(found["weight"], torch.full((100,), 200.0))
    assert found["schedule"] == {"rate": 0.5, "names": ["a", "b"]}
    assert (folder / "weights.bin").read_bytes() == b"abc"


def test_keeps_the_newest_two(run: Run) -> None:
    for step in (1, 2, 10):
        run.save(step, state(step))
    assert [p.name for p in checkpoint.complete(run.path / "checkpoints")] == ["000010", "000002"]
    assert sorted(os.listdir(run.path / "checkpoints")) == ["000002", "000010"]


def test_a_second_save_of_one_step_replaces_the_first(run: Run) -> None:
    run.save(5, state(1))
    run.save(5, state(2))
    restored = run.restore()
    assert restored is not None
    assert restored[1]["step"] == 2
    assert os.listdir(run.path / "checkpoints") == ["000005"]


def test_restore_of_a_new_run_is_none(run: Run) -> None:
    run.log(1, {"loss": 1.0})
    assert run.restore() is None
    assert run.metrics() == []


def test_metrics_and_samples_after_the_checkpoint_are_cut(run: Run) -> None:
    for step in range(1, 6):
        run.log(step, {"loss": 0.1 * step})
        run.samples(step, [{"text": f"é {step}"}, {"text": "b"}])
        if step == 3:
            run.save(step, state(step))
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # the process died in the middle of a line
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    run.restore()
    assert run.metrics() == [{"step": s, "loss": 0.1 * s} for s in (1, 2, 3)]
    rows = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["é 1", "b", "é 2", "b", "é 3", "b"]


def test_numbers_that_are_not_finite_are_recorded(run: Run) -> None:
    run.log(1, {"loss": float("nan"), "reward": float("inf")})
    (row,) = run.metrics()
    assert np.isnan(row["loss"])
    assert row["reward"] == float("inf")


@pytest.mark.parametrize("damage", ["flip", "shorten", "delete", "unseal", "garble"])
def test_a_corrupt_newest_checkpoint_falls_back_with_a_warning(run: Run, damage: str) -> None:
    run.save(1, state(1))
    newest = run.save(2, state(2))
    content = (newest / "state.pt").read_bytes()
    match damage:
        case "flip":
            middle = len(content) // 2
            (newest / "state.pt").write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "shorten":
            (newest / "state.pt").write_bytes(content[:-1])
        case "delete":
            (newest / "state.pt").unlink()
        case "garble":
            (newest / "complete.json").write_text("{")
        case "unseal":  # never sealed, so nobody ever took it for whole: no warning
            (newest / "complete.json").unlink()
    if damage == "unseal":
        restored = run.restore()
    else:
        with pytest.warns(UserWarning, match="000002 is (corrupt|incomplete)"):
            restored = run.restore()
    assert restored is not None
    assert restored[0] == 1
    assert torch.equal(restored[1]["weight"], torch.full((100,), 1.0))
    run.save(2, state(2))
    again = run.restore()
    assert again is not None
    assert again[0] == 2


def test_when_no_checkpoint_is_whole_the_error_says_so(run: Run) -> None:
    folder = run.save(1, state(1))
    (folder / "state.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="state.pt has 0 bytes"), pytest.raises(CheckpointError, match="none of the 1"):
        run.restore()


def test_a_state_that_cannot_be_loaded_safely_is_refused_when_saved(run: Run) -> None:
    run.save(1, state(1))
    with pytest.raises(TypeError, match="could not be loaded again"):
        run.save(2, {"path": Path("x")})
    restored = run.restore()
    assert restored is not None
    assert restored[0] == 1


KILLS = [  # where it dies, at which call, and the step that must still be there
    ("write", 1, 1),
    ("sum", 1, 1),
    ("sync", 1, 1),
    ("sync", 2, 1),
    ("sync", 3, 1),
    ("rename", 1, 1),
    ("sync", 4, 2),
    ("replace", 1, 1),
    ("replace", 2, 1),
    ("drop", 3, 3),
]
CHILDREN = """
    import os, shutil, signal, sys
    from pathlib import Path
    import torch
    from tutelage import checkpoint
    from tutelage.config import Section
    from tutelage.runs import Run

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(real, countdown):
        def call(*args, **kwargs):
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                die()
            return real(*args, **kwargs)
        return call

    def live_and_die(path, place, countdown):
        run = Run.open(path)
        run.restore()
        def save(step, number, write=None):
            run.log(step, {"loss": 1.0})
            run.save(step, {"step": step, "weight": torch.full((100,), float(number))}, write)
        save(1, 1)
        match place:
            case "write": save(2, 2, die)
            case "sync": checkpoint.sync = dying(checkpoint.sync, countdown + 1)  # + 1: the metrics
            case "sum": checkpoint._sum = dying(checkpoint._sum, countdown)
            case "rename" | "replace": Path.rename = dying(Path.rename, countdown)
            case "drop":
                save(2, 2)
                shutil.rmtree = dying(shutil.rmtree, countdown)
                save(3, 3)
        save(1, 7) if place == "replace" else save(2, 2)

    for name, place, countdown in [line.split() for line in sys.stdin]:
        child = os.fork()
        if child == 0:
            live_and_die(Path(sys.argv[1]) / name, place, int(countdown))
            os._exit(0)
        print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """One run for each place of KILLS, killed there. One process imports torch and forks all the victims."""
    root = tmp_path_factory.mktemp("killed")
    runs = {(place, countdown): Run.start(root, "ppo", Settings()) for place, countdown, _ in KILLS}
    for run in runs.values():
        run.finish("interrupted")  # lets go of the lock
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILDREN), str(root)],
        input="".join(f"{run.id} {place} {countdown}\n" for (place, countdown), run in runs.items()),
        capture_output=True,
        text=True,
        check=True,
    )
    deaths = dict(line.split() for line in child.stdout.splitlines())
    assert deaths == {run.id: str(-signal.SIGKILL) for run in runs.values()}, child.stderr
    return {key: run.path for key, run in runs.items()}


@pytest.mark.parametrize(("place", "countdown", "good"), KILLS)
def test_kill_in_the_middle_of_save_leaves_the_last_good_one(
    killed: dict[tuple[str, int], Path], place: str, countdown: int, good: int
) -> None:
    path = killed[place, countdown]
    assert history.info(path).status == "killed"
    again = Run.open(path)
    restored = again.restore()
    assert restored is not None
    assert restored[0] == good
    assert torch.equal(restored[1]["weight"], torch.full((100,), float(good)))
    steps = [1, 1] if place == "replace" else list(range(1, good + 1))
    assert [row["step"] for row in again.metrics()] == steps
    leftovers = [name for name in os.listdir(path / "checkpoints") if not name.isdigit()]
    assert leftovers == []


def test_full_disk_is_a_clear_error_and_the_last_good_state_stays(run: Run) -> None:
    run.save(1, state(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write checkpoint .*000002.*step 1, is kept.*Free some disk space"):
            run.save(2, {"weight": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(run.path / "checkpoints") == ["000001"]
    restored = run.restore()
    assert restored is not None
    assert restored[0] == 1


def test_full_disk_while_weights_are_written(run: Run) -> None:
    def full(_folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"No space left on device.*There is none before it"):
        run.save(1, state(1), full)
    assert run.restore() is None


def test_a_result_is_left_whole_or_not_at_all(run: Run) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(RunError, match=r"cannot write .*model: .*No space left.*Free some disk space, then resume"):
        run.leave(full)
    assert not run.final.exists()
    run.leave(lambda folder: (folder / "one").write_text("1") and None)
    with pytest.raises(RunError):
        run.leave(full)
    assert [p.name for p in run.final.iterdir()] == ["one"]
    run.leave(lambda folder: (folder / "two").write_text("2") and None)  # a resumed run leaves its own
    assert [p.name for p in run.final.iterdir()] == ["two"]
    assert list(run.path.glob(f"{checkpoint.TEMPORARY}*")) == []


def test_two_processes_cannot_write_one_run(run: Run) -> None:
    code = "import sys; from pathlib import Path; from tutelage.runs import Run; Run.open(Path(sys.argv[1])).restore()"
    child = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert "is being written by another process" in child.stderr
    assert history.info(run.path).status == "running"


def test_random_numbers_go_on_where_they_were(run: Run) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    random.gauss(0, 1)
    np.random.standard_normal()  # leaves the spare Gaussian behind, which is state too
    run.save(1, {"rng": rng_state()})
    expected = (random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(())))
    restored = run.restore()
    assert restored is not None
    set_rng_state(restored[1]["rng"])
    assert (random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))) == expected


def test_first_interrupt_asks_second_insists(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with run.interruptible():
        assert run.stop_requested is False
        signal.raise_signal(signal.SIGINT)
        assert run.stop_requested is True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no run.json"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="does not describe a run"):
        Run.open(tmp_path)


def test_lineage_leads_back_to_the_people(tmp_path: Path) -> None:
    sft = Run.start(tmp_path, "sft", Settings())
    reward = Run.start(tmp_path, "reward", Settings(), parents=[sft.id])
    reward.record({"store": "feedback.db", "comparisons": 12, "annotators": {"ann": 7, "ben": 5}})
    ppo = Run.start(tmp_path, "ppo", Settings(), parents=[reward.id, sft.id, "sft-gone"])
    tree = history.lineage(tmp_path, ppo.id)
    walk = [(depth, node.id, node.info is None) for depth, node in tree.walk()]
    assert walk == [
        (0, ppo.id, False),
        (1, reward.id, False),
        (2, sft.id, False),
        (1, sft.id, False),
        (1, "sft-gone", True),
    ]
    found = tree.parents[0].info
    assert found is not None
    assert found.data["annotators"] == {"ann": 7, "ben": 5}


def test_compare_shows_settings_that_differ_and_last_numbers(tmp_path: Path) -> None:
    first, second = (Run.start(tmp_path, "sft", Settings(steps=n)) for n in (3, 4))
    first.log(1, {"sft/loss": 2.0})
    first.log(2, {"sft/loss": 1.0})
    second.log(1, {"sft/loss": 3.0})
    second.evaluate({"accuracy": {"rate": 0.5}})
    found = history.compare(tmp_path, [first.id, second.id])
    assert found.settings == {"steps": (3, 4)}
    assert found.numbers == {"step": (2, 1), "sft/loss": (1.0, 3.0), "accuracy.rate": (None, 0.5)}
    with pytest.raises(RunError, match="at least two"):
        history.compare(tmp_path, [first.id])


def test_finding_runs(tmp_path: Path) -> None:
    first = Run.start(tmp_path, "sft", Settings())
    first.finish("interrupted")
    second = Run.start(tmp_path, "reward", Settings())
    assert history.find_run(tmp_path, first.id[-4:]).id == first.id
    assert history.find_unfinished(tmp_path, "sft").id == first.id
    with pytest.raises(RunError, match="is a sft run, not ppo"):
        history.find_unfinished(tmp_path, "ppo", first.id)
    with pytest.raises(RunError, match="no interrupted reward run"):
        history.find_unfinished(tmp_path, "reward")
    second.finish()
    with pytest.raises(RunError, match="is done"):
        history.find_unfinished(tmp_path, "reward", second.id)
    done = history.newest_done(tmp_path, "reward")
    assert done is not None
    assert done.id == second.id
    with pytest.raises(RunError, match=f"Did you mean {second.id}"):
        history.find_run(tmp_path, second.id.replace("reward", "rewadr"))
