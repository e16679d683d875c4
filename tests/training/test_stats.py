import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.training import stats

labelled = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


@given(labelled)
def test_auc_counts_ordered_pairs_and_ties_half(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], dtype=float)
    labels = np.array([label for _, label in rows])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert stats.auc(scores, labels, np.ones(len(rows))) == pytest.approx(np.mean(pairs))


def test_auc_needs_both_classes() -> None:
    assert np.isnan(stats.auc(np.ones(3), np.ones(3, dtype=bool), np.ones(3)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.floats(0.001, 0.5))
def test_at_most_the_budget_lies_above_the_threshold(values: list[float], rate: float) -> None:
    scores, weights = np.array(values), np.full(len(values), 1 / len(values))
    threshold = stats.threshold_at(scores, weights, rate)
    assert stats.weighted_share_above(scores, weights, threshold) <= rate


def test_every_source_counts_the_same() -> None:
    sources = np.array(["a"] * 90 + ["b"] * 10 + ["c"] * 5)
    labels = np.array([False] * 100 + [True] * 5)
    weights = stats.equal_source_weights(sources, labels)
    assert weights[:90].sum() == pytest.approx(0.5)
    assert weights[90:100].sum() == pytest.approx(0.5)
    assert weights[100:].sum() == pytest.approx(1)


def test_effect_sizes_of_known_populations() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(2, 1, (5000, 1)), rng.normal(0, 1, (5000, 1))
    assert stats.cohen_d(a, b)[0] == pytest.approx(2, abs=0.1)
    assert stats.pooled_std(a, b)[0] == pytest.approx(1, abs=0.05)
    assert stats.silhouette(a, b)[0] > 0.4
    assert abs(stats.silhouette(b, rng.normal(0, 1, (5000, 1)))[0]) < 0.1


def test_kinds_count_the_same_and_sources_within_a_kind() -> None:
    kinds = np.array(["chat", "chat", "chat", "code"])
    sources = np.array(["a", "a", "b", "a"])
    assert stats.equal_kind_weights(kinds, sources).tolist() == [0.125, 0.125, 0.25, 0.5]


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30).map(np.array), st.floats(1e-3, 1.0))
def test_no_weight_is_above_the_cap_and_the_rest_keep_their_proportions(
    weights: np.ndarray, most: float
) -> None:
    found = stats.capped(weights, most)
    assert found.sum() == pytest.approx(1)
    assert found.max() <= max(most, 1 / len(weights)) * (1 + 1e-9)
    free = found < found.max() * (1 - 1e-9)
    ratios = found[free] / weights[free]
    np.testing.assert_allclose(ratios, ratios[:1].repeat(len(ratios)))


def test_one_text_of_a_rare_kind_does_not_set_a_threshold() -> None:
    scores = np.append(np.linspace(0, 0.5, 1000), 0.9)
    weights = np.append(np.full(1000, 0.0005), 0.5)
    assert stats.threshold_at(scores, weights, 0.02) >= 0.9
    assert stats.threshold_at(scores, stats.capped(weights, 0.002), 0.02) < 0.5
