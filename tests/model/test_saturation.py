from importlib import resources

import numpy as np
import pytest

from alknet_firewall import EmbeddedModel
from alknet_firewall.model import embedded, saturation
from alknet_firewall.model.protocol import Activations

IDS = [1, *range(1000, 1070)]
LAYERS = (1, 2)


def states(monkeypatch: pytest.MonkeyPatch, *, saturates: bool) -> Activations:
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "products_saturate", lambda: saturates)
        return EmbeddedModel(LAYERS, threads=1).infer(IDS)


@pytest.mark.skipif(saturation.products_saturate(), reason="signed weights are wrong here")
def test_unsigned_weights_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    signed, ours = (states(monkeypatch, saturates=saturates) for saturates in (False, True))
    for layer in LAYERS:
        np.testing.assert_allclose(ours[layer], signed[layer], rtol=1e-5, atol=1e-5)


def test_unsigned_weights_are_near_what_floats_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = states(monkeypatch, saturates=True)
    exact = EmbeddedModel(LAYERS, precision="fp32", threads=1).infer(IDS)
    for layer in LAYERS:
        a, b = ours[layer][1:], exact[layer][1:]
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.mean() > 0.99


def test_the_kept_probe_is_what_makes_it() -> None:
    kept = resources.files("alknet_firewall.model").joinpath(saturation.PROBE).read_bytes()
    assert kept == saturation.probe()


def test_this_processor_is_probed() -> None:
    assert saturation.products_saturate() in (True, False)
