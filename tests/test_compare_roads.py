"""The comparison of roads, on the miniature: the same labels and budget for all, found again, stopped and gone on."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from tutelage.cli import run as cli
from tutelage.errors import Interrupted
from tutelage.evaluate.arena import score_judge
from tutelage.evaluate.statistics import best_of_n_kl
from tutelage.loop import compare_roads as module
from tutelage.loop.compare_roads import compare_roads
from tutelage.loop.compare_roads_config import ALL, CompareConfig, roads
from tutelage.loop.compare_roads_measure import Bench, Texts, best_of, kept, same_words, snapshots
from tutelage.loop.compare_roads_table import best_within, bound_rows, frontier, rows_of
from tutelage.model import causal
from tutelage.model.causal import fingerprint
from tutelage.records import Prompt
from tutelage.runs import Run

TRAINED = ("sft-preferred", "raft", "dpo", "online-dpo", "kto", "rloo", "grpo", "ppo")
SAMPLING = ("raft", "online-dpo", "rloo", "grpo", "ppo")
JUDGES = ("unseen judge", "VADER", "unseen judge, same words")
COMMAND = "tutelage compare-roads --mini"


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roads")
    return folder, compare_roads(CompareConfig.miniature(), folder, COMMAND)


def runs_in(folder):
    return sorted(p.name for p in (folder / "seed-0" / "runs").iterdir())


def measured(folder, name):
    return json.loads((folder / "seed-0" / "roads" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_road_is_there_with_its_wins_over_the_same_prompts(mini):
    _, outcome = mini
    assert [row.name for row in outcome.rows] == ["sft", "best of 2", "best of 4", *TRAINED]
    assert outcome.rows[0].wins == {}
    for row in outcome.rows[1:]:
        assert {judge: rate.n for judge, rate in row.wins.items()} == dict.fromkeys(JUDGES, 8)
        assert row.by_seed == (row.wins["unseen judge"].rate,)


def test_the_sweep_is_of_sft_dpo_and_ppo_over_the_same_prompts(mini):
    _, outcome = mini
    assert [row[:2] for row in outcome.sweep] == [("sft", "0.5"), ("dpo", "0.5"), ("ppo", "0.5")]
    assert all(row[2].endswith("n = 8") for row in outcome.sweep)


def test_all_learn_from_the_same_labels_and_within_the_budget(mini):
    folder, outcome = mini
    (labels,) = outcome.labels.values()
    assert labels["rankings"] == 12
    assert labels["completions"] == 48
    assert [measured(folder, name)["labels"] for name in ("sft", "best-of-n", *TRAINED)] == [labels] * 10
    sampled = {name: measured(folder, name)["cost"]["completions"] for name in TRAINED}
    assert sampled == dict.fromkeys(("sft-preferred", "dpo", "kto"), 0) | dict.fromkeys(SAMPLING, 32)
    updates = {name: measured(folder, name)["cost"]["updates"] for name in TRAINED}
    assert updates == dict.fromkeys(("sft-preferred", "raft", "dpo", "online-dpo", "kto"), 4) | dict.fromkeys(
        ("rloo", "grpo", "ppo"), 8
    )


def test_what_the_offline_roads_are_given_is_every_ranking(tmp_path, monkeypatch):
    """The labels in a run's facts are what it should read; here is what it does."""
    given = {"sft": [], "dpo": [], "split": []}

    def spied(name, real, read):
        def called(*args):
            given[name].append(read(*args))
            return real(*args)

        monkeypatch.setattr(module, name, called)

    spied("sft", module.sft, lambda model, examples, config, run: len(examples))
    spied("dpo", module.dpo, lambda model, items, config, run: config.loss.kind != "kto" and len(items))
    spied("split", module.split, lambda ranking: ranking)
    config = CompareConfig.miniature().model_copy(update={"roads": ("sft-preferred", "dpo", "kto"), "temperatures": ()})
    compare_roads(config, tmp_path, COMMAND)
    assert given["sft"] == [12]
    assert given["dpo"] == [12, False]
    assert len(given["split"]) == 12


def test_every_road_against_a_reward_has_the_same_one(mini):
    folder, _ = mini
    known = json.loads((folder / "seed-0" / "demo.json").read_text(encoding="utf-8"))
    for name in SAMPLING:
        run = json.loads((folder / "seed-0" / "runs" / measured(folder, name)["asked"]["run"] / "run.json").read_text())
        assert run["parents"] == [known["sft"], known["reward"]]


def test_costs_are_measured_and_checkpoints_are_gone(mini):
    folder, _ = mini
    for name in TRAINED:
        cost = measured(folder, name)["cost"]
        assert cost["seconds"] > 0
        assert cost["processor_seconds"] > 0
        assert cost["peak_gib"] is None or cost["peak_gib"] >= cost["resident_before_gib"] > 0.05
        assert (cost["sampling_seconds"] > 0) == (name in SAMPLING)
        assert cost["sampling_seconds"] < cost["seconds"]
        path = folder / "seed-0" / "runs" / measured(folder, name)["asked"]["run"]
        assert (path / "model").is_dir()
        assert not (path / "checkpoints").exists()


def test_the_frontier_starts_at_sft_and_is_sorted_by_kl(mini):
    folder, _ = mini
    found = {0: json.loads((folder / "results.json").read_text())["seeds"]["0"]}
    start = measured(folder, "sft")["points"][0]
    rounding = 1e-4 if causal.best_compute() == torch.float32 else 0.02  # nats a text: sampler and trainer round apart
    assert start["kl"] == pytest.approx(0, abs=rounding)
    for name in TRAINED:
        points = measured(folder, name)["points"]
        assert [p["n"] for p in points] == [8, 8]
        assert points[0]["at"] != points[1]["at"]
    chart = frontier(found, "gold")
    assert [line.label for line in chart.lines] == ["best-of-n", *TRAINED]
    for line in chart.lines:
        assert list(line.x) == sorted(line.x)
        assert line.y[line.x.index(0)] == start["gold"]
    best = measured(folder, "best-of-n")["points"]
    assert [p["kl"] for p in best] == pytest.approx([best_of_n_kl(n) for n in (1, 2, 4)])
    assert best[0]["proxy"] < best[1]["proxy"] < best[2]["proxy"]
    assert (folder / "frontier-gold.svg").read_bytes() != (folder / "frontier-proxy.svg").read_bytes()


def test_what_is_finished_is_found_again(mini):
    folder, outcome = mini
    before = runs_in(folder)
    again = compare_roads(CompareConfig.miniature(), folder, COMMAND)
    assert runs_in(folder) == before
    assert again.rows == outcome.rows


def test_stopped_it_says_the_command_and_goes_on_with_the_same_run(mini, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(mini[0], folder)
    config = CompareConfig.miniature()
    config = config.model_copy(update={"roads": ("dpo",), "dpo": config.dpo.model_copy(update={"steps": 3})})
    before = set(runs_in(folder))

    def stopped(model, items, config, run):
        run.stop_requested = True
        return dpo(model, items, config, run)

    dpo = module.dpo
    monkeypatch.setattr(module, "dpo", stopped)
    with pytest.raises(Interrupted, match=f"Go on with: {COMMAND}"):
        compare_roads(config, folder, COMMAND)
    (made,) = set(runs_in(folder)) - before
    assert Run.open(folder / "seed-0" / "runs" / made).facts["status"] == "interrupted"
    monkeypatch.setattr(module, "dpo", dpo)
    compare_roads(config, folder, COMMAND)
    run = Run.open(folder / "seed-0" / "runs" / made)
    assert set(runs_in(folder)) - before == {made}
    assert run.facts["status"] == "done"
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]


def test_control_c_while_measuring_says_the_command_too(mini, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "one_seed", interrupted)
    with pytest.raises(Interrupted, match=COMMAND):
        compare_roads(CompareConfig.miniature(), mini[0], COMMAND)


def test_the_command_prints_the_tables(mini, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(mini[0], folder)
    assert cli(["compare-roads", "--mini", "--folder", str(folder), "--markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| road | wins, unseen judge | wins, VADER | wins, same words | gold | proxy | KL,")
    assert len({line.count("|") for line in lines[:13]}) == 1
    assert lines[12].startswith("| ppo |")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Best gold within a KL" in page
    assert "Frontier: gold" in page
    assert "12 rankings of 48 completions" in page


def test_a_snapshot_is_the_policy_as_it_was(mini, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(mini[0], folder)
    config = CompareConfig.miniature()
    scene = module.set_scene(config.demo.seeded(), folder / "seed-0")
    policy = module.fine_tune(scene)
    with module.Store(str(folder / "seed-0" / "tutelage.db")) as store:
        comparisons = tuple(store.comparisons("train"))
    start = module.Start(scene, policy, module.train_rewards(scene, policy, comparisons), comparisons)
    for road in roads(config, 0):
        if road.name in ("dpo", "ppo"):
            fresh = replace(road, config=road.config.model_copy(update={"save_every": 1}))
            run = module.take(start, fresh)
            run.log(99, {})  # as if it had gone on, so that the last checkpoint counts too
            taken = dict(snapshots(run, policy, fresh.config.train))
            assert list(taken) == [1, 2, 3, 4]
            prints = [fingerprint(model.decoder) for model in taken.values()]
            assert len(set(prints)) == 4
            assert prints[-1] == fingerprint(causal.load(run.final).decoder)


def test_points_and_budget_follow_the_settings():
    config = CompareConfig(completions=320, points=3, betas=(0.3,), roads=("dpo", "raft", "ppo", "online-dpo"))
    dpo, other, raft, ppo, online = roads(config, seed=7)
    found = [road.name for road in (dpo, other, raft, ppo, online)]
    assert found == ["dpo", "dpo beta 0.3", "raft", "ppo", "online-dpo"]
    assert {road.config.seed for road in (dpo, other, raft, ppo, online)} == {7}
    assert [road.by_reward for road in (dpo, other, raft, ppo, online)] == [False, False, True, True, True]
    assert (online.config.steps, online.sampled(online.config.steps), online.updates(10)) == (10, 320, 10)
    assert (dpo.config.loss.beta, other.config.loss.beta) == (0.1, 0.3)
    assert (ppo.config.steps, ppo.config.save_every, ppo.sampled(ppo.config.steps)) == (10, 4, 320)
    assert (raft.config.rounds, raft.sampled(2)) == (2, 256)
    assert set(ALL) == {*TRAINED, "best-of-n"}


def test_best_of_n_is_the_proxys_choice_among_the_first_n():
    pool = Texts(tuple("abcdef"), tuple("abcdef"), (0, 1, 2, 3, 4, 5), (0.1, 0.9, 0.5, 0.7, 0.2, 0.8))
    assert best_of(pool, 3, 2).texts == ("b", "d")
    assert best_of(pool, 3, 3).gold == (1, 5)


def test_wins_are_also_told_of_texts_of_the_same_length():
    assert same_words("good and good", "a fine one") == ("good and good", "a fine one")
    assert same_words(" good  and good again ", " fine one") == (" good  and", " fine one")
    assert same_words(" ", " fine") == ("", "")
    bench = object.__new__(Bench)
    bench.prompts = tuple(Prompt.text(f"Film {i}") for i in range(3))
    bench.judges = {"unseen judge": score_judge(lambda texts: [float(len(t)) for t in texts], whole=True)}
    written = Texts((), (" long and long", " fine", " bad film"), (), ())
    found = bench.wins(written, (" long", " fine", " bad old film"))
    assert found == {"unseen judge": [1.0, 0.5, 0.0], "unseen judge, same words": [0.5, 0.5, 1.0]}


def test_the_best_within_a_bound_and_its_share_of_ppos_gain():
    def road(*points):
        return {"points": [{"kl": kl, "gold": gold, "proxy": 0.0} for kl, gold in points]}

    found = {
        0: {"sft": road((0.0, 0.0)), "dpo": road((1.0, 0.9), (6.0, 0.5)), "ppo": road((1.5, 1.0), (4.0, 2.0), (12, 9))},
        1: {"sft": road((0.0, 0.2)), "dpo": road((3.0, 1.1), (9.0, 2.3)), "ppo": road((1.5, 1.2), (4.0, 2.2), (12, 9))},
    }
    assert best_within(found[0]["dpo"]["points"], {"kl": 0.0, "gold": 0.6}, 0.5) == 0.6
    rows = {row[0]: row[1:] for row in bound_rows(found)}
    assert rows["ppo"] == ("1.10 (1.00 to 1.20)", "2.10 (2.00 to 2.20)", "2.10 (2.00 to 2.20)", "100%", "100%", "100%")
    assert rows["dpo"][:3] == ("0.55 (0.20 to 0.90)", "1.00 (0.90 to 1.10)", "1.60 (0.90 to 2.30)")
    assert rows["dpo"][3:] == ("45%", "45%", "75%")


def test_seeds_are_put_together_and_prompts_they_share_count_once():
    def seed(outcomes, gold):
        end = {"kl": 1.0, "gold": gold, "proxy": 0.0}
        wins = dict.fromkeys(JUDGES, outcomes)
        one = {"points": [end], "words": 2.0, "ended": 0.5, "cost": {"seconds": 3.0, "peak_gib": None}}
        return {"sft": one, "dpo": one | {"wins": wins}, "prompts": ["a", "b", "c"], "openings": ["", "", ""]}

    sft, dpo = rows_of({0: seed([1, 1, 0.5], 1.0), 1: seed([0, 1, 1], 2.0)})
    assert dpo.wins["VADER"].rate == pytest.approx(4.5 / 6)
    assert dpo.wins["VADER"].n == 3
    assert dpo.by_seed == pytest.approx((2.5 / 3, 2 / 3))
    assert dpo.end["gold"].text(1) == "1.5 (1.0 to 2.0)"
    assert dpo.cost["peak_gib"] is None
    assert sft.cells()[1] == "–"
    assert dpo.cells()[7:10] == ("2.0 (2.0 to 2.0)", "0.50 (0.50 to 0.50)", "3 (3 to 3)")


def test_measures_are_kept_until_something_else_is_asked(tmp_path):
    path = tmp_path / "roads" / "dpo.json"
    assert kept(path, {"n": 3}, lambda: {"value": 1})["value"] == 1
    assert kept(path, {"n": 3}, lambda: {"value": 2})["value"] == 1
    assert kept(path, {"n": 4}, lambda: {"value": 2})["value"] == 2
