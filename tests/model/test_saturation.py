from importlib import resources

import numpy as np
import pytest

from alknet_firewall import EmbeddedModel
from alknet_firewall.model import embedded, saturation

IDS = [1, *range(1000, 1070)]


def test_unsigned_weights_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "products_saturate", lambda: False)
        signed = EmbeddedModel(layers, threads=1).infer(IDS)
        patched.setattr(embedded, "products_saturate", lambda: True)
        ours = EmbeddedModel(layers, threads=1).infer(IDS)
    for layer in layers:
        np.testing.assert_allclose(ours[layer], signed[layer], rtol=1e-5, atol=1e-5)


def test_the_kept_probe_is_what_makes_it() -> None:
    kept = resources.files("alknet_firewall.model").joinpath(saturation.PROBE).read_bytes()
    assert kept == saturation.probe()


def test_this_processor_is_probed() -> None:
    assert saturation.products_saturate() in (True, False)
