"""From z-coordinates along a window to the log-odds of an attack.

    blocks ─▶ embedded ─▶ two convolutions ─▶ set against the whole window
      ─▶ a logit for each block; attention over the blocks ─▶ a logit for the window

Why a sequence and not a mean: docs/decisions/0012-sequence-head.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from .projection import product

__all__ = ["ROLES", "WIDTH", "HeadMember", "SequenceHead", "features", "sigmoid", "silu", "stacked"]

Array = NDArray[np.float32]

ROLES: tuple[Role, ...] = get_args(Role)
"""The order of the outputs."""

WIDTH = 5
"""Blocks that a convolution sees."""

_CLIP = 8.0  # standard deviations; bounds what one odd direction can do


@dataclass(frozen=True, slots=True)
class HeadMember:
    """The weights of one network, all float32; or of several, see `stacked`.

    With `units` units and `queries` attention queries: `embed_*` `(inputs,
    units)`, `conv1_*` and `conv2_*` `(WIDTH * units, units)`, `own_*` and
    `whole_weight` `(units, units)`, `query_*` `(units, queries)`, `block_*`
    `(units, roles)`, `hidden_*` `((queries + 1) * units, hidden)`, `output_*`
    `(hidden, roles)`; biases have the last size. Roles are user, tool.
    """

    embed_weight: Array
    embed_bias: Array
    conv1_weight: Array
    conv1_bias: Array
    conv2_weight: Array
    conv2_bias: Array
    own_weight: Array
    own_bias: Array
    whole_weight: Array
    query_weight: Array
    query_bias: Array
    block_weight: Array
    block_bias: Array
    hidden_weight: Array
    hidden_bias: Array
    output_weight: Array
    output_bias: Array

    def logits(self, x: Array) -> tuple[Array, Array]:
        """Logits of the window `(roles,)` and of its blocks `(blocks, roles)`.

        x is `(blocks, inputs)`; several networks add their axis in front of both.
        """
        h = silu(product(x, self.embed_weight) + self.embed_bias)
        h = h + silu(product(neighbours(h), self.conv1_weight) + self.conv1_bias)
        h = h + silu(product(neighbours(h), self.conv2_weight) + self.conv2_bias)
        mean = h.mean(axis=-2, keepdims=True)
        t = silu(product(h, self.own_weight) + mean @ self.whole_weight + self.own_bias)
        attention = softmax(t @ self.query_weight + self.query_bias)
        pooled = np.swapaxes(attention, -1, -2) @ t
        seen = np.concatenate([pooled.reshape(*mean.shape[:-1], -1), mean], axis=-1)
        hidden = silu(seen @ self.hidden_weight + self.hidden_bias)
        return (
            (hidden @ self.output_weight + self.output_bias)[..., 0, :],
            t @ self.block_weight + self.block_bias,
        )

    def rescaled(self, slopes: Array, offsets: Array) -> HeadMember:
        """The member whose window logits are `slopes * logits + offsets`, per role."""
        return replace(
            self,
            output_weight=np.asarray(self.output_weight * slopes, np.float32),
            output_bias=np.asarray(self.output_bias * slopes + offsets, np.float32),
        )


@dataclass(frozen=True, slots=True)
class SequenceHead:
    """An ensemble of networks, the spread of normal text they were trained in, and how
    much n-grams count beside them.

    `scale` is `(inputs,)`: the standard deviation of each z-coordinate, layer by
    layer, over blocks of normal text. `members` holds all of them, `stacked`.
    `words` is `(roles,)`.
    """

    scale: Array
    members: HeadMember
    words: Array

    def logits(
        self, z: Array, words: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-odds of an attack for one window, `(roles,)`, and its blocks, `(blocks, roles)`.

        z is `(blocks, layers, dimensions)`, `words` the log-odds of the n-grams `(roles,)`.
        """
        windows, blocks = self.members.logits(features(z, self.scale))
        window = np.mean(windows, axis=0, dtype=np.float64) + self.words * words
        return window, np.mean(blocks, axis=0, dtype=np.float64)


def stacked(members: Sequence[HeadMember]) -> HeadMember:
    """Networks of one size as one, `(members, in, out)` and `(members, 1, out)`: the
    same products, with a tenth of the calls."""
    arrays = {}
    for name in member_names():
        array = np.stack([getattr(member, name) for member in members])
        arrays[name] = array if array.ndim == 3 else array[:, None]
    return HeadMember(**arrays)


def features(z: Array, scale: Array) -> Array:
    """z `(blocks, layers, dimensions)` in standard deviations, `(blocks, inputs)`, clipped."""
    return np.asarray(np.clip(z.reshape(len(z), -1) / scale, -_CLIP, _CLIP), dtype=np.float32)


def neighbours(h: Array) -> Array:
    """Each block beside its `WIDTH // 2` neighbours on either side, zeros past the ends.

    `(..., blocks, units)` to `(..., blocks, WIDTH * units)`.
    """
    *before, blocks, units = h.shape
    padded = np.zeros((*before, blocks + WIDTH - 1, units), h.dtype)
    padded[..., WIDTH // 2 : WIDTH // 2 + blocks, :] = h
    return np.concatenate([padded[..., k : k + blocks, :] for k in range(WIDTH)], axis=-1)


def softmax(x: Array) -> Array:
    """Along the blocks, for each query."""
    e = np.exp(x - x.max(axis=-2, keepdims=True))
    return np.asarray(e / e.sum(axis=-2, keepdims=True))


def silu(x: Array) -> Array:
    """x * sigmoid(x) (arXiv:1606.08415)."""
    return np.asarray(x * sigmoid(x), dtype=np.float32)


def sigmoid(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 / (1 + exp(-x)), without overflow for any finite x."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def member_names() -> Sequence[str]:
    """The names of a member's arrays, in order."""
    return [field.name for field in fields(HeadMember)]
