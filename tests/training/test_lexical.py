"""Weights of n-grams: they tell apart what they were fitted to, and only that role."""

import numpy as np

from alknet_firewall.codebook.lexical import BUCKETS, Wording
from alknet_firewall.training.lexical import fit_lexical, lexical_logits, read_buckets

TEXTS = [
    Wording([1, 2, 3], "the one"),
    Wording([4, 5, 6, 3], "that only"),
    Wording([7, 5, 8], "a"),
    Wording([9, 5, 10, 3, 11], ""),
]


def test_it_tells_apart_what_it_was_fitted_to() -> None:
    x = read_buckets(TEXTS)
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    table = fit_lexical(x, labels, np.full((4, 2), 0.25))
    logits = lexical_logits(table, x)
    assert (logits[:2, 0].min(), logits[2:, 1].min()) > (logits[2:, 0].max(), logits[:2, 1].max())
    np.testing.assert_allclose(table.logits(TEXTS[0]), logits[0], atol=1e-4)


def test_there_is_a_row_for_each_wording_and_both_kinds_count_the_same() -> None:
    x = read_buckets(TEXTS[:2])
    assert x.shape == (2, 2 * BUCKETS)
    for kind in (x[:, :BUCKETS], x[:, BUCKETS:]):
        np.testing.assert_allclose(kind.power(2).sum(axis=1), 1, atol=1e-5)
