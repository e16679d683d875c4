"""Comparing the hidden states of two engines."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from alknet_firewall.model.protocol import DetectorModel

Array = NDArray[np.float64]
Numbers = dict[int, Array]


def cosines(one: DetectorModel, other: DetectorModel, texts: Sequence[str]) -> Numbers:
    """Per layer, the cosine of each token's states in the two engines."""
    return _per_token(one, other, texts, _cosine)


def relative_errors(one: DetectorModel, other: DetectorModel, texts: Sequence[str]) -> Numbers:
    """Per layer, each token's |a - b| / |a|, of Euclidean norms."""
    return _per_token(one, other, texts, _relative)


def _per_token(
    one: DetectorModel,
    other: DetectorModel,
    texts: Sequence[str],
    compare: Callable[[Array, Array], Array],
) -> Numbers:
    found: dict[int, list[Array]] = {layer: [] for layer in one.extraction_layers}
    for text in texts:
        ids = [one.bos_id, *one.encode(text).ids]
        first, second = one.infer(ids), other.infer(ids)
        for layer, values in found.items():
            values.append(compare(first[layer].astype(float), second[layer].astype(float)))
    return {layer: np.concatenate(values) for layer, values in found.items()}


def _cosine(a: Array, b: Array) -> Array:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / norms)


def _relative(a: Array, b: Array) -> Array:
    return np.asarray(np.linalg.norm(a - b, axis=-1) / np.linalg.norm(a, axis=-1))
