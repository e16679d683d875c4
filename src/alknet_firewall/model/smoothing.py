"""Scales moved between layers so that 8 bits hold more (arXiv:2211.10438).

Where one column of an activation is far larger than the rest, one scale for all
of them rounds the rest away. Such a column is divided by a constant and the next
weight multiplied by it, so the model computes the same and int8 loses less. The
constants come from the largest magnitudes seen in ordinary text, which
`training/smoothing.py` measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRENGTH", "Tensors", "largest_seen", "smoothed"]

Tensors = Mapping[str, NDArray[np.float32]]

STRENGTH = 0.7
"""How much of the difference moves to the weights, 0 to 1."""

# What a column's scale is taken from -> what takes it over.
_PAIRS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
}


def largest_seen(name: str) -> Tensors:
    """The magnitudes of a model as packaged: `<layer>.<part>` to `(columns,)`.

    A part is one of `input_layernorm`, `post_attention_layernorm` (their
    outputs) and `mlp.up_proj` (what `down_proj` reads).
    """
    from safetensors.numpy import load

    return load(resources.files(__package__).joinpath(name).read_bytes())


def smoothed(tensors: Tensors, seen: Tensors) -> Tensors:
    """The tensors with scales moved, for every layer that `seen` knows.

    Weights are `(out, in)` as PyTorch stores them.
    """
    changed = dict(tensors)
    # In a fixed order: up_proj takes scale from one neighbour and gives it to another.
    for key, magnitude in sorted(seen.items()):
        layer, _, part = key.partition(".")
        prefix = f"model.layers.{layer}."
        source, readers = f"{prefix}{part}.weight", [f"{prefix}{r}.weight" for r in _PAIRS[part]]
        if source in tensors:
            scale = _scale(magnitude, [changed[reader] for reader in readers])
            changed[source] = (changed[source].T / scale).T
            changed.update({reader: changed[reader] * scale for reader in readers})
    return changed


def _scale(
    magnitude: NDArray[np.float32], weights: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    largest = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    scale = (magnitude + 1e-6) ** STRENGTH / (largest + 1e-9) ** (1 - STRENGTH)
    return np.asarray(scale / np.exp(np.log(scale).mean()), np.float32)
