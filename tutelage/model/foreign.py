"""Any other causal LM of transformers behind our decoder's verbs: rows padded, nothing shared, but it trains."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.model.batch import Packed, firsts
from tutelage.model.decoder import Decoder, DecoderConfig
from tutelage.model.pieces import EAGER

PROBE_LENGTH = 12
PROBE_TOLERANCE = 1e-3  # of the largest logit


class ForeignDecoder(Decoder):
    """A transformers model that answers like a Decoder, as long as its logits are hidden state times output matrix.

    Dropout stays off, training or not: with it, PPO's first ratio would not be 1.
    """

    def __init__(self, inner: Any) -> None:
        nn.Module.__init__(self)  # not Decoder's, which would build our own layers
        self.inner = inner.float().eval()
        self.config = _shape(inner.config)
        self.embed = inner.get_input_embeddings()
        self.layers = nn.ModuleList()  # none that could be shared or stopped at
        self.compute, self.pieces = torch.float32, EAGER
        self.check()

    @classmethod
    def read(cls, folder: Path) -> "ForeignDecoder":
        """The model in a folder. Raises ModelError when transformers can't load it or its logits are made otherwise."""
        from transformers import AutoModelForCausalLM

        try:
            inner = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"transformers can't load {folder} as a causal language model: {error}") from error
        return cls(inner)

    def save(self, folder: Path) -> None:
        """Write config and weights the way transformers does."""
        self.inner.save_pretrained(str(folder))

    def train(self, mode: bool = True) -> "ForeignDecoder":
        """Gradients flow either way; dropout stays off."""
        super().train(mode)
        self.inner.eval()
        return self

    def compute_in(self, dtype: torch.dtype) -> "ForeignDecoder":
        """Run under autocast to this dtype; the weights stay fp32."""
        self.compute = dtype
        return self

    def head_weight(self) -> Tensor:
        """(V, H) fp32: the output matrix."""
        weight: Tensor = self.inner.get_output_embeddings().weight
        return weight

    def run(
        self, packed: Packed, start: int, stop: int, hidden: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Not to be had: raises ModelError."""
        raise ModelError(f"a {self.config.family} model runs whole through transformers, not layer by layer")

    def forward(
        self,
        packed: Packed,
        hidden: Tensor | None = None,
        start: int = 0,
        rows: Tensor | None = None,
        *,
        sparse: bool = False,
    ) -> Tensor:
        """Packed rows → final hidden states (T, H) fp32, or those of `rows` (M,) alone; all gradients are dense.

        Raises ModelError when asked to begin at a later layer.
        """
        if hidden is not None or start:
            self.run(packed, start, start, hidden)
        lengths, device = torch.tensor(packed.lengths), self.head_weight().device
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).to(device)  # (N, longest)
        tokens = torch.zeros(mask.shape, dtype=torch.int64, device=device).masked_scatter(mask, packed.whole.to(device))
        with torch.autocast(mask.device.type, dtype=self.compute, enabled=self.compute != torch.float32):
            out = self.inner.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False)
        final: Tensor = out.last_hidden_state[mask].float()
        final = final if packed.source is None else final[firsts(packed.source)]
        return final if rows is None else final[rows]

    @torch.no_grad()
    def check(self) -> None:
        """Compare hidden states times the output matrix with the model's own logits. Raises ModelError if they differ.

        They do with softcapped or scaled logits (Gemma 2, Cohere) and with a bias, none of which we could train right.
        """
        family, head = self.config.family, self.inner.get_output_embeddings()
        if head is None:
            raise ModelError(f"the {family} model has no output matrix: it is no causal language model")
        device = self.embed.weight.device
        tokens = torch.arange(PROBE_LENGTH) * 7919 % self.config.vocab_size
        packed = Packed.of([tokens.tolist(), tokens[: PROBE_LENGTH // 2].tolist()]).to(device)
        own = self(packed) @ self.head_weight().T
        real = self.inner(input_ids=packed.tokens[:PROBE_LENGTH][None], use_cache=False).logits[0].float()
        short = self.inner(input_ids=packed.tokens[PROBE_LENGTH:][None], use_cache=False).logits[0].float()
        wanted = torch.cat((real, short))
        if own.shape != wanted.shape or (own - wanted).abs().max() > PROBE_TOLERANCE * wanted.abs().max():
            reason = "its logits are not the final hidden state times the output matrix (a bias, scaling or softcap)"
            raise ModelError(f"the {family} model can't be trained here: {reason}. Use another model")


def _shape(config: Any) -> DecoderConfig:
    """What a transformers config says in our terms; fields that only our own layers read are filled plainly."""
    heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
    return DecoderConfig(
        family=str(config.model_type),
        vocab_size=int(config.vocab_size),
        hidden_size=hidden,
        intermediate_size=0,
        num_layers=int(config.num_hidden_layers),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        rope_theta=0.0,
        rms_norm_eps=0.0,
        tie_embeddings=bool(config.tie_word_embeddings),
        context=int(config.max_position_embeddings),
    )
