"""What is compiled beside its twin in PyTorch: the same numbers forward and backward, tokens and log-probabilities."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import TrainingError
from tutelage.model import kernels, native, pieces
from tutelage.model.adapters import Lora, Top, branch
from tutelage.model.batch import Batch, Example
from tutelage.model.decoder import Decoder
from tutelage.model.heads import Policy
from tutelage.model.linear import Linear
from tutelage.model.tiny import tiny_decoder
from tutelage.sample import native as decoding
from tutelage.sample.cache import look_back
from tutelage.sample.draw import draw
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams, uniforms

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler with OpenMP here")

DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 0.006}  # of the norm; bf16 is rounded to 8 bits at most twice


def near(one: Tensor, other: Tensor, dtype: torch.dtype) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    apart = (one.detach().double() - other.detach().double()).norm() / other.detach().double().norm().clamp_min(1e-9)
    assert float(apart) < ROUNDING[dtype]


def numbers(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g).to(dtype).requires_grad_() for shape in shapes]


def both(name: str, arguments: tuple[object, ...], dtype: torch.dtype) -> None:
    """Results and gradients of a piece, compiled and not, asked for gradients and not; 67 rows: no multiple of 16."""
    given = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
    found = []
    for way in (native.PIECES, pieces.EAGER):
        out = way.__dict__[name](*arguments)
        out = out if isinstance(out, tuple) else (out,)
        push = [torch.linspace(-1, 2, x.numel()).view_as(x).to(x.dtype) for x in out]
        with torch.no_grad():
            quiet = way.__dict__[name](*arguments)
        for one, other in zip(out, quiet if isinstance(quiet, tuple) else (quiet,), strict=True):
            assert torch.equal(one, other)
        found.append((*out, *torch.autograd.grad(out, given, push)))
    for one, other in zip(*found, strict=True):
        near(one, other, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype: torch.dtype) -> None:
    x, weight = numbers(torch.float32, (67, 37), (37,))
    (more,) = numbers(dtype, (67, 37))
    both("normed", (x, weight, EPS, dtype), dtype)
    both("added", (x, more, weight, EPS, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_positions(dtype: torch.dtype) -> None:
    (qkv,) = numbers(dtype, (67, (6 + 2 * 2) * 10))
    angle = torch.arange(67.0)[:, None, None] * torch.linspace(0, 1, 5)
    both("rotated", (qkv, angle.cos(), angle.sin(), 6, 2), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype: torch.dtype) -> None:
    x = (torch.linspace(-100, 100, 67 * 2 * 37).view(67, -1) * 1.1).to(dtype).requires_grad_()  # to both ends of e^x
    both("gated", (x,), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_tile_of_logits(dtype: torch.dtype, temperature: float) -> None:
    logits = 3 * numbers(dtype, (67, 213))[0].detach()
    logits[:, 11] = -torch.inf
    target = torch.arange(67) * 4 - 20  # some before, some in and some behind these words
    found = native.tallied(logits, target, temperature)
    for one, other in zip(found, pieces.tallied(logits, target, temperature), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
    given = found[0] + 0.3, target, torch.linspace(-1, 2, 67)
    near(native.pushed(logits, *given, temperature), pieces.pushed(logits, *given, temperature), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [1, 5, 63, 64, 65, 130])
def test_the_greatest_logit_is_found_wherever_it_lies(dtype: torch.dtype, words: int) -> None:
    logits = torch.full((words, words), -256.0).fill_diagonal_(256.0).to(dtype)  # apart by more than e^x can bear
    target = torch.arange(words)
    log_z, mean, own = native.tallied(logits, target, 1.0)
    assert torch.equal(log_z, torch.full((words,), 256.0))
    assert torch.equal(mean, log_z)
    assert torch.equal(own, log_z)
    tokens, logprobs = decoding.draw(logits, torch.full((words,), 0.5, dtype=torch.float64), 1.0)
    assert torch.equal(tokens, target)
    assert torch.equal(logprobs, torch.zeros(words))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 128, 24])
@pytest.mark.parametrize("each", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("window", [None, 3, 20])
def test_looking_back(dtype: torch.dtype, size: int, each: int, window: int | None) -> None:
    q, k, v, held_k, held_v = (x.detach() for x in numbers(
        dtype, (3, 2 * each, size), (3, 2, size), (3, 2, size), (4, 2, 48, size), (4, 2, 48, size)
    ))  # fmt: skip
    places = torch.tensor([0, 47, 21])
    twin_k, twin_v = held_k.clone(), held_v.clone()
    twin_k[range(3), :, places], twin_v[range(3), :, places] = k, v
    at = torch.arange(48)
    seen = at <= places[:, None]
    if window is not None:
        seen &= at > places[:, None] - window
    bias = torch.zeros(3, 48, dtype=dtype).masked_fill_(~seen, -torch.inf)[:, None]
    want = look_back(q, twin_k[:3], twin_v[:3], bias)
    found = decoding.look_back(q, k, v, (held_k, held_v), places, window)
    near(found, want, dtype)
    assert torch.equal(held_k, twin_k)  # kept at their places, and nothing else is touched
    assert torch.equal(held_v, twin_v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws(dtype: torch.dtype, temperature: float) -> None:
    logits = (3 * torch.randn(2000, 1013, generator=torch.Generator().manual_seed(0))).to(dtype)
    logits[:, 5] = -torch.inf
    uniform = uniforms(0, 2000, 1)[:, 0]
    token, logprob = decoding.draw(logits, uniform, temperature)
    want, score = draw(logits.float(), uniform, temperature=temperature, top_k=0, top_p=1.0)
    same = token == want
    assert float((~same).float().mean()) < 0.002  # where u falls on the border of two tokens, as far as fp32 can tell
    assert not bool((token == 5).any())
    torch.testing.assert_close(logprob[same], score[same], atol=2e-5, rtol=1e-5)
    edges = torch.tensor([0.0, 1 - 2**-53])
    chosen, _ = decoding.draw(logits[:2], edges.double(), temperature)
    assert chosen[0] == 0
    assert chosen[1] == 1012


def test_a_draw_from_what_is_no_number_is_refused() -> None:
    for odd in (torch.nan, torch.inf):
        logits = torch.zeros(2, 300)
        logits[1, 7] = odd
        with pytest.raises(TrainingError, match="not numbers"):
            decoding.draw(logits, torch.full((2,), 0.5, dtype=torch.float64), 1.0)


@pytest.mark.skipif(not kernels.has_products(), reason="this processor's products are another library's")
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 33, 64, 130])
@pytest.mark.parametrize(("words", "size"), [(48, 2), (100, 34), (33, 576)])
def test_products_over_panels(rows: int, words: int, size: int) -> None:
    x, weight = (y.detach() for y in numbers(torch.bfloat16, (rows, size), (words, size)))
    laid_out = native.panels(weight)
    assert laid_out is not None
    near(native.product(x, laid_out, words), F.linear(x, weight), torch.bfloat16)


def test_what_there_is_no_kernel_for_is_left_to_pytorch() -> None:
    assert native.panels(torch.zeros(4, 4)) is None
    assert native.panels(torch.zeros(4, 5, dtype=torch.bfloat16)) is None


def loss_and_slopes(decoder: Decoder) -> list[Tensor]:
    batch = Batch.of([Example((1, 2, 3, 4, 5), (False, False, True, True, True)), Example((9, 8), (False, True))])
    loss = -Policy(decoder)(batch).logprob.sum()
    return [loss, *torch.autograd.grad(loss, [p for p in decoder.parameters() if p.requires_grad])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("train", [None, Top(layers=1), Lora(rank=4)])
def test_a_whole_decoder(dtype: torch.dtype, train: Top | Lora | None) -> None:
    found = []
    for way in (native.PIECES, pieces.EAGER):
        decoder = tiny_decoder(40, layers=3).compute_in(dtype).use(way)
        if train is not None:
            decoder = branch(decoder, train, torch.Generator().manual_seed(0))
            assert decoder.pieces == way
        found.append(loss_and_slopes(decoder))
    for one, other in zip(*found, strict=True):
        assert float((one - other).detach().norm()) <= 10 * ROUNDING[dtype] * float(other.detach().norm()) + 1e-7


@pytest.fixture
def drawn() -> list[Tensor]:
    """Prompts of several lengths, more of them than slots."""
    return [torch.randint(0, 40, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 9, 1, 5, 4)]


@pytest.mark.parametrize(
    "shape",
    [{}, {"sliding_window": 4}, {"qkv_bias": True}, {"qk_norm": True, "head_dim": 16}, {"tie_embeddings": False}],
)
def test_a_sampler_gives_the_same_tokens(drawn: list[Tensor], shape: dict[str, Any]) -> None:
    found = []
    for way in (native.PIECES, pieces.EAGER):
        config = replace(tiny_decoder(40, layers=3).config, **shape)
        decoder = Decoder(config).initialise(torch.Generator().manual_seed(0), std=0.2).use(way)
        params = SamplingParams(max_tokens=12, slots=3)
        found.append(Engine(decoder, 5).generate([p.tolist() for p in drawn], params, seed=1))
    for one, other in zip(*found, strict=True):
        assert (one.tokens, one.finish) == (other.tokens, other.finish)
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_bf16_too_slots_and_company_change_nothing(threads: int, temperature: float) -> None:
    """Two kernels for one product, chosen by how many rows there are, would round some numbers another way."""
    wide = {"hidden_size": 320, "intermediate_size": 640, "num_heads": 4, "num_kv_heads": 1, "head_dim": 16}
    config = replace(tiny_decoder(40, layers=3).config, **wide)
    decoder = Decoder(config).initialise(torch.Generator().manual_seed(0), std=0.2)
    decoder.compute_in(torch.bfloat16).use(native.PIECES)
    lengths = torch.randint(1, 30, (80,), generator=torch.Generator().manual_seed(1)).tolist()
    prompts = [torch.randint(0, 40, (n,), generator=torch.Generator().manual_seed(i)) for i, n in enumerate(lengths)]
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        for slots in (1, 8, 16, 80):
            params = SamplingParams(max_tokens=12, slots=slots, temperature=temperature)
            found.append(Engine(decoder, 5).generate([p.tolist() for p in prompts], params, seed=1))
    finally:
        torch.set_num_threads(before)
    for run in found[1:]:
        assert [s.tokens for s in run] == [s.tokens for s in found[0]]
        assert all(torch.equal(a.logprobs, b.logprobs) for a, b in zip(run, found[0], strict=True))


def test_what_has_no_weight_is_not_drawn() -> None:
    """At the end of a block, where its sum and the walk through it round otherwise, and at the very beginning."""
    logits = 3 * torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    logits[0, 255] = -torch.inf
    ends = logits.double().softmax(-1)[0].cumsum(0)
    for u in (ends[255], ends[254], ends[255] - 1e-9, ends[255] + 1e-9):
        token, logprob = decoding.draw(logits, u[None], 1.0)
        assert int(token) in (254, 256)
        assert bool(logprob.isfinite())
    logits[0, 255] = logits.max() - 70  # of weight 4e-31: no double feels it
    assert int(decoding.draw(logits, ends[255:256], 1.0)[0]) in (254, 256)
    logits[0, 0] = -torch.inf
    assert int(decoding.draw(logits, torch.zeros(1, dtype=torch.float64), 1.0)[0]) == 1


def test_a_norm_takes_what_its_twin_takes() -> None:
    x, weight = (y.detach() for y in numbers(torch.bfloat16, (6, 8), (8,)))
    for given in (x, x.float().t().contiguous().t()):
        near(
            native.normed(given, weight.float(), EPS, torch.bfloat16),
            pieces.normed(given, weight.float(), EPS, torch.bfloat16),
            torch.bfloat16,
        )
    wide = x.float().t().contiguous().t()
    for one, other in zip(
        native.added(wide, x, weight.float(), EPS, torch.bfloat16),
        pieces.added(wide, x, weight.float(), EPS, torch.bfloat16),
        strict=True,
    ):
        near(one, other, other.dtype)


def test_a_laid_out_weight_is_used_only_while_it_stands_still() -> None:
    linear = Linear(torch.nn.Parameter(torch.randn(50, 4)))
    linear.compute = torch.bfloat16
    x = torch.randn(3, 4)
    with torch.no_grad():
        linear.lay_out(True)
        assert (linear._laid_out() is not None) == kernels.has_products()
        before = linear(x)
        linear.weight.mul_(2)
        assert linear._laid_out() is None
        near(linear(x), 2 * before, torch.bfloat16)
        linear.lay_out(True)
    assert linear._laid_out() is None  # no gradient would flow
    linear(x).sum().backward()
    assert linear.weight.grad is not None


def test_decoding_leaves_nothing_behind(drawn: list[Tensor]) -> None:
    decoder = tiny_decoder(40).compute_in(torch.bfloat16).use(native.PIECES)
    stream = Engine(decoder, 5).stream([p.tolist() for p in drawn], SamplingParams(max_tokens=4), seed=0)
    next(stream)
    linears = [m for m in decoder.modules() if isinstance(m, Linear)]
    assert all((m._panels is not None) == kernels.has_products() for m in linears)
    stream.close()  # somebody stops reading
    assert all(m._panels is None for m in linears)


def fresh(monkeypatch: pytest.MonkeyPatch, folder: Path, compiler: str | None = None) -> object:
    monkeypatch.setattr(kernels, "cache_root", lambda: folder)
    if compiler is not None:
        monkeypatch.setenv("CXX", compiler)
    return kernels.library.__wrapped__()


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert fresh(monkeypatch, tmp_path) is not None
    (made,) = (tmp_path / "kernels").iterdir()
    stamp = made.stat().st_mtime_ns
    assert fresh(monkeypatch, tmp_path) is not None
    assert [file.stat().st_mtime_ns for file in (tmp_path / "kernels").iterdir()] == [stamp]


def test_a_part_of_a_library_is_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would end the process; it is compiled anew."""
    assert fresh(monkeypatch, tmp_path) is not None
    (made,) = (tmp_path / "kernels").iterdir()
    whole = made.read_bytes()
    for part in (whole[:50_000], b""):
        made.unlink()  # what is open stays as it is
        made.write_bytes(part)
        assert fresh(monkeypatch, tmp_path) is not None
        assert len(made.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    "content", ["no program\n", "#!/bin/sh\nprintf '\\351chec' >&2; exit 1\n", "#!/bin/sh\nexec sleep 100\n"]
)
def test_whatever_is_wrong_with_a_compiler_there_are_no_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    bad = tmp_path / "c++"
    bad.write_text(content)
    bad.chmod(0o755)
    monkeypatch.setattr(kernels, "PATIENCE", 0.2)
    with pytest.warns(UserWarning, match="slower without compiled kernels"):
        assert fresh(monkeypatch, tmp_path, str(bad)) is None


def test_without_a_home_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kernels, "cache_root", nowhere)
    with pytest.warns(UserWarning, match="Could not determine home directory"):
        assert kernels.library.__wrapped__() is None


def test_without_a_compiler_or_with_the_switch_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "c++"
    bad.write_text("#!/bin/sh\necho cannot compile anything >&2\nexit 1\n")
    bad.chmod(0o755)
    with pytest.warns(UserWarning, match="slower without compiled kernels .*cannot compile anything"):
        assert fresh(monkeypatch, tmp_path, str(bad)) is None
    assert list((tmp_path / "kernels").iterdir()) == []
    monkeypatch.setenv("TUTELAGE_KERNELS", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh(monkeypatch, tmp_path) is None
