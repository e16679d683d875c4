"""The head as it is trained against the head as it is used, and against mathematics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alknet_firewall.codebook.head import HeadMember, neighbours, sigmoid
from alknet_firewall.training.heads import (
    Adam,
    Batch,
    HeadOptions,
    Parameters,
    initial,
    loss_and_gradients,
    platt,
)

INPUTS = 7
SMALL = HeadOptions(units=6, queries=2, hidden=5, dropout=0.0)


def parameters(seed: int) -> Parameters:
    return initial(np.random.default_rng(seed), INPUTS, SMALL)


def batch(seed: int, lengths: tuple[int, ...] = (9, 5, 3, 1)) -> Batch:
    rng = np.random.default_rng(seed)
    count, longest = len(lengths), max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.float32)
    return Batch(
        x=rng.standard_normal((count, longest, INPUTS)).astype(np.float32) * mask[..., None],
        mask=mask,
        labels=rng.integers(0, 2, (count, 2)).astype(np.float32),
        weights=rng.random((count, 2)).astype(np.float32),
        block_labels=rng.random((count, longest, 2)).astype(np.float32),
        block_weights=rng.random((count, 2)).astype(np.float32),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(parameters(0))))
def test_gradients_are_those_of_finite_differences(seed: int, name: str) -> None:
    weights, windows = parameters(seed), batch(seed)
    gradient = loss_and_gradients(weights, windows, SMALL)[1][name]
    index = tuple(np.random.default_rng(seed).integers(0, gradient.shape))
    step, before = np.float32(1e-2), weights[name][index]
    losses = []
    for moved in (before + step, before - step):
        weights[name][index] = moved
        losses.append(loss_and_gradients(weights, windows, SMALL)[0])
    assert gradient[index] == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_padding_changes_nothing_and_training_sees_what_detection_sees(seed: int) -> None:
    weights, windows = parameters(seed), batch(seed)
    member = HeadMember(**weights)
    logits = [
        member.logits(x[: int(mask.sum())]) for x, mask in zip(windows.x, windows.mask, strict=True)
    ]
    expected = 0.0
    for (window, blocks), row in zip(logits, range(len(logits)), strict=True):
        labels = windows.block_labels[row, : len(blocks)]
        expected += (windows.weights[row] * entropy(window, windows.labels[row])).sum()
        shares = windows.block_weights[row] * SMALL.block_share / len(blocks)
        expected += (shares * entropy(blocks, labels)).sum()
    assert loss_and_gradients(weights, windows, SMALL)[0] == pytest.approx(expected, rel=1e-4)


def entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0, logits) - labels * logits)


def test_it_learns_what_a_mean_cannot() -> None:
    # The same blocks in another order: only a sequence tells them apart.
    options = HeadOptions(units=8, queries=2, hidden=8, dropout=0.0, learning_rate=0.01)
    rng = np.random.default_rng(0)
    weights = initial(rng, 2, options)
    adam = Adam(weights, options, steps=400)
    ones = np.ones((32, 6), np.float32)
    for _ in range(400):
        x, labels = ordered(rng)
        both = np.repeat(labels[:, None], 2, axis=1)
        none = np.zeros((32, 2), np.float32)
        blocks = np.zeros((32, 6, 2), np.float32)
        adam.update(
            loss_and_gradients(weights, Batch(x, ones, both, none + 1 / 64, blocks, none), options)[
                1
            ]
        )
    x, labels = ordered(rng)
    found = [HeadMember(**weights).logits(row)[0][0] > 0 for row in x]
    assert (np.array(found) == (labels > 0)).mean() > 0.9


def ordered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two marked blocks side by side in the one order (an attack) or the other."""
    labels = rng.integers(0, 2, 32)
    x = np.zeros((32, 6, 2), np.float32)
    for row, (label, place) in enumerate(zip(labels, rng.integers(0, 5, 32), strict=True)):
        x[row, place, label], x[row, place + 1, 1 - label] = 3, 3
    return x, labels.astype(np.float32)


def test_neighbours_stand_beside_each_block() -> None:
    h = np.arange(1, 4, dtype=np.float32)[:, None]
    assert neighbours(h).tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 0], [1, 2, 3, 0, 0]]


def test_platt_recovers_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 2))
    labels = rng.random(20_000) < sigmoid(logits @ [0.5, 0.2] + 0.2)
    slopes, offset = platt(logits, labels, np.full(20_000, 1 / 20_000))
    np.testing.assert_allclose(slopes, [0.5, 0.2], atol=0.05)
    assert abs(offset - 0.2) < 0.1


def test_a_perfect_separation_does_not_saturate() -> None:
    logits = np.array([-9.0, -8.0, 8.0, 9.0])
    slopes, offset = platt(logits[:, None], logits > 0, np.full(4, 0.25))
    scores = sigmoid(logits * slopes + offset)
    assert scores.max() < 1
    assert scores.min() > 0


def test_a_detector_that_adds_little_still_counts() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(4000) % 2 == 0
    logits = np.where(labels, 2.0, -2.0)[:, None] + rng.normal(0, [6, 12], (4000, 2))
    slopes, _ = platt(logits, labels, np.full(4000, 1 / 4000))
    assert 2 < slopes[0] / slopes[1] < 8  # 4, by the inverse of the variances
