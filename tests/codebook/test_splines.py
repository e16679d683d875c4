import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from alknet_firewall.codebook.splines import SplineTable, fit_splines, strictly_increasing

Array = NDArray[np.float64]

finite = st.floats(-1e6, 1e6)
populations = st.builds(
    lambda seed, scale, shift, power: (
        np.sign(x := np.random.default_rng(seed).standard_normal((400, 3)))
        * np.abs(x) ** power
        * scale
        + shift
    ),
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
    st.floats(0.2, 3),
)


def table_of(samples: Array) -> SplineTable:
    return fit_splines(samples)


@given(populations, st.lists(finite, min_size=2, max_size=50))
def test_the_cdf_is_monotone_and_stays_in_the_unit_interval(
    samples: Array, points: list[float]
) -> None:
    x = np.repeat(np.sort(points)[:, None], 3, axis=1)
    cdf = table_of(samples).cdf(x)
    assert ((cdf >= 0) & (cdf <= 1)).all()
    assert (np.diff(cdf, axis=0) >= -1e-12).all()


@given(populations)
def test_the_cdf_is_continuous_at_the_knots_and_where_the_tails_begin(samples: Array) -> None:
    table = table_of(samples)
    for knot, value in zip(table.knots.T, table.values.T, strict=True):
        # As small as float64 allows: where the density has a pole the CDF is steep.
        width = 1e-12 * np.ptp(table.knots, axis=1)
        for x in (knot - width, knot, knot + width):
            np.testing.assert_allclose(table.cdf(x), value, atol=1e-6)


@given(populations, st.floats(1e-9, 1 - 1e-9))
def test_the_inverse_round_trips(samples: Array, p: float) -> None:
    table = table_of(samples)
    np.testing.assert_allclose(table.cdf(table.inverse(np.full(3, p))), p, rtol=1e-6, atol=1e-9)


@given(populations)
@settings(max_examples=20)
def test_between_the_knots_it_is_scipys_pchip(samples: Array) -> None:
    table = table_of(samples)
    x = np.linspace(table.knots[:, 0], table.knots[:, -1], 101)
    reference = np.stack(
        [
            PchipInterpolator(k, v)(c)
            for k, v, c in zip(table.knots, table.values, x.T, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(table.cdf(x), reference, atol=1e-9)


@given(populations, st.lists(finite, min_size=1, max_size=20))
def test_the_tail_probability_is_two_sided(samples: Array, points: list[float]) -> None:
    table = table_of(samples)
    x = np.repeat(np.array(points)[:, None], 3, axis=1)
    cdf = table.cdf(x)
    np.testing.assert_allclose(
        table.tail_probability(x)[0], 2 * np.minimum(cdf, 1 - cdf), rtol=1e-6, atol=1e-12
    )


def test_the_far_upper_tail_keeps_its_precision() -> None:
    table = table_of(np.random.default_rng(0).standard_normal((1000, 1)))
    far, upper = table.tail_probability(np.array([[20.0], [30.0]]))
    assert upper.all()
    assert 0 < far[1, 0] < far[0, 0] < 1e-9


def test_it_describes_the_population_it_was_fitted_to() -> None:
    samples = np.random.default_rng(1).gamma(2, size=(20_000, 1))
    cdf = table_of(samples).cdf(np.quantile(samples, [0.1, 0.5, 0.9])[:, None])
    np.testing.assert_allclose(cdf[:, 0], [0.1, 0.5, 0.9], atol=0.01)


def test_fitting_is_deterministic() -> None:
    samples = np.random.default_rng(2).standard_normal((100, 4))
    first, second = table_of(samples), table_of(samples)
    assert (first.knots == second.knots).all()
    assert (first.slopes == second.slopes).all()


def test_a_constant_dimension_is_fitted_too() -> None:
    table = table_of(np.ones((50, 2)))
    assert np.isfinite(table.cdf(np.array([[0.0, 1.0], [1.0, 2.0]]))).all()


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=16))
def test_tied_knots_are_pushed_apart(values: list[int]) -> None:
    assert (np.diff(strictly_increasing(np.sort(np.array(values, dtype=float)))) > 0).all()


@pytest.mark.parametrize("samples", [np.ones((3, 2)), np.full((100, 2), np.nan)])
def test_too_little_or_broken_data_is_refused(samples: Array) -> None:
    with pytest.raises(ValueError, match="finite"):
        table_of(samples)
