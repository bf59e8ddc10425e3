"""The benchmark's harness: turns, medians, ratios, what a failing peer leads to; and our side of every row."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tutelage.allocator import SETTINGS
from tutelage.bench import growth
from tutelage.bench import measure as measuring
from tutelage.bench.figure import draw_growth, draw_ratios
from tutelage.bench.growth import Curve, Point, shape
from tutelage.bench.measure import Ratio, RowFigures, SideFigures, facts, measure, record
from tutelage.bench.ours import STEPS, network, reward_head
from tutelage.bench.sides import Side, peer_python
from tutelage.bench.work import ROWS, BenchConfig, Task, chosen_rows, environment, spread, task, worked_tokens
from tutelage.commands import bench as command
from tutelage.commands.bench import TINY, bench
from tutelage.errors import ConfigError, DataError, ModelError
from tutelage.evaluate.figures import COLOURS
from tutelage.model.batch import Packed
from tutelage.model.causal import Model, best_compute
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.progress import progress

SCRIPTED = """
import json, os, sys
task, order, script = json.load(open(sys.argv[3])), sys.argv[1], json.loads(sys.argv[2])
print(json.dumps({"name": task["way"]}), flush=True)
done, before = 0, open(order).read().splitlines().count(task["way"] + " 1") if os.path.exists(order) else 0
slower = script.get("again", 1) ** before  # each time it is started
for line in sys.stdin:
    steps = json.loads(line)["steps"]
    if done >= script.get("dies_after", 99):
        sys.exit("out of memory\\nkilled")
    with open(order, "a") as file:
        print(task["way"], steps, file=file)
    seconds = [s * slower for s in script["seconds"][done : done + steps]]
    done += steps
    turn = {"seconds": seconds, "cpu_seconds": [2 * s for s in seconds], "losses": script["losses"][:done]}
    print(json.dumps(turn | {"peak_bytes": script["peak"]}), flush=True)
"""
SHAPE = shape(2, 128, 260)
CONFIG = BenchConfig(steps=2, rounds=2, batch=2, prompt=3, shortest=2, longest=4, threads=1)


def work(row="sft", config=CONFIG):
    return task(row, config, model="nowhere", dtype="float32", vocabulary=260)


def scripted(order, **script):
    """The command of a side that says what it is told to."""
    made = {"losses": [], "peak": 1, **script}
    return [sys.executable, "-c", SCRIPTED, str(order), json.dumps(made)]


def run(tmp_path, one, peers, **ours):
    """A row with scripted sides, and the order in which they worked."""
    order = tmp_path / "order"
    commands = {name: scripted(order, **script) for name, script in peers.items()}
    with progress("Bench", CONFIG.rounds) as report:
        found = measure(one, CONFIG, scripted(order, **ours), commands, tmp_path, report)
    return found, order.read_text().splitlines()


def test_sides_take_turns_and_the_ratio_is_of_the_same_steps(tmp_path):
    peers = {
        "padded": {"seconds": [9, 4, 8, 6, 30], "losses": [5, 4, 3, 2, 1], "peak": 300},
        "padding_free": {"seconds": [9, 3, 4, 3, 15], "losses": [5, 4, 3, 2.5, 1], "peak": 200},
    }
    found, order = run(tmp_path, work(), peers, seconds=[7, 1, 2, 2, 5], losses=[5, 4, 3, 2, 1.5], peak=100)
    # a way at a time, so that only two sides are in memory
    assert order == [f"{who} {n}" for way in peers for n in (1, 2, 2) for who in ("ours", way)]
    assert found.best == "padding_free"
    # steps: 3/1, 4/2 in the first round, 3/2, 15/5 in the second; medians of rounds 2.5 and 2.25
    assert found.ratio == Ratio(2.5, 2.25, 2.5)
    assert found.cpu_ratio == found.ratio
    assert found.memory_ratio == 2.0
    assert (found.loss("ours"), found.loss("padding_free"), found.loss("padded")) == (1.75, 1.75, 1.5)
    ours = found.sides["ours"]
    assert (ours.first_seconds, ours.seconds) == (7, ((1, 2), (2, 5)))
    assert found.figures["sides"]["ours"]["median_seconds"] == 2
    assert str(found.ratio) == "2.50 [2.25, 2.50]"


@pytest.mark.parametrize(("other", "ratio"), [(16, 4), (2, 1)])  # beside the first way ours takes 1 s, then 2
def test_a_ways_ratio_is_to_ours_that_took_turns_with_it(tmp_path, other, ratio):
    peers = {"padded": {"seconds": [4] * 5}, "padding_free": {"seconds": [other] * 5}}
    found, _ = run(tmp_path, work(), peers, seconds=[1] * 5, again=2)
    assert found.best == ("padded" if other > 4 else "padding_free")
    assert found.ratio == Ratio(ratio, ratio, ratio)


def test_tokens_per_second_is_the_median_over_steps(tmp_path):
    one = replace(work(), prompts=[[1] * 3] * 10, answers=[[[1] * 2]] * 10)
    found, _ = run(tmp_path, one, {}, seconds=[9, 1, 2, 5, 10])
    assert [worked_tokens(one, i) for i in range(5)] == [10] * 5
    assert found.sides["ours"].tokens_per_second == pytest.approx(3.5)  # of 10, 5, 2, 1
    assert (found.best, found.ratio, found.memory_ratio, found.loss("ours")) == (None, None, None, None)


def test_a_peer_that_dies_is_left_out_with_its_last_words(tmp_path):
    peers = {"padded": {"seconds": [1] * 5, "dies_after": 1}, "padding_free": {"seconds": [2] * 5}}
    found, order = run(tmp_path, work(), peers, seconds=[1] * 5)
    assert found.failed == {"padded": "padded ended with status 1: out of memory / killed"}
    assert (found.best, found.ratio) == ("padding_free", Ratio(2, 2, 2))
    assert order.count("padded 2") == 0
    assert order[-2:] == ["ours 2", "padding_free 2"]


def test_a_peer_that_cannot_start_is_left_out(tmp_path):
    order = tmp_path / "order"
    peers = {"padded": [sys.executable, "-c", "raise SystemExit('no trl here')"]}
    with progress("Bench", 2) as report:
        found = measure(work(), CONFIG, scripted(order, seconds=[1] * 5), peers, tmp_path, report)
    assert found.failed == {"padded": "padded ended with status 1: no trl here"}
    assert set(found.sides) == {"ours"}


def test_it_is_an_error_when_our_side_dies(tmp_path):
    with pytest.raises(ModelError, match="ours ended with status 1: out of memory / killed"):
        run(tmp_path, work(), {"padded": {"seconds": [1] * 5}}, seconds=[1] * 5, dies_after=3)


def test_it_is_an_error_when_our_side_dies_in_fp32(tmp_path):
    dies = "import json, sys\nif json.load(open(sys.argv[3]))['dtype'] == 'float32': sys.exit('no memory')\n"
    python, option, script, *given = scripted(tmp_path / "order", seconds=[1] * 5, losses=[5, 4, 3, 2, 1])
    one = replace(work(), dtype="bfloat16")
    with progress("Bench", 2) as report, pytest.raises(ModelError, match=r"ours in fp32 ended .* no memory"):
        measure(one, CONFIG, [python, option, dies + script, *given], {}, tmp_path, report)


def test_losses_of_another_format_stand_beside_those_in_fp32(tmp_path):
    one = replace(work(), dtype="bfloat16")
    found, order = run(tmp_path, one, {}, seconds=[1] * 5, losses=[5, 4, 3, 2, 1])
    assert order[-3:] == ["ours in fp32 1", "ours in fp32 2", "ours in fp32 2"]
    assert json.loads((tmp_path / "ours in fp32.json").read_text())["dtype"] == "float32"
    assert found.loss(measuring.FULL) == found.loss("ours") == 1.5  # of the same steps: the last round's
    assert found.best is None


def test_both_sides_get_the_same_data_and_settings(tmp_path):
    first, second = work("dpo"), work("dpo")
    assert first == second
    assert Task.read(str(first.write(tmp_path / "task.json"))) == first
    assert len(first.prompts) == CONFIG.batch * (1 + CONFIG.steps * CONFIG.rounds)
    assert all(len(p) == 3 for p in first.prompts)
    assert all(2 <= len(a) <= 4 for answers in first.answers for a in answers)
    assert [len(work(row).answers[0]) for row in ("sft", "dpo", "reward4", "ppo")] == [1, 2, 4, 0]
    assert work(config=CONFIG.model_copy(update={"seed": 1})).prompts != first.prompts
    assert worked_tokens(first, 1) == sum(len(first.prompts[i]) + len(a) for i in (2, 3) for a in first.answers[i])
    ppo, lengths = work("ppo"), work("lengths")
    assert worked_tokens(ppo, 0) == 2 * (3 + 128)
    assert lengths.batch == 4 * CONFIG.rows
    assert worked_tokens(lengths, 1) == sum(lengths.lengths[128:256])
    assert min(lengths.lengths) >= 16
    assert max(lengths.lengths) <= 128


def test_the_environment_is_the_same_for_both(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "of.another=1")
    monkeypatch.setenv("KEPT", "1")
    tuned, plain = environment(CONFIG), environment(CONFIG.model_copy(update={"tuned": False}))
    assert {key: tuned[key] for key in SETTINGS} == SETTINGS
    assert not set(plain) & set(SETTINGS)
    assert (tuned["OMP_NUM_THREADS"], tuned["KEPT"]) == ("1", "1")


def test_the_peers_environment_is_made_once_and_says_why_it_could_not(tmp_path, monkeypatch):
    from tutelage.bench import sides

    ran = []
    monkeypatch.setattr(sides, "_run", lambda command: ran.append(command) or (tmp_path / name).mkdir(exist_ok=True))
    name = f"trl-1.16.0-torch-{torch.__version__.partition('+')[0]}-transformers-{sides.version('transformers')}"
    first, second = peer_python("trl", tmp_path), peer_python("trl", tmp_path)
    assert first == second == tmp_path / name / "bin" / "python"
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["-m", "pip"]]
    ours = {package: sides.version(package).partition("+")[0] for package in ("torch", "transformers")}
    assert ran[1][-3:] == [*(f"{package}=={number}" for package, number in ours.items()), "trl==1.16.0"]
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"could not be made .*exit on purpose"):
        sides._run([sys.executable, "-c", "raise SystemExit('exit on purpose')"])


@torch.no_grad()
def first_loss(row, one):
    """The loss of the first batch, from whole sequences one by one."""
    decoder = tiny_decoder(260, layers=2)
    terms = []
    for i in one.part(0):
        hidden = [decoder(Packed.of([[*one.prompts[i], *a]])) for a in one.answers[i]]
        if row == "sft":
            logprobs = (hidden[0] @ decoder.head_weight().T).log_softmax(-1)[5:-1]
            terms += [-logprobs[t, token] for t, token in enumerate(one.answers[i][0])]
        else:
            scores = [reward_head(decoder)(h[-1:]) for h in hidden]
            pairs = [-F.logsigmoid(scores[a] - scores[b]) for b in range(len(scores)) for a in range(b)]
            terms.append(torch.stack(pairs).mean())
    return float(torch.stack(terms).mean())


@pytest.mark.parametrize("row", ROWS)
def test_our_side_of_every_row_runs(row):
    one = task(row, TINY, model="tiny", dtype="float32", vocabulary=260)
    torch.manual_seed(0)
    step = STEPS[row](one, Model(tiny_decoder(260, layers=2), tiny_tokenizer(), "tiny"))
    losses = [step(0), step(1)]
    if row in ("ppo", "ppo_shared", "generate", "lengths"):
        assert losses == [None, None]
    elif row == "dpo":
        assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
        assert losses[1] != losses[0]
    else:
        assert losses[0] == pytest.approx(first_loss(row, one), rel=1e-4)
        assert losses[1] != losses[0]


def test_the_whole_path_on_a_tiny_model(tmp_path):
    answer = bench("sft", tiny=True, record_to=tmp_path / "new" / "history.jsonl", figure=tmp_path / "ratios.svg")
    again = json.loads((tmp_path / "new" / "history.jsonl").read_text())
    row = again["rows"]["sft"]
    full = {"ours in fp32"} if best_compute() != torch.float32 else set()  # only where products run in another format
    assert set(row["sides"]) == {"ours", "fake"} | full
    assert row["best"] == "fake"
    assert f">{row['ratio']['median']:.2f}<" in (tmp_path / "ratios.svg").read_text()
    assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert len(row["sides"]["ours"]["losses"]) == 5
    assert row["sides"]["ours"]["versions"]["torch"] == torch.__version__
    assert again["help_seconds"] > 0
    assert again["settings"]["model"] == "tiny"
    assert answer.figures["rows"]["sft"]["target"] == 4.0


def test_a_row_is_recorded_as_soon_as_it_is_measured(tmp_path, monkeypatch, capsys):
    """What stops the second row, Ctrl-C too, leaves the first where it was asked to be kept."""
    side = SideFigures({}, 1.0, 1.0, ((1.0, 2.0),), ((1.0, 2.0),), 10.0, (), 1)
    first = RowFigures("sft", {"ours": side, "padded": side}, {})

    def stopped_in_the_second(one, *_):
        if one.row == "reward":
            raise KeyboardInterrupt
        return first

    monkeypatch.setattr("tutelage.commands.bench.measure", stopped_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        bench("sft", "reward", tiny=True, record_to=tmp_path / "h.jsonl")
    [line] = (tmp_path / "h.jsonl").read_text().splitlines()
    assert set(json.loads(line)["rows"]) == {"sft"}
    assert json.loads(line)["rows"]["sft"]["ratio"]["median"] == 1
    assert "1.00 [1.00, 1.00] times as fast as padded" in capsys.readouterr().err


def test_no_weight_stays_between_two_numbers_of_bf16():
    halfway = 1 + 1 / 256  # bf16 goes from 1 to 1 + 1/128
    network, other = (torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.RMSNorm(256)) for _ in range(2))
    for one in (network, other):
        for weight in one.parameters():
            torch.nn.init.constant_(weight, halfway)
        spread(one, seed=3)
    weight = network[0].weight.detach()
    assert torch.equal(weight, other[0].weight)
    away = weight / halfway - 1
    assert 0.99 / 256 < float(away.abs().max()) <= 1 / 256
    assert abs(float(away.mean())) < 1e-4
    rounded = weight.bfloat16()
    assert 0.45 < float((rounded > halfway).float().mean()) < 0.55  # an update moves some across, and not all
    assert torch.equal(network[1].weight.detach(), torch.full((256,), halfway))


def test_rows_and_ways_are_checked():
    assert chosen_rows(["dpo", "sft"]) == ["sft", "dpo"]
    assert chosen_rows([]) == list(ROWS)
    with pytest.raises(ConfigError, match="growth is measured alone"):
        bench("growth", "sft", tiny=True)
    with pytest.raises(ConfigError, match="--no-peers leaves them out"):
        bench("sft", tiny=True, peers=False, figure=Path("none.svg"))
    with pytest.raises(ConfigError, match=r"--figure is none\.xyz: give a file that ends in \.png, \.svg, \.pdf"):
        bench("sft", tiny=True, figure=Path("none.xyz"))
    with pytest.raises(ConfigError, match="whose folder can't be made"):
        bench("sft", tiny=True, figure=Path(__file__) / "none.svg")
    with pytest.raises(ConfigError, match="--ways names 'paddd'"):
        bench("sft", ways="paddd", tiny=True)


def test_a_line_of_the_history_says_where_it_comes_from(tmp_path):
    for _ in range(2):
        record(tmp_path / "h.jsonl", facts(CONFIG))
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["machine"]["cores"] >= 1
    assert lines[0]["settings"]["steps"] == 2
    assert set(lines[0]) == {"date", "commit", "machine", "settings"}


def test_curves_are_drawn(tmp_path):
    points = tuple(Point(str(n), n, 100.0 / n, 10**8 * n) for n in (1, 2, 4))
    draw_growth([Curve("SFT by batch", "sequences", points)], tmp_path / "growth.svg")
    drawn = (tmp_path / "growth.svg").read_text()
    assert all(f">{word}<" in drawn for word in ("SFT by batch", "sequences", "tokens/s", "1", "2", "4"))


def test_growth_is_measured_in_the_machines_best_format(tmp_path, monkeypatch):
    seen = []

    def point(at, one, config, folder):
        seen.append(one)
        return Point(at, 1.0, 100.0, 10**8)

    monkeypatch.setattr(growth, "_point", point)
    found = bench("growth", tiny=True, figure=tmp_path / "growth.png").figures["growth"]
    assert {f"torch.{one.dtype}" for one in seen} == {str(best_compute())}
    assert [len(curve.points) for curve in found] == [2] * 5
    assert [one.rank for one in seen if one.rank] == [1, 4]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_drawn(tmp_path):
    def row(target, median):
        return {"target": target, "ratio": median and {"median": median, "low": median - 0.2, "high": median + 0.3}}

    rows = {"dpo": row(4.0, 4.1), "reward": row(3.0, None), "sft": row(4.0, 2.4)}
    draw_ratios(rows, tmp_path / "ratios.svg")
    drawn = (tmp_path / "ratios.svg").read_text()
    places = [drawn.index(f">{word}<") for word in ("SFT", ROWS["dpo"].what, "2.40", "4.10")]
    assert places == sorted(places)
    assert ROWS["reward"].what not in drawn
    assert all(f"fill: {colour}" in drawn for colour in COLOURS[1:3])  # the target missed, and met
    draw_ratios({"sft": row(2.0, 2.4)}, tmp_path / "met.svg")
    assert f"fill: {COLOURS[1]}" not in (tmp_path / "met.svg").read_text()
    with pytest.raises(DataError, match="no row was measured beside a peer"):
        draw_ratios({"reward": row(3.0, None)}, tmp_path / "none.svg")


def test_a_side_that_ends_is_waited_for(tmp_path):
    path = work().write(tmp_path / "task.json")
    side = Side.start("quiet", [*scripted(tmp_path / "o", seconds=[1] * 5), str(path)], tmp_path, environment(CONFIG))
    side.end()
    assert side.process.returncode == 0


def test_a_figure_without_a_ratio_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_peers", lambda *_, **__: {})
    answer = bench("sft", tiny=True, figure=tmp_path / "new" / "ratios.svg")
    assert "ratios.svg is not drawn: no row was measured" in str(answer.text.renderables[-1])
    assert answer.figures["rows"]["sft"]["sides"]
    assert list((tmp_path / "new").iterdir()) == []


def test_rowfigures_without_a_peer():
    assert RowFigures("sft", {}, {"padded": "why"}).best is None


@pytest.mark.parametrize("rank", [0, 4])
def test_growth_runs_random_shapes_and_ranks(rank):
    one = replace(task("sft", TINY, model="", dtype="float32", vocabulary=260), rank=rank, shape=asdict(SHAPE))
    model = network(one)
    assert model.decoder.config == SHAPE
    first = STEPS["sft"](one, model)(0)
    assert first == pytest.approx(math.log(260), abs=0.3), "random weights know nothing"
    frozen = {not p.requires_grad for p in model.decoder.layers[0].parameters()}
    assert frozen == {rank > 0}, "LoRA freezes what it shares with its source"
