"""The head and the thresholds, from sequences of z-coordinates.

Thresholds and probabilities are set on texts whose source was held out: what a
head says of sources it was trained on is too good (docs/decisions/0011).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook.head import ROLES, HeadMember, SequenceHead, sigmoid
from ..config import Thresholds
from . import stats
from .compose import WRAPPER_FOLDS
from .heads import Adam, HeadOptions, initial, loss_and_gradients, platt
from .sequences import Rows, Sequences, Targets

__all__ = ["GROUPS", "Task", "fit_head", "held_out_logits", "judge", "thresholds_at"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

SUSPICIOUS_RATE, DANGEROUS_RATE = 0.01, 0.001

GROUPS = 5  # more hold out less at a time, and take longer
_DRAWN = 8  # batches drawn together and sorted by length, so that little is padded


@dataclass(frozen=True, slots=True)
class Task:
    """Everything a head is trained from."""

    sequences: Sequences
    rows: Rows
    targets: Targets
    scale: Array
    options: HeadOptions
    seed: int

    def train(self, chosen: Mask, steps: int, seed: int) -> HeadMember:
        """A network trained on the chosen windows."""
        rng = np.random.default_rng(seed)
        weights = self.targets.weights(chosen, self.sequences, self.rows)
        parameters = initial(rng, self.scale.size, self.options)
        adam = Adam(parameters, self.options, steps)
        for index in _batches(rng, weights, self.sequences, self.options.batch, steps):
            share = weights[index] / weights[index].sum(axis=1, keepdims=True) / len(index)
            batch = self.sequences.batch(index, self.targets, (2 * share).astype(np.float32))
            adam.update(loss_and_gradients(parameters, batch, self.options, rng)[1])
        return HeadMember(**parameters)


def fit_head(task: Task) -> tuple[SequenceHead, dict[Role, Thresholds]]:
    """The ensemble, its logits made probabilities, and thresholds for each role."""
    held_out = held_out_logits(task)
    slopes, offsets, thresholds = [], [], {}
    for column, role in enumerate(ROLES):
        mine = (task.rows.role == role) & ~task.rows.composed
        slope, offset = platt(held_out[mine, column], task.rows.attack[mine])
        scores = sigmoid(slope * held_out[mine, column] + offset)
        thresholds[role] = thresholds_at(scores, task.rows.attack[mine], task.rows.source[mine])
        slopes.append(slope)
        offsets.append(offset)
    everything = np.ones(len(task.sequences.start), dtype=bool)
    members = [
        task.train(everything, task.options.steps, task.seed + number)
        for number in tqdm(range(task.options.members), desc="training the head")
    ]
    scaled = (member.rescaled(np.array(slopes), np.array(offsets)) for member in members)
    return SequenceHead(task.scale, tuple(scaled)), thresholds


def held_out_logits(task: Task, groups: int = GROUPS) -> NDArray[np.float64]:
    """For each text and role, its highest logit from a head that saw nothing of
    its source, `(texts, roles)`; -inf where there is none.

    The sources are dealt into `groups`, and one group is held out at a time,
    with every text composed from it. Wrappers are held out in the same way.
    """
    logits = np.full((len(task.rows.attack), len(ROLES)), -np.inf)
    for group in tqdm(_groups(task.rows, groups), desc="holding out sources"):
        outside = task.rows.made_from(group)[task.sequences.example]
        member = task.train(~outside, task.options.held_out_steps, task.seed)
        judged = np.flatnonzero(outside)
        found = judge(member, task.sequences, judged)
        np.maximum.at(logits, task.sequences.example[judged], found)
    return logits


def judge(
    member: HeadMember, sequences: Sequences, chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Logits of the chosen windows, `(windows, roles)`."""
    logits = [
        member.logits(sequences.x[sequences.start[w] : sequences.end[w]].astype(np.float32))[0]
        for w in chosen
    ]
    return np.array(logits, dtype=np.float64).reshape(-1, len(ROLES))


def thresholds_at(
    scores: NDArray[np.floating], attack: Mask, source: NDArray[np.str_]
) -> Thresholds:
    """Scores that 1 % and 0.1 % of normal texts exceed, sources equal."""
    benign = np.asarray(scores[~attack], dtype=np.float64)
    weights = stats.equal_source_weights(source[~attack], attack[~attack])
    suspicious, dangerous = (
        stats.threshold_at(benign, weights, rate) for rate in (SUSPICIOUS_RATE, DANGEROUS_RATE)
    )
    return Thresholds(suspicious, dangerous)


def _groups(rows: Rows, count: int) -> list[list[str]]:
    """The sources, dealt out so that every group gets some with attacks and some
    of each role; and the folds of wrappers."""
    real = ~rows.composed
    attacked, tools = set(rows.source[real & rows.attack]), set(rows.source[rows.role == "tool"])
    order = sorted(set(rows.source[real]), key=lambda s: (s not in attacked, s not in tools, s))
    count = min(count, len(order))
    folds = [f"wrappers {fold}" for fold in range(WRAPPER_FOLDS)]
    return [[*map(str, order[i::count]), *folds[i::count]] for i in range(count)]


def _batches(
    rng: np.random.Generator,
    weights: NDArray[np.float64],
    sequences: Sequences,
    size: int,
    steps: int,
) -> Iterator[NDArray[np.int64]]:
    """Windows drawn in proportion to their weight, those of a batch alike in length."""
    cumulative = np.cumsum(weights.sum(axis=1))
    lengths = sequences.end - sequences.start
    for step in range(0, steps, _DRAWN):
        drawn = np.searchsorted(cumulative, rng.random(_DRAWN * size) * cumulative[-1])
        drawn = np.minimum(drawn, len(lengths) - 1)
        parts = np.split(drawn[np.argsort(lengths[drawn], kind="stable")], _DRAWN)
        for part in rng.permutation(_DRAWN)[: steps - step]:
            yield parts[part]
