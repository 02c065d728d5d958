"""Small space files for the tests."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.config.space_file import Space, load_space

TINY = """
study:
  name: tiny
  trials: 4
  pruner: {kind: none}
data: {kind: digits, train_images: 100}
model: {kind: vgg, width: 4, head_width: 8}
training: {epochs: 2, batch_size: 50, optimizer: {kind: adamw, learning_rate: 3e-3}}
regularization: {dropout: 0.5}
search:
  regularization.dropout: {type: float, low: 0.0, high: 0.7}
  training.optimizer.weight_decay: {type: float, low: 1e-5, high: 1e-1, log: true}
registry: {model_name: tiny-cnn}
finalists: {count: 0}
"""


def write_tiny(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.yaml"
    own = path.with_suffix(f".{os.getpid()}")
    own.write_text(text)
    return own.replace(path)  # whole at once: processes of one test may read it meanwhile


def tiny_space(folder: Path, *assignments: str, text: str = TINY) -> Space:
    return load_space(write_tiny(folder, text), assignments)


def tiny_config(folder: Path, *assignments: str, text: str = TINY) -> RunConfig:
    return tiny_space(folder, *assignments, text=text).config
