"""Write a model of random weights in SmolLM2-135M's shape, for a benchmark where no pretrained model is at hand.

    python benchmarks/random_model.py FOLDER

Speed and memory do not depend on what the weights are.
"""

import sys
from pathlib import Path

import torch

from tutelage.model.causal import Model, save
from tutelage.model.decoder import Decoder, DecoderConfig
from tutelage.model.tiny import tiny_tokenizer

SHAPE = DecoderConfig(
    family="llama",
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=1e5,
    rms_norm_eps=1e-5,
    tie_embeddings=True,
    context=8192,
)

if __name__ == "__main__":
    decoder = Decoder(SHAPE).initialise(torch.Generator().manual_seed(0))
    save(Model(decoder, tiny_tokenizer(), "random"), Path(sys.argv[1]))
