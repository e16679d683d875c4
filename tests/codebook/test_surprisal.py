from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.codebook.surprisal import Surprisal, peak, surprise_along

from .conftest import HIDDEN, make_surprisal


def states(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, HIDDEN)).astype(np.float32)


def test_a_token_is_judged_by_the_state_before_it_and_its_own_embedding() -> None:
    surprisal = make_surprisal(np.random.default_rng(1))
    before, embedded = states(9), states(9, 1)
    whole = surprisal.of_tokens(embedded, before)
    pair = surprisal.of_pairs(before[3:4], embedded[4:5])
    assert whole[4] == pytest.approx(float(pair[0] - surprisal.typical[0]), abs=1e-5)
    later = before.copy()
    later[4:] += 1
    np.testing.assert_allclose(surprisal.of_tokens(embedded, later)[:5], whole[:5], atol=1e-5)


def test_the_first_token_surprises_nobody() -> None:
    surprisal = make_surprisal(np.random.default_rng(1))
    assert surprisal.of_tokens(states(1), states(1)).tolist() == [0.0]
    assert surprisal.of_tokens(states(5), states(5))[0] == 0


@given(st.integers(0, 2**32 - 1), st.floats(0, 1e6))
def test_no_token_can_do_more_than_a_bounded_thing(seed: int, large: float) -> None:
    surprisal: Surprisal = make_surprisal(np.random.default_rng(seed))
    found = surprisal.of_pairs(np.float32(large) * states(7, seed), states(7, seed + 1))
    assert (np.abs(found) <= 4).all()


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40), st.integers(1, 4))
def test_runs_are_means_over_tokens_around_each_block(means: list[float], last: int) -> None:
    values, sizes = np.array(means, np.float32), np.array([4] * (len(means) - 1) + [last])
    found = surprise_along(values, sizes)
    tokens, ends = np.repeat(values, sizes), np.cumsum([0, *sizes])
    for block in range(len(means)):
        first, end = max(block - 4, 0), min(block + 4, len(means))
        assert found[block] == pytest.approx(tokens[ends[first] : ends[end]].mean(), abs=1e-4)


def test_less_than_a_run_has_no_peak() -> None:
    assert peak(np.arange(8, dtype=np.float32)) == 7
    assert peak(np.arange(7, dtype=np.float32)) == -np.inf


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=5))
def test_only_what_is_above_the_limit_counts(peaks: list[float]) -> None:
    made = make_surprisal(np.random.default_rng(0))
    limits, slopes = np.array([1, 2], np.float32), np.array([3, 0], np.float32)
    surprisal = replace(made, limit=limits, slope=slopes)
    found = surprisal.log_odds(np.array([*peaks, -np.inf], np.float32))
    expected = [[3 * max(0, peak - 1), 0] for peak in [*peaks, -np.inf]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
