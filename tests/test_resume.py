"""Nothing lost: `kill -9` at any moment, then the same command, gives the weights of the run that was never killed.

The kills are placed by hand (`KILL` counts down at named places of the loop), so that mid-rollout, mid-update and
mid-save are each met; one thread, bit for bit.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tutelage.errors import CheckpointError, Interrupted
from tutelage.learn.ppo import PPOConfig, ppo
from tutelage.model.causal import Model, fingerprint
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run

CONFIG = {
    "steps": 4, "batch_size": 8, "epochs": 2, "minibatches": 2, "save_every": 1, "evaluate_every": 2, "keep": "best",
    "critic": "separate", "train": {"kind": "top", "layers": 1}, "sampling": {"max_tokens": 6}, "ema": 0.9,
    "optimizer": {"learning_rate": 1e-2}, "kl": {"coefficient": 0.1, "target": 0.5, "horizon": 50},
}  # fmt: skip
PROMPTS = [[65 + i, 66] for i in range(12)]

SCRIPT = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import tutelage.checkpoint, tutelage.learn.online, tutelage.learn.learner
sys.path.insert(0, {tests!r})
from test_resume import train
place, count = sys.argv[2], int(sys.argv[3])
owner, name = dict(
    rollout=(tutelage.learn.online, "make_rollout"),
    update=(tutelage.learn.learner.Learner, "update"),
    save=(tutelage.checkpoint, "sync"),
)[place]
real, seen = getattr(owner, name), [0]
def wrapped(*a, **k):
    seen[0] += 1
    if seen[0] == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
setattr(owner, name, wrapped)
train(sys.argv[1])
"""


def reward(prompts, responses):
    """Likes the letter e."""
    return torch.tensor([float(sum(t == 101 for t in r)) for r in responses])


def train(folder):
    """Start, or go on with the run that is there."""
    config = PPOConfig.model_validate(CONFIG)
    found = sorted(p.parent for p in Path(folder).glob("ppo-*/run.json"))
    run = Run.open(found[0]) if found else Run.start(Path(folder), "ppo", config)
    model = Model(tiny_decoder(260, layers=2), tiny_tokenizer(), "tiny")
    return ppo(model, reward, PROMPTS, config, run, held_out=PROMPTS[:4]), run


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, run = train(tmp_path_factory.mktemp("straight"))
    yield fingerprint(model.decoder), run.metrics()
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("place", "count"), [("rollout", 2), ("update", 6), ("update", 16), ("save", 3), ("save", 12), ("save", 31)]
)
def test_killed_and_resumed_is_bit_equal(tmp_path, straight, place, count):
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path), place, str(count)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    model, run = train(tmp_path)
    assert fingerprint(model.decoder) == straight[0]
    assert run.metrics() == straight[1]


def test_the_run_learned_something(straight):
    steps = straight[1]
    assert len(steps) == 4
    assert fingerprint(tiny_decoder(260, layers=2)) != straight[0]
    assert steps[-1]["ppo/kl"] != 0


def test_every_metric_logged_is_explained(straight):
    page = (Path(__file__).parent.parent / "docs" / "ppo.md").read_text(encoding="utf-8")
    logged = {name for row in straight[1] for name in row} - {"step"}
    assert len(logged) > 20
    assert sorted(name for name in logged if f"`{name}`" not in page) == []


def test_ctrl_c_saves_in_the_middle_of_a_rollout_and_goes_on_bit_equal(tmp_path, straight):
    script = f"import sys, torch; torch.set_num_threads(1); sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    script += "import tutelage.learn.ppo_state as s, time\nreal = s.PPOState.average_weights\n"
    script += "def slow(self):\n    print('ready', flush=True); time.sleep(0.3); real(self)\n"
    script += f"s.PPOState.average_weights = slow\nfrom test_resume import train\ntrain({str(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(6):  # the second rollout's second update
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"--resume" in errors
    state = Run.open(next(tmp_path.glob("ppo-*"))).restore()[1]
    assert 0 < state["place"] < 4
    assert state["rollout"] is not None
    model, run = train(tmp_path)
    assert fingerprint(model.decoder) == straight[0]
    assert run.metrics() == straight[1]


def test_another_reference_is_refused(tmp_path, straight):
    train(tmp_path)
    run = Run.open(next(tmp_path.glob("ppo-*")))
    other = Model(tiny_decoder(260, layers=2, seed=9), tiny_tokenizer(), "tiny")
    with pytest.raises(CheckpointError, match="reference"):
        ppo(other, reward, PROMPTS, PPOConfig.model_validate(CONFIG), run, held_out=PROMPTS[:4])


def test_a_request_to_stop_is_an_interruption(tmp_path):
    config = PPOConfig.model_validate(CONFIG)
    run = Run.start(tmp_path, "ppo", config)
    run.stop_requested = True
    model = Model(tiny_decoder(260, layers=2), tiny_tokenizer(), "tiny")
    with pytest.raises(Interrupted, match="--resume"):
        ppo(model, reward, PROMPTS, config, run, held_out=PROMPTS[:4])
    assert time.time() > os.path.getmtime(run.path / "checkpoints")
