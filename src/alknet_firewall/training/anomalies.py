"""How far from normal text a run must lie to be like none of it.

The limit is set on sources that were held out, as thresholds are: the centroid and
the scale are those of the other sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from ..codebook.detection import WindowShape, anomaly
from . import stats
from .fitting import GROUPS, Task, groups_of
from .sequences import run_means

__all__ = ["anomaly_limit"]

RATE = 0.002
"""Share of held-out normal text that may be anomalous, every kind and source the same."""

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def anomaly_limit(task: Task, role: Role, shape: WindowShape) -> float:
    """The limit for the inputs of `task`, which are those of the first layer alone."""
    rows, example, whole = task.rows, task.sequences.example, ~task.sequences.part
    normal = (rows.role == role) & ~rows.attack
    found = np.zeros(len(rows.attack))
    for group in groups_of(rows, GROUPS):
        outside = rows.made_from(group)
        normal_runs = _centre(task, (normal & ~outside)[example] & whole, shape)
        for window in np.flatnonzero((normal & outside & ~rows.composed)[example] & whole):
            text = example[window]
            found[text] = max(found[text], _worst(task, int(window), *normal_runs, shape))
    real = normal & ~rows.composed
    weights = stats.equal_kind_weights(rows.kind[real], rows.source[real])
    return stats.threshold_at(found[real], weights, RATE)


def _centre(task: Task, chosen: Mask, shape: WindowShape) -> tuple[Array, Array]:
    """Mean and standard deviation of the runs of the chosen windows, as in a profile."""
    means = run_means(task.sequences, chosen, shape.run, task.scale)
    spread = np.maximum(means.std(axis=0, dtype=np.float64), 1e-6)
    return means.mean(axis=0, dtype=np.float64).astype(np.float32), spread.astype(np.float32)


def _worst(task: Task, window: int, centroid: Array, scale: Array, shape: WindowShape) -> float:
    blocks = slice(task.sequences.start[window], task.sequences.end[window])
    z = task.sequences.x[blocks].astype(np.float32) * task.scale
    sizes = task.sequences.tokens[blocks].astype(np.intp)
    return float(anomaly(z, sizes, centroid, scale, shape).max())
