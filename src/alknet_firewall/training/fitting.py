"""The head, the weights of words and the thresholds, from the windows of every text.

Thresholds and probabilities are set on texts whose source was held out: what a
head says of sources it was trained on is too good (docs/decisions/0011).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from ..alarm import Role
from ..codebook.head import ROLES, HeadMember, SequenceHead, sigmoid, stacked
from ..codebook.lexical import LexicalTable
from ..config import Thresholds
from . import stats
from .compose import PHRASE_FOLDS
from .heads import Adam, HeadOptions, initial, loss_and_gradients, platt
from .lexical import fit_lexical, lexical_logits
from .sequences import Rows, Sequences, Targets

__all__ = ["GROUPS", "Fitted", "Task", "fit", "held_out_logits", "judge"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

SUSPICIOUS_RATE, DANGEROUS_RATE = 0.01, 0.001

GROUPS = 5  # more hold out less at a time, and take longer
_DRAWN = 8  # batches drawn together and sorted by length, so that little is padded


@dataclass(frozen=True, slots=True)
class Task:
    """Everything a head is trained from."""

    sequences: Sequences
    words: csr_array
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

    def train_words(self, chosen: Mask) -> LexicalTable:
        """Weights of n-grams from the chosen windows."""
        weights = self.targets.weights(chosen, self.sequences, self.rows)
        return fit_lexical(self.words, self.targets.labels, weights)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What detects, its log-odds made probabilities."""

    head: SequenceHead
    lexical: LexicalTable
    thresholds: dict[Role, Thresholds]


def fit(task: Task) -> Fitted:
    """The ensemble and the n-gram weights, mixed; and thresholds for each role."""
    seen = _held_out_windows(task, GROUPS)
    mixtures = [_mixture(task, seen, column) for column in range(len(ROLES))]
    slopes, offsets = np.array([m[0] for m in mixtures]), np.array([m[1] for m in mixtures])
    logits = _of_texts(task, (seen * slopes.T).sum(axis=1) + offsets)
    everything = np.ones(len(task.sequences.start), dtype=bool)
    members = [
        task.train(everything, task.options.steps, task.seed + number)
        for number in tqdm(range(task.options.members), desc="training the head")
    ]
    words = task.train_words(everything)
    return Fitted(
        head=SequenceHead(task.scale, stacked(members).rescaled(slopes[:, 0], offsets)),
        lexical=LexicalTable(np.asarray(words.weights * slopes[:, 1], np.float32)),
        thresholds={
            role: _thresholds(task.rows, role, logits[:, column])
            for column, role in enumerate(ROLES)
        },
    )


def held_out_logits(task: Task, groups: int = GROUPS) -> NDArray[np.float64]:
    """For each text and role, the log-odds of an attack from a head and n-grams that
    saw nothing of its source, `(texts, roles)`; -inf where there is none.

    The sources are dealt into `groups`, and one group is held out at a time,
    with every text composed from it. Phrases are held out in the same way.
    """
    seen = _held_out_windows(task, groups)
    columns = []
    for column in range(len(ROLES)):
        slopes, offset = _mixture(task, seen, column)
        columns.append(seen[:, :, column] @ slopes + offset)
    return _of_texts(task, np.stack(columns, axis=1))


def _held_out_windows(task: Task, groups: int) -> NDArray[np.float64]:
    """Logits of the head and of the n-grams, `(windows, 2, roles)`; -inf where none was
    made for a window, since nothing of it can be held out."""
    logits = np.full((len(task.sequences.start), 2, len(ROLES)), -np.inf)
    for group in tqdm(_groups(task.rows, groups), desc="holding out sources"):
        outside = task.rows.made_from(group)[task.sequences.example]
        judged = np.flatnonzero(outside)
        member = task.train(~outside, task.options.held_out_steps, task.seed)
        logits[judged, 0] = judge(member, task.sequences, judged)
        logits[judged, 1] = lexical_logits(task.train_words(~outside), task.words[judged])
    return logits


def _mixture(task: Task, seen: NDArray[np.float64], role: int) -> tuple[NDArray[np.float64], float]:
    """How much the head and the n-grams count, and the offset, for probabilities."""
    sums, example = seen[:, :, role].sum(axis=1), task.sequences.example
    order = np.lexsort((sums, example))
    worst = order[np.append(np.diff(example[order]) > 0, True)]
    rows, text = task.rows, example[worst]
    mine = (rows.role[text] == ROLES[role]) & ~rows.composed[text]
    worst, text = worst[mine], text[mine]
    weights = stats.equal_source_weights(rows.source[text], rows.attack[text])
    return platt(seen[worst, :, role], rows.attack[text], weights)


def _of_texts(task: Task, windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest logit of each text's windows, `(texts, roles)`; -inf without a window."""
    logits = np.full((len(task.rows.attack), len(ROLES)), -np.inf)
    np.maximum.at(logits, task.sequences.example, windows)
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


def _thresholds(rows: Rows, role: Role, logits: NDArray[np.float64]) -> Thresholds:
    """Scores that 1 % and 0.1 % of normal texts exceed.

    Every kind of text counts the same, and in it every source: most collections
    hold ordinary requests, and a threshold is needed for those that are not.
    """
    normal = (rows.role == role) & ~rows.composed & ~rows.attack
    weights = stats.equal_kind_weights(rows.kind[normal], rows.source[normal])
    suspicious, dangerous = (
        stats.threshold_at(np.asarray(sigmoid(logits[normal]), np.float64), weights, rate)
        for rate in (SUSPICIOUS_RATE, DANGEROUS_RATE)
    )
    return Thresholds(suspicious, dangerous)


def _groups(rows: Rows, count: int) -> list[list[str]]:
    """The sources, dealt out so that every group gets some with attacks and some
    of each role; and the folds of phrases."""
    real = ~rows.composed
    attacked, tools = set(rows.source[real & rows.attack]), set(rows.source[rows.role == "tool"])
    order = sorted(set(rows.source[real]), key=lambda s: (s not in attacked, s not in tools, s))
    count = min(count, len(order))
    folds = [f"phrases {fold}" for fold in range(PHRASE_FOLDS)]
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
