import numpy as np

from alknet_firewall.codebook.classifiers import sigmoid
from alknet_firewall.training.heads import HeadOptions, fit_classifier, platt

QUICK = HeadOptions(members=2, units=8, epochs=60, batch=64, dropout=0.0, learning_rate=0.02)


def test_it_learns_what_a_linear_classifier_cannot() -> None:
    rng = np.random.default_rng(0)
    features = rng.choice([-1.0, 1.0], (400, 2)).astype(np.float32)
    labels = (features.prod(axis=1) > 0).astype(np.float32)
    classifier = fit_classifier(features, labels, np.ones(400), QUICK, seed=0)
    assert ((classifier.logits(features) > 0) == (labels > 0)).mean() > 0.95


def test_rows_without_weight_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 3)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.float32)
    labels[200:] = 1 - labels[200:]
    weights = np.where(np.arange(300) < 200, 1.0, 0.0)
    logits = fit_classifier(features, labels, weights, QUICK, seed=0).logits(features[:200])
    assert ((logits > 0) == (labels[:200] > 0)).mean() > 0.9


def test_fitting_is_deterministic_by_seed() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((100, 3)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.float32)
    one, two, other = (
        fit_classifier(features, labels, np.ones(100), QUICK, seed=seed).logits(features)
        for seed in (1, 1, 2)
    )
    assert (one == two).all()
    assert (one != other).any()


def test_platt_recovers_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    labels = rng.random(20_000) < sigmoid(0.5 * logits + 0.2)
    slope, offset = platt(logits, labels)
    assert abs(slope - 0.5) < 0.05
    assert abs(offset) < 0.4


def test_a_perfect_separation_does_not_saturate() -> None:
    logits = np.array([-9.0, -8.0, 8.0, 9.0])
    slope, offset = platt(logits, logits > 0)
    scores = sigmoid(slope * logits + offset)
    assert scores.max() < 1
    assert scores.min() > 0
