from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from alknet_firewall import EmbeddedModel
from alknet_firewall.codebook.head import ROLES
from alknet_firewall.codebook.surprisal import Surprisal
from alknet_firewall.training.data_loader import Example
from alknet_firewall.training.sequences import Rows, Sequences
from alknet_firewall.training.surprisal import (
    SLOPES,
    SurprisalOptions,
    fit_surprisal,
    gradients,
    limited,
)

QUICK = SurprisalOptions(steps=200, batch=256, rank=16, whitened=64)
ORDINARY = (
    "The ferry to the island leaves at {n} and comes back in the evening.",
    "Could you tell me how long {n} eggs have to boil until they are hard?",
    "We met {n} times last year to talk about the new garden behind the school.",
    "Write a short letter to my landlord about the {n} windows that do not close.",
)


def examples() -> list[Example]:
    texts = [text.format(n=n) for text in ORDINARY for n in range(2, 42)]
    return [
        Example(text, "benign", "benign_instruction", "user", f"source {number % 4}")
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel((0, 2))


@pytest.fixture(scope="module")
def fitted(model: EmbeddedModel) -> Surprisal:
    return fit_surprisal(model, examples(), QUICK, seed=0)


def mean(model: EmbeddedModel, surprisal: Surprisal, ids: Sequence[int]) -> float:
    found = model.infer([model.bos_id, *ids])
    return float(surprisal.of_tokens(found[0][1:], found[2][1:])[1:].mean())


def test_a_sentence_surprises_less_than_its_words_shuffled(
    model: EmbeddedModel, fitted: Surprisal
) -> None:
    ids = list(model.encode("Could you tell me how long the ferry takes to the island?").ids)
    shuffled = list(np.random.default_rng(0).permutation(ids))
    assert mean(model, fitted, ids) + 1 < mean(model, fitted, list(map(int, shuffled)))


def test_normal_text_has_none_on_average(model: EmbeddedModel, fitted: Surprisal) -> None:
    known = [mean(model, fitted, model.encode(e.text).ids) for e in examples()[::10]]
    assert abs(np.mean(known)) < 0.5


def test_the_same_texts_and_seed_give_the_same_numbers(
    model: EmbeddedModel, fitted: Surprisal
) -> None:
    again = fit_surprisal(model, examples(), QUICK, seed=0)
    np.testing.assert_array_equal(again.before_weight, fitted.before_weight)
    np.testing.assert_array_equal(again.typical, fitted.typical)


def test_attacks_composed_and_standalone_texts_are_not_read(
    model: EmbeddedModel, fitted: Surprisal
) -> None:
    attack = Example("describing.\\ + similarlyNow", "attack", "jailbreak", "user", "source 0")
    made = Example("A made text.", "benign", "benign_chat", "user", "(made)", composed=True)
    alone = replace(made, composed=False, standalone=True)
    again = fit_surprisal(model, [*examples(), attack, made, alone], QUICK, seed=0)
    np.testing.assert_array_equal(again.token_weight, fitted.token_weight)


def loss(z: np.ndarray, e: np.ndarray, parameters: Sequence[np.ndarray]) -> float:
    a, b, offset = (p.astype(np.float64) for p in parameters)
    logits = (z @ a) @ (e @ b).T + offset
    own, count = np.diag(logits), len(z)
    noise = np.logaddexp(0, logits).sum() - np.logaddexp(0, own).sum()
    return float(np.logaddexp(0, -own).mean() + noise / (count * (count - 1)))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_are_those_of_finite_differences(which: int) -> None:
    rng = np.random.default_rng(3)
    z, e = (rng.standard_normal((12, size)).astype(np.float32) for size in (5, 4))
    parameters = [rng.standard_normal(shape).astype(np.float32) for shape in ((5, 3), (4, 3), (1,))]
    gradient = gradients(z, e, parameters)[which]
    for index in np.ndindex(*parameters[which].shape):
        moved = [p.astype(np.float64) for p in parameters]
        losses = []
        for step in (1e-4, -2e-4):
            moved[which][index] += step
            losses.append(loss(z, e, moved))
        assert gradient[index] == pytest.approx((losses[0] - losses[1]) / 2e-4, abs=1e-4)


@pytest.mark.parametrize("longest", [-np.inf, 1.5])
def test_the_limit_is_what_few_normal_texts_exceed_and_always_finite(longest: float) -> None:
    count = 200
    examples = [
        Example(f"text {n}", "benign", "benign_chat", role, f"source {n % 2}")
        for role in ROLES
        for n in range(count)
    ]
    texts = np.arange(len(examples))
    sequences = Sequences(
        x=np.zeros((0, 1), np.float16),
        tokens=np.ones(len(texts), np.int32),
        injected=np.zeros(len(texts), np.int32),
        start=texts,
        end=texts + 1,
        example=texts.astype(np.int32),
        part=np.zeros(len(texts), dtype=bool),
        surprisal=np.zeros(len(texts), np.float32),
    )
    peaks = np.full(len(texts), longest, np.float32)
    peaks[: count // 2] -= np.float32(1)
    rng = np.random.default_rng(0)
    none = Surprisal(*(rng.random(2).astype(np.float32) for _ in range(8)))
    found = limited(none, peaks, sequences, Rows.of(examples))
    assert np.isfinite(found.limit).all()
    exceed = found.log_odds(peaks)[:, 0] > 0
    assert exceed.mean() <= 0.01
    assert found.slope.tolist() == [SLOPES[role] for role in ROLES]
