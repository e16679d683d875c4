"""Both engines on the same weights: the same tokens, the same states."""

import pytest

from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.huggingface import HFDetectorModel
from alknet_firewall.model.weights import PreparedWeights

from .conftest import LAYERS
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
