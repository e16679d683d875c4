import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.codebook.projection import pool_blocks, project, roll

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 40))
def test_projection_is_the_formula(seed: int, tokens: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((tokens, 2, 24)).astype(np.float32)
    basis = rng.standard_normal((2, 5, 24)).astype(np.float32)
    mean = rng.standard_normal((2, 24)).astype(np.float32)
    expected = np.einsum("ldh,tlh->tld", basis.astype(np.float64), states.astype(np.float64) - mean)
    np.testing.assert_allclose(project(states, basis, mean), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(project(states[0], basis, mean), expected[0], rtol=1e-4, atol=1e-4)


@given(seeds, st.integers(1, 100), st.integers(1, 20), st.integers(1, 6))
def test_rolling_means_are_means_over_tokens(
    seed: int, tokens: int, block: int, length: int
) -> None:
    z = np.random.default_rng(seed).standard_normal((tokens, 2, 3)).astype(np.float32)
    blocks, sizes = pool_blocks(z, block)
    means = roll(blocks, sizes, length)
    run = min(length, len(blocks))
    assert len(means) == len(blocks) - run + 1
    for index, mean in enumerate(means):
        expected = z[index * block : (index + run) * block].mean(axis=0)
        np.testing.assert_allclose(mean, expected, atol=1e-5)
