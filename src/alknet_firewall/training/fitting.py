"""The head, the weights of words and the thresholds, from the windows of every text.

Thresholds and probabilities are set on texts whose source was held out: what a
head says of sources it was trained on is too good (docs/decisions/0011).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import AsyncResult, ThreadPool

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tqdm import tqdm

from ..alarm import Role
from ..codebook.detection import EarlyExit
from ..codebook.head import ROLES, HeadMember, SequenceHead, sigmoid, stacked
from ..codebook.lexical import LexicalTable
from ..config import Thresholds
from . import stats
from .compose import PHRASE_FOLDS
from .heads import Adam, HeadOptions, initial, loss_and_gradients, platt
from .lexical import fit_lexical, lexical_logits
from .memory import keep_freed
from .sequences import Rows, Sequences, Targets
from .workers import workers

__all__ = [
    "GROUPS",
    "Fitted",
    "Task",
    "fit",
    "groups_of",
    "held_out_logits",
    "held_out_words",
    "judge",
]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

RATES: Mapping[Role, tuple[float, float]] = {"user": (0.001, 0.0002), "tool": (0.015, 0.002)}
"""Shares of held-out normal text that may reach SUSPICIOUS and DANGEROUS
(docs/decisions/0011-held-out-thresholds.md)."""

LOST = 0.001
"""Share of the attacks caught that the early exit may lose."""
SETTLED_AT_MOST = 0.2
"""No window of a higher early score is settled: the deeper layers also rank those texts
better that no threshold catches."""

_DECIDING = 10  # texts; one of a small source of a rare kind would else set a threshold
GROUPS = 5  # more hold out less at a time, and take longer
_DRAWN = 8  # batches drawn together and sorted by length, so that little is padded


@dataclass(frozen=True, slots=True)
class Task:
    """Everything a head is trained from."""

    sequences: Sequences
    words: csr_array
    surprise: NDArray[np.float64]
    """What surprisal adds to the log-odds of each window, `(windows, roles)`."""
    rows: Rows
    targets: Targets
    scale: Array
    options: HeadOptions
    seed: int

    def train(self, chosen: Mask, steps: int, seed: int) -> HeadMember:
        """A network trained on the chosen windows."""
        keep_freed()
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

    def first(self, inputs: int) -> Task:
        """The same task for a head that reads only the first inputs."""
        sequences = replace(self.sequences, x=self.sequences.x[:, :inputs])
        steps = self.options.early_steps
        options = replace(self.options, members=1, steps=steps, held_out_steps=steps)
        return replace(self, sequences=sequences, scale=self.scale[:inputs], options=options)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What detects, its log-odds made probabilities."""

    head: SequenceHead
    early: EarlyExit | None
    lexical: LexicalTable
    thresholds: dict[Role, Thresholds]
    held_out: NDArray[np.float64]
    """What `held_out_logits` gives."""


def fit(task: Task, first_inputs: int) -> Fitted:
    """The ensemble and the n-gram weights, mixed; thresholds for each role; and where
    the first layer, the first inputs of each block, is not all, a head that reads it alone.
    """
    words = held_out_words(task, GROUPS)
    with workers() as pool:
        full, head = _trained(pool, task, words)
        logits = task.sequences.highest(full.logits, len(task.rows.attack))
        thresholds = _thresholds(task.rows, logits)
        fewer = task.first(first_inputs) if first_inputs < task.scale.size else None
        return Fitted(
            head=head,
            early=_early_exit(pool, fewer, words, full, thresholds) if fewer else None,
            lexical=task.train_words(_everything(task)),
            thresholds=thresholds,
            held_out=logits,
        )


def held_out_logits(
    task: Task, groups: int = GROUPS, words: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """For each text and role, the log-odds of an attack from a head and n-grams that
    saw nothing of its source, `(texts, roles)`; -inf where there is none.

    The sources are dealt into `groups`, and one group is held out at a time,
    with every text composed from it. Phrases are held out in the same way. `words` are
    the `held_out_words`, where they are known.
    """
    words = held_out_words(task, groups) if words is None else words
    with workers() as pool:
        heads = _collected(task, _start_held_out_heads(pool, task, groups))
    return task.sequences.highest(_mixed(task, words, heads).logits, len(task.rows.attack))


@dataclass(frozen=True, slots=True)
class _Mixed:
    """How much a head and n-grams count, `slopes` `(roles, 2)` and `offsets` `(roles,)`,
    and what the two and surprisal say together of windows held out, `(windows, roles)`; -inf
    where none was made for a window, since nothing of it can be held out."""

    slopes: NDArray[np.float64]
    offsets: NDArray[np.float64]
    logits: NDArray[np.float64]


def _mixed(task: Task, words: NDArray[np.float64], heads: NDArray[np.float64]) -> _Mixed:
    seen = np.stack([heads, words], axis=1)
    mixtures = [_mixture(task, seen, column) for column in range(len(ROLES))]
    slopes, offsets = np.array([m[0] for m in mixtures]), np.array([m[1] for m in mixtures])
    made = np.isfinite(seen).all(axis=(1, 2))
    logits = np.full((len(seen), len(ROLES)), -np.inf)
    logits[made] = (seen[made] * slopes.T).sum(axis=1) + offsets + task.surprise[made]
    return _Mixed(slopes, offsets, logits)


def held_out_words(task: Task, groups: int = GROUPS) -> NDArray[np.float64]:
    """What n-grams alone say of each window, `(windows, roles)`, held out as in
    `held_out_logits`."""

    def judged(inside: Mask, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return lexical_logits(task.train_words(inside), task.words[chosen])

    with workers() as pool:
        return _collected(task, _start_held_out(pool, task, groups, judged))


_Judged = tuple[NDArray[np.int64], NDArray[np.float64]]


def _start_held_out_heads(pool: ThreadPool, task: Task, groups: int) -> list[AsyncResult[_Judged]]:
    def judged(inside: Mask, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        member = task.train(inside, task.options.held_out_steps, task.seed)
        return judge(member, task.sequences, chosen)

    return _start_held_out(pool, task, groups, judged)


def _start_held_out(
    pool: ThreadPool,
    task: Task,
    groups: int,
    judged: Callable[[Mask, NDArray[np.int64]], NDArray[np.float64]],
) -> list[AsyncResult[_Judged]]:
    """The windows of each group and their logits, from what `judged` trains on the others."""

    def hold_out(group: list[str]) -> _Judged:
        outside = task.rows.made_from(group)[task.sequences.example]
        chosen = np.flatnonzero(outside)
        return chosen, judged(~outside, chosen)

    return [pool.apply_async(hold_out, (group,)) for group in groups_of(task.rows, groups)]


def _collected(task: Task, parts: Sequence[AsyncResult[_Judged]]) -> NDArray[np.float64]:
    """Logits `(windows, roles)`, -inf where a window is in no part."""
    logits = np.full((len(task.sequences.start), len(ROLES)), -np.inf)
    for part in tqdm(parts, desc="holding out sources"):
        chosen, judged = part.get()
        logits[chosen] = judged
    return logits


def _everything(task: Task) -> Mask:
    return np.ones(len(task.sequences.start), dtype=bool)


def _trained(
    pool: ThreadPool, task: Task, words: NDArray[np.float64]
) -> tuple[_Mixed, SequenceHead]:
    """Heads that hold sources out, to mix them with words, and the ensemble of those
    that do not; they are trained side by side."""
    parts = _start_held_out_heads(pool, task, GROUPS)
    members = [
        pool.apply_async(task.train, (_everything(task), task.options.steps, task.seed + number))
        for number in range(task.options.members)
    ]
    mixed = _mixed(task, words, _collected(task, parts))
    slopes, offsets = mixed.slopes.astype(np.float32), mixed.offsets.astype(np.float32)
    trained = stacked([member.get() for member in tqdm(members, desc="training the head")])
    return mixed, SequenceHead(task.scale, trained.rescaled(slopes[:, 0], offsets), slopes[:, 1])


def _early_exit(
    pool: ThreadPool,
    task: Task,
    words: NDArray[np.float64],
    full: _Mixed,
    thresholds: Mapping[Role, Thresholds],
) -> EarlyExit:
    early, head = _trained(pool, task, words)
    below = {
        role: _settled_below(
            task, role, early.logits[:, column], full.logits[:, column], thresholds[role].suspicious
        )
        for column, role in enumerate(ROLES)
    }
    return EarlyExit(head, below)


def _settled_below(
    task: Task,
    role: Role,
    early: NDArray[np.float64],
    full: NDArray[np.float64],
    suspicious: float,
) -> float:
    """The early score below which lie `LOST` of the attacks that the whole head catches,
    but at most `SETTLED_AT_MOST`.

    A text counts by the window that gives it away, every source the same.
    """
    worst = _worst_windows(task, full)
    rows, text = task.rows, task.sequences.example[worst]
    caught = rows.attack[text] & (rows.role[text] == role) & (sigmoid(full[worst]) >= suspicious)
    worst, text = worst[caught], text[caught]
    if not len(worst):
        return 0.0
    weights = stats.equal_source_weights(rows.source[text], rows.attack[text])
    scores = np.asarray(sigmoid(early[worst]), np.float64)
    harmless = -stats.threshold_at(-scores, weights, LOST)
    return min(harmless, SETTLED_AT_MOST, suspicious)


def _worst_windows(task: Task, logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The window of the highest logit of each text."""
    example = task.sequences.example
    order = np.lexsort((logits, example))
    last = np.append(np.diff(example[order]) > 0, True)
    return np.asarray(order[last])


def _mixture(task: Task, seen: NDArray[np.float64], role: int) -> tuple[NDArray[np.float64], float]:
    """How much the head and the n-grams count, and the offset, for probabilities."""
    worst = _worst_windows(task, seen[:, :, role].sum(axis=1))
    rows, text = task.rows, task.sequences.example[worst]
    mine = (rows.role[text] == ROLES[role]) & ~rows.composed[text]
    worst, text = worst[mine], text[mine]
    weights = stats.equal_source_weights(rows.source[text], rows.attack[text])
    return platt(seen[worst, :, role], rows.attack[text], weights)


def judge(
    member: HeadMember, sequences: Sequences, chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Logits of the chosen windows, `(windows, roles)`."""
    logits = [
        member.logits(sequences.x[sequences.start[w] : sequences.end[w]].astype(np.float32))[0]
        for w in chosen
    ]
    return np.array(logits, dtype=np.float64).reshape(-1, len(ROLES))


def _thresholds(rows: Rows, logits: NDArray[np.float64]) -> dict[Role, Thresholds]:
    return {role: _of_role(rows, role, logits[:, column]) for column, role in enumerate(ROLES)}


def _of_role(rows: Rows, role: Role, logits: NDArray[np.float64]) -> Thresholds:
    """Scores that the shares of `RATES` of normal texts exceed.

    Every kind of text counts the same, and in it every source: most collections
    hold ordinary requests, and a threshold is needed for those that are not. But no
    text counts so much that fewer than `_DECIDING` could set a threshold.
    """
    normal = (rows.role == role) & ~rows.composed & ~rows.attack
    weights = stats.equal_kind_weights(rows.kind[normal], rows.source[normal])
    scores = np.asarray(sigmoid(logits[normal]), np.float64)
    suspicious, dangerous = (
        stats.threshold_at(scores, stats.capped(weights, rate / _DECIDING), rate)
        for rate in RATES[role]
    )
    return Thresholds(suspicious, dangerous)


def groups_of(rows: Rows, count: int) -> list[list[str]]:
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
