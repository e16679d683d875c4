"""N-grams of tokens: which buckets they fall into, and what they add up to."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.codebook.lexical import BUCKETS, LexicalTable, buckets

tokens = st.lists(st.integers(0, 50_000), max_size=40)


@given(tokens)
def test_buckets_are_in_range_in_order_and_at_most_one_for_each_n_gram(ids: list[int]) -> None:
    found = buckets(ids)
    assert (np.diff(found) > 0).all()
    assert ((found >= 0) & (found < BUCKETS)).all()
    singles, pairs = set(ids), set(pairwise(ids))
    triples = set(zip(ids, ids[1:], ids[2:], strict=False))
    assert len(found) <= len(singles) + len(pairs) + len(triples)


@given(tokens, tokens)
def test_a_part_has_buckets_that_the_whole_has(first: list[int], second: list[int]) -> None:
    assert set(buckets(first)) <= set(buckets(first + second))


def test_order_matters() -> None:
    assert set(buckets([1, 2])) != set(buckets([2, 1]))


def test_a_text_without_tokens_adds_nothing() -> None:
    table = LexicalTable(np.ones((BUCKETS, 2), np.float32))
    assert table.logits([]).tolist() == [0, 0]
    assert table.logits([7]).tolist() == [1, 1]
