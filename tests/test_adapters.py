"""Branches: same outputs at birth, one memory below, and none moves another."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tutelage.errors import ConfigError
from tutelage.model.adapters import Full, Lora, Top, Train, branch, merge, trainable
from tutelage.model.batch import Packed
from tutelage.model.decoder import Decoder
from tutelage.model.heads import common_layers
from tutelage.model.tiny import tiny_config, tiny_decoder

PACKED = Packed.of([[1, 2, 3, 4], [5, 6]])
TRAINS: list[Train] = [Top(layers=2), Lora(rank=4, alpha=8.0), Full()]
each_train = pytest.mark.parametrize("train", TRAINS, ids=lambda t: t.kind)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return decoder(PACKED) @ decoder.head_weight().T


def train_a_little(decoder: Decoder, steps: int = 2, seed: int = 0) -> None:
    goal = torch.randn(6, decoder.config.hidden_size, generator=seeded(seed))
    optimizer = torch.optim.AdamW(trainable(decoder).values(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (decoder(PACKED) - goal).square().mean().backward()
        optimizer.step()


@each_train
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_branch_begins_as_its_source_and_leaves_it_alone(train: Train, compute: torch.dtype) -> None:
    source = tiny_decoder(40, layers=3).compute_in(compute)
    before, weights = outputs(source), copy.deepcopy(source.state_dict())
    one, two = branch(source, train, seeded(1)), branch(source, train, seeded(2))
    for decoder in (source, one, two):
        assert torch.equal(outputs(decoder), before)
    train_a_little(one, seed=1)
    first = outputs(one)
    assert not torch.allclose(first, before, atol=1e-3)
    train_a_little(two, seed=2)
    assert torch.equal(outputs(one), first)
    assert not torch.allclose(outputs(two), first, atol=1e-3)
    assert torch.equal(outputs(source), before)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_top_shares_objects_below_and_trains_layers_and_norm_above() -> None:
    source = tiny_decoder(40, layers=3)
    new = branch(source, Top(layers=1), seeded())
    assert new.embed is source.embed
    assert [a is b for a, b in zip(new.layers, source.layers, strict=True)] == [True, True, False]
    assert new.norm is not source.norm
    assert new.head_weight() is source.embed.weight
    assert set(trainable(new)) == {n for n, _ in new.named_parameters() if n.startswith(("layers.2.", "norm."))}
    assert not any(p.requires_grad for p in [*source.embed.parameters(), *source.layers[0].parameters()])
    assert common_layers(source, new) == 2


def test_lora_shares_every_weight_and_trains_only_its_matrices() -> None:
    source = tiny_decoder(40)
    new = branch(source, Lora(rank=4, alpha=8.0), seeded())
    shared = dict(source.named_parameters())
    assert all(dict(new.named_parameters())[name] is p for name, p in shared.items())
    assert set(trainable(new)) == set(dict(new.named_parameters())) - set(shared)
    assert len(trainable(new)) == 2 * 4 * source.config.num_layers  # A and B for qkv, out, gate_up and down
    a = torch.cat([p.flatten() for n, p in trainable(new).items() if n.endswith("qkv.lora_a")])
    assert a.std().item() == pytest.approx(source.config.hidden_size**-0.5, rel=0.2)
    assert all(not p.any() for n, p in trainable(new).items() if n.endswith("lora_b"))
    same = branch(source, Lora(rank=4, alpha=8.0), seeded())
    assert all(torch.equal(p, trainable(same)[n]) for n, p in trainable(new).items())


def test_lora_branches_share_one_low_precision_copy() -> None:
    source = tiny_decoder(40).compute_in(torch.bfloat16)
    new = branch(source, Lora(), seeded())
    with torch.no_grad():
        assert new.layers[0].qkv.low() is source.layers[0].qkv.low()


def test_lora_is_the_paper_s_product() -> None:
    """h = W x + (alpha / r) B A x: Hu et al. 2021, equation 3."""
    linear = branch(tiny_decoder(40), Lora(rank=4, alpha=8.0), seeded()).layers[0].down
    linear.lora_b.data.normal_(generator=seeded(1))
    x = torch.randn(5, linear.weight.shape[1], generator=seeded(2))
    slow = torch.stack([linear.weight @ row + 8.0 / 4 * linear.lora_b @ (linear.lora_a @ row) for row in x])
    torch.testing.assert_close(linear(x), slow, atol=1e-5, rtol=1e-5)


def test_merging_gives_the_same_network_in_plain_weights() -> None:
    source = tiny_decoder(40)
    before = outputs(source)
    new = branch(source, Lora(rank=4, alpha=8.0), seeded())
    train_a_little(new)
    merged = merge(new)
    assert set(merged.state_dict()) == set(source.state_dict())
    assert (outputs(merged) - outputs(new)).abs().max() < 1e-5
    assert (outputs(merged) - before).abs().max() > 1e-2
    assert torch.equal(outputs(source), before)
    assert merged.embed.weight is source.embed.weight
    assert merge(source) is source


@pytest.mark.parametrize("first", TRAINS, ids=lambda t: t.kind)
@pytest.mark.parametrize("second", TRAINS, ids=lambda t: t.kind)
def test_a_trained_branch_can_be_branched_again(first: Train, second: Train) -> None:
    sft = branch(tiny_decoder(40, layers=3), first, seeded())
    train_a_little(sft)
    reference = outputs(sft)
    policy = branch(sft, second, seeded(1))
    assert torch.equal(outputs(policy), reference)
    train_a_little(policy, seed=3)
    assert torch.equal(outputs(sft), reference)
    assert not torch.allclose(outputs(policy), reference, atol=1e-3)


def test_an_untied_head_is_shared_and_frozen() -> None:
    from dataclasses import replace

    source = Decoder(replace(tiny_config(40), tie_embeddings=False)).initialise(seeded(), std=0.1)
    for train in (Top(layers=1), Lora(rank=2)):
        new = branch(source, train, seeded())
        assert new.head_weight() is source.head_weight()
        assert not new.head_weight().requires_grad
    full = branch(source, Full(), seeded())
    assert full.head_weight() is not source.head_weight()
    assert full.head_weight().requires_grad


def test_full_trains_all_even_from_a_frozen_source() -> None:
    frozen = branch(tiny_decoder(40), Top(layers=1), seeded())
    full = branch(frozen, Full(), seeded())
    assert len(trainable(full)) == len(list(full.parameters()))
    own = {p.data_ptr() for p in full.parameters()}
    assert not own & {p.data_ptr() for p in frozen.parameters()}


def refuse_too_many_layers(source: Decoder) -> nn.Module:
    return branch(source, Top(layers=9), seeded())


def refuse_other_rank(source: Decoder) -> nn.Module:
    return branch(branch(source, Lora(rank=2), seeded()), Lora(rank=4), seeded())


@pytest.mark.parametrize(
    ("build", "message"), [(refuse_too_many_layers, "has 2 layers"), (refuse_other_rank, "rank 2 and scale")]
)
def test_impossible_branches_are_refused(build: Callable[[Decoder], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_decoder(40))
