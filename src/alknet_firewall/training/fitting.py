"""One role's region and thresholds, from places whose source was held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook.classifiers import DirectionClassifier, direction_features, sigmoid
from ..codebook.detection import Region
from ..codebook.profiles import DirectionProfile
from ..codebook.splines import fit_splines
from ..config import Thresholds
from . import stats
from .heads import HeadOptions, fit_classifier, platt
from .places import Places, Rows, place_labels, place_weights

__all__ = ["SUSPICIOUS_RATE", "Task", "fit_role", "held_out_logits"]

Array = NDArray[np.float32]

SUSPICIOUS_RATE, DANGEROUS_RATE = 0.01, 0.001

GROUPS = 10  # more hold out less at a time, and take longer


@dataclass(frozen=True, slots=True)
class Task:
    """One role's classification task: a feature row and a label for every place."""

    role: Role
    features: Array
    labels: Array
    usable: NDArray[np.bool_]
    places: Places
    rows: Rows
    head: HeadOptions
    seed: int

    def fit(self, chosen: NDArray[np.bool_]) -> DirectionClassifier:
        """A classifier trained on the chosen places."""
        index = np.flatnonzero(chosen)
        weights = place_weights(self.labels[index], self.places.example[index], self.rows)
        return fit_classifier(
            self.features[index], self.labels[index], weights, self.head, self.seed
        )


def fit_role(
    role: Role, places: Places, rows: Rows, head: HeadOptions, seed: int
) -> tuple[Region, Thresholds]:
    """Splines and profile of the role's normal text, its classifier, its thresholds."""
    labels, usable = place_labels(role, places, rows)
    normal = places.z[(rows.role == role)[places.example] & ~rows.attack[places.example]]
    profile = _profile(normal, places.z[usable & (labels > 0)])
    features = direction_features(places.z, profile.centroids, profile.scale)
    task = Task(role, features, labels, usable, places, rows, head, seed)
    held_out = held_out_logits(task)
    mine = (rows.role == role) & ~rows.composed
    slope, offset = platt(held_out[mine], rows.attack[mine])
    splines = fit_splines(normal.reshape(len(normal), -1).astype(np.float64))
    region = Region(profile, splines, task.fit(usable).rescaled(slope, offset))
    return region, _thresholds(sigmoid(slope * held_out[mine] + offset), rows, mine)


def held_out_logits(task: Task, groups: int = GROUPS) -> NDArray[np.float64]:
    """For each text of the role, its highest logit from a classifier that saw
    nothing of its source; -inf where there is none.

    The sources are dealt into `groups`, and one group is held out at a time.
    """
    places, rows = task.places, task.rows
    logits = np.full(len(rows.attack), -np.inf)
    mine = rows.role == task.role
    for sources in tqdm(_groups(task, groups), desc=f"holding out {task.role} sources"):
        outside = np.isin(rows.origin, sources)[places.example]
        classifier = task.fit(task.usable & ~outside)
        judged = np.flatnonzero(outside & mine[places.example])
        found = classifier.logits(task.features[judged])
        np.maximum.at(logits, places.example[judged], found)
    return logits


def _groups(task: Task, count: int) -> list[list[str]]:
    """The role's sources, dealt out so that every group gets some with attacks."""
    rows = task.rows
    mine = rows.role == task.role
    attacked = set(rows.origin[mine & rows.attack])
    sources = sorted(set(rows.origin[mine]), key=lambda source: (source not in attacked, source))
    count = min(count, len(sources))
    return [[str(source) for source in sources[start::count]] for start in range(count)]


def _profile(normal: Array, attacks: Array) -> DirectionProfile:
    shape = normal.shape[1:]
    a, b = attacks.reshape(len(attacks), -1), normal.reshape(len(normal), -1)
    columns = a.astype(np.float64), b.astype(np.float64)
    arrays = (
        columns[1].mean(axis=0),
        np.maximum(columns[1].std(axis=0), 1e-6),
        columns[0].mean(axis=0),
        stats.cohen_d(*columns),
        stats.silhouette(*columns),
    )
    return DirectionProfile(*(array.reshape(shape).astype(np.float32) for array in arrays))


def _thresholds(scores: NDArray[np.floating], rows: Rows, mine: NDArray[np.bool_]) -> Thresholds:
    """Scores that 1 % and 0.1 % of held-out normal texts exceed, sources equal."""
    normal = ~rows.attack[mine]
    benign = np.asarray(scores[normal], dtype=np.float64)
    weights = stats.equal_source_weights(rows.source[mine][normal], rows.attack[mine][normal])
    suspicious, dangerous = (
        stats.threshold_at(benign, weights, rate) for rate in (SUSPICIOUS_RATE, DANGEROUS_RATE)
    )
    return Thresholds(suspicious, dangerous)
