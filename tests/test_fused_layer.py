"""A layer in one compiled function beside the one that everything else runs. `varlen_attn`, CUDA's, has a stand-in."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_engine import FAMILIES, LLAMA, decoder_of, lora, prompts_of
from torch import Tensor
from torch._dynamo.utils import counters

from tutelage.model import decoder as decoding
from tutelage.model import fused_layer
from tutelage.model.attention import Products
from tutelage.model.batch import Packed
from tutelage.model.decoder import Decoder
from tutelage.model.fused_attention import Varlen

CPU = torch.device("cpu")


def varlen(q, k, v, queries, keys, most_own, longest, *, window_size, enable_gqa):  # type: ignore[no-untyped-def]
    """What PyTorch documents of `varlen_attn`, by one mask over all rows, which torch.compile can trace."""
    assert enable_gqa
    (row, at), (other, key) = (
        (torch.bucketize(place, starts, right=True, out_int32=True), place)
        for place, starts in ((torch.arange(len(q)), queries), (torch.arange(len(k)), keys))
    )
    at = keys[row] - (queries[row] - at)  # last queries with last keys
    seen = (row[:, None] == other) & (key <= at[:, None])
    if window_size[0] >= 0:
        seen &= at[:, None] - key <= window_size[0]
    args = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(*args, seen, enable_gqa=True)[0].transpose(0, 1)


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    kept = fused_layer.compiled
    yield
    kept.cache_clear()
    torch._dynamo.reset()


def numbers(decoder: Decoder, packed: Packed, rows: Tensor | None) -> list[Tensor]:
    """Hidden states, and the slope of every weight."""
    out = decoder(packed, rows=rows)
    push = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    asked = [p for name, p in decoder.named_parameters() if p.requires_grad and not name.startswith("lm_head")]
    return [out, *torch.autograd.grad(out, asked, push)]


def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "attention", lambda packed, window, device, _: Varlen(packed, window, device))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
def test_it_is_the_block(family: str, compute: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = (lora() if family == "lora" else decoder_of(FAMILIES[family])).compute_in(compute)
    packed, rows = Packed.of(prompts_of(7), share=True), torch.tensor([0, 3, 5])
    wanted = [numbers(decoder, packed, some) for some in (None, rows)]
    monkeypatch.setattr(fused_layer, "compiled", fused_layer.layer)
    monkeypatch.setattr(decoding, "compiled", fused_layer.layer)
    as_on_cuda(monkeypatch)
    monkeypatch.setattr(Products, "__call__", None)
    for some, want in zip((None, rows), wanted, strict=True):
        for one, other in zip(numbers(decoder, packed, some), want, strict=True):
            apart = float((one - other).detach().norm() / other.detach().norm().clamp_min(1e-6))
            assert apart < (1e-5 if compute == torch.float32 else 0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it itself
def test_one_compilation_serves_every_layer_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for rows of any number and length: batches of other sizes, and other layers, add none."""
    decoder, batches = decoder_of(LLAMA), [Packed.of(prompts_of(n, seed=n)) for n in (5, 9, 14, 3, 40)]
    wanted = [numbers(decoder, packed, None) for packed in batches]
    quick = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", quick)
    as_on_cuda(monkeypatch)
    counters.clear()
    for packed, want in zip(batches, wanted, strict=True):
        for one, other in zip(numbers(decoder, packed, None), want, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4 * float(other.detach().abs().max()), rtol=1e-4)
    assert 1 <= counters["stats"]["unique_graphs"] <= 2
