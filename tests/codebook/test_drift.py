import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest, wasserstein_distance

from alknet_firewall.codebook import Codebook
from alknet_firewall.codebook.detection import Region
from alknet_firewall.codebook.drift import drift, drift_table

LAYERS = (2, 4, 6)


@pytest.fixture(scope="module")
def region() -> Region:
    return Codebook.bundled().regions["tool"]


def normal_places(region: Region, count: int, seed: int) -> NDArray[np.float32]:
    """Places drawn from the very distributions that the splines describe."""
    shape = region.profile.centroids.shape
    p = np.random.default_rng(seed).uniform(1e-9, 1 - 1e-9, (count, shape[0] * shape[1]))
    return region.splines.inverse(p).reshape(count, *shape).astype(np.float32)


def test_normal_text_has_not_drifted(region: Region) -> None:
    found = drift(normal_places(region, 400, 0), 400, region, LAYERS)
    assert found.beyond_chance == 0
    assert found.mean_ks < 0.06
    assert found.tail_share == pytest.approx(0.01, abs=0.003)
    assert len(found.directions) == region.profile.centroids.size


def test_the_direction_that_moved_comes_first(region: Region) -> None:
    z = normal_places(region, 400, 1)
    z[:, 1, 7] += 2 * region.profile.scale[1, 7]
    z[:, 2, 3] -= region.profile.scale[2, 3]
    found = drift(z, 400, region, LAYERS)
    first, second = found.directions[:2]
    assert (first.layer, first.dimension) == (4, 7)
    assert (second.layer, second.dimension) == (6, 3)
    assert first.shift > 1 > 0 > second.shift
    assert found.beyond_chance == 2
    assert "    4         7" in drift_table(found)


def test_few_texts_show_less_than_many(region: Region) -> None:
    z = normal_places(region, 100, 2)
    few, many = drift(z, 20, region, LAYERS), drift(z, 100, region, LAYERS)
    assert few.chance > many.chance
    assert few.directions == many.directions


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000), st.floats(-2, 2))
def test_distances_are_bounded_and_agree_with_the_definition(
    region: Region, count: int, seed: int, move: float
) -> None:
    z = normal_places(region, count, seed) + np.float32(move)
    found = drift(z, count, region, LAYERS)
    grid = (np.arange(20_000) + 0.5) / 20_000
    values = region.splines.cdf(z.reshape(count, -1).astype(np.float64))
    width = region.profile.centroids.shape[1]
    for direction in found.directions[:3]:
        assert 0 < direction.ks <= 1
        assert 0 < direction.wasserstein <= 0.5
        column = values[:, LAYERS.index(direction.layer) * width + direction.dimension]
        expected = wasserstein_distance(column, grid)
        assert direction.wasserstein == pytest.approx(expected, abs=1e-3)
        assert direction.ks == pytest.approx(kstest(column, "uniform").statistic, abs=1e-9)
    ordered = [direction.ks for direction in found.directions]
    assert ordered == sorted(ordered, reverse=True)
