from dataclasses import replace

import numpy as np
import pytest

from alknet_firewall.codebook import Codebook
from alknet_firewall.codebook.detection import EarlyExit, Region, WindowShape
from alknet_firewall.codebook.head import HeadMember, SequenceHead, stacked
from alknet_firewall.codebook.lexical import BUCKETS, LexicalTable
from alknet_firewall.codebook.profiles import DirectionProfile
from alknet_firewall.codebook.splines import fit_splines
from alknet_firewall.codebook.surprisal import Surprisal
from alknet_firewall.config import Thresholds
from alknet_firewall.model.protocol import ModelIdentity
from alknet_firewall.training.heads import HeadOptions, initial

LAYERS, DIMENSIONS, HIDDEN, UNITS = 2, 3, 8, 4


def make_region(rng: np.random.Generator) -> Region:
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    shape = (LAYERS, DIMENSIONS)
    return Region(
        profile=DirectionProfile(
            normal(*shape),
            np.abs(normal(*shape)) + 0.5,
            normal(*shape),
            normal(*shape),
            normal(*shape),
        ),
        splines=fit_splines(rng.standard_normal((200, LAYERS * DIMENSIONS))),
        anomaly_limit=100.0,
    )


def make_surprisal(rng: np.random.Generator, rank: int = 2) -> Surprisal:
    """Nothing reaches its limit."""
    shapes = ((HIDDEN, rank), (rank,), (HIDDEN, rank), (rank,), (1,), (1,), (2,), (2,))
    arrays = ((rng.standard_normal(shape) / 3).astype(np.float32) for shape in shapes)
    return replace(Surprisal(*arrays), limit=np.full(2, 100, np.float32))


def make_head(rng: np.random.Generator, inputs: int = LAYERS * DIMENSIONS) -> SequenceHead:
    options = HeadOptions(units=UNITS, queries=2, hidden=3)
    members = [HeadMember(**initial(rng, inputs, options)) for _ in range(2)]
    scale = np.abs(rng.standard_normal(inputs)).astype(np.float32) + 0.5
    return SequenceHead(scale, stacked(members), words=np.array([1, 0.5], np.float32))


@pytest.fixture
def codebook() -> Codebook:
    """A small made-up codebook: two layers, three directions, eight hidden dimensions."""
    rng = np.random.default_rng(0)
    return Codebook(
        identity=ModelIdentity("some/model", "main", "ab" * 32, "embedded-int8"),
        layers=(1, 3),
        windows=WindowShape(tokens=32, overlap=8, block=4, run=2),
        basis=rng.standard_normal((LAYERS, DIMENSIONS, HIDDEN)).astype(np.float32),
        mean=rng.standard_normal((LAYERS, HIDDEN)).astype(np.float32),
        surprisal=make_surprisal(np.random.default_rng(1)),
        head=make_head(rng),
        early=EarlyExit(make_head(rng, DIMENSIONS), {"user": 0.3, "tool": 0.2}),
        lexical=LexicalTable(rng.standard_normal((2 * BUCKETS, 2)).astype(np.float32)),
        regions={"user": make_region(rng), "tool": make_region(rng)},
        thresholds={"user": Thresholds(0.5, 0.9), "tool": Thresholds(0.4, 0.8)},
        provenance={"files": []},
    )
