"""Both engines on the same weights: the same tokens, states and alarms."""

from typing import Any

import pytest

from alknet_firewall.alarm import Alarm
from alknet_firewall.codebook import Codebook
from alknet_firewall.config import Precision
from alknet_firewall.firewall import Firewall
from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.huggingface import HFDetectorModel
from alknet_firewall.model.protocol import DetectorModel, ModelIdentity
from alknet_firewall.model.weights import PreparedWeights

from .conftest import LAYERS
from .levels import LEVEL_TEXTS
from .numbers import cosines, relative_errors
from .texts import TEXTS

pytestmark = pytest.mark.torch


@pytest.fixture(scope="session")
def reference(prepared: PreparedWeights) -> HFDetectorModel:
    """The dequantised weights, cut after 8 blocks, on torch."""
    pytest.importorskip("torch", reason="needs the torch extra")
    return HFDetectorModel(str(prepared.folder), extraction_layers=LAYERS)


def test_token_ids_and_offsets_are_equal(reference: HFDetectorModel, int8: EmbeddedModel) -> None:
    assert reference.bos_id == int8.bos_id
    for text in TEXTS:
        ours, theirs = int8.encode(text), reference.encode(text)
        assert list(ours.ids) == list(theirs.ids)
        assert list(ours.offsets) == list(theirs.offsets)


def test_fp32_is_the_reference(reference: HFDetectorModel, fp32: EmbeddedModel) -> None:
    errors = relative_errors(reference, fp32, TEXTS)
    print("largest relative error:", _per_layer({n: e.max() for n, e in errors.items()}))
    for layer, values in errors.items():
        assert values.max() <= 1e-3, f"layer {layer}"


def test_int8_points_where_the_reference_points(
    reference: HFDetectorModel, int8: EmbeddedModel
) -> None:
    found = cosines(reference, int8, TEXTS)
    print("mean cosine:", _per_layer({n: c.mean() for n, c in found.items()}))
    print("least cosine:", _per_layer({n: c.min() for n, c in found.items()}))
    for layer, values in found.items():
        assert values.mean() >= 0.98, f"layer {layer}"


def _per_layer(numbers: dict[int, float]) -> str:
    return ", ".join(f"{layer}: {number:.6g}" for layer, number in numbers.items())


class _Bound:
    """A model that says it is the one the codebook was compiled for."""

    def __init__(self, model: DetectorModel, identity: ModelIdentity) -> None:
        self._model = model
        self.identity = identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_alarm_levels_are_those_of_the_reference(
    reference_alarms: list[Alarm], precision: Precision
) -> None:
    codebook = Codebook.bundled()
    alarms = _alarms(EmbeddedModel(codebook.reads, precision=precision, threads=1), codebook)
    pairs = list(zip(alarms, reference_alarms, strict=True))
    equal = sum(ours.level == theirs.level for ours, theirs in pairs)
    apart = [abs(ours.score - theirs.score) for ours, theirs in pairs]
    mean = sum(apart) / len(apart)
    print(f"{precision}: {equal} of {len(pairs)} levels equal, scores {mean:.3g} apart on average")
    assert equal >= 0.99 * len(pairs)


@pytest.fixture(scope="session")
def reference_alarms(prepared: PreparedWeights) -> list[Alarm]:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    torch.set_num_threads(1)  # more of them wait for each other on short texts
    codebook = Codebook.bundled()
    model = HFDetectorModel(str(prepared.folder), extraction_layers=codebook.reads)
    alarms = _alarms(model, codebook)
    assert len({alarm.level for alarm in alarms}) > 1, "these texts compare nothing"
    return alarms


def _alarms(model: DetectorModel, codebook: Codebook) -> list[Alarm]:
    bound: Any = _Bound(model, codebook.identity)
    firewall = Firewall(model=bound, codebook=codebook)
    return firewall.screen_many(LEVEL_TEXTS)
