"""Moving scales between layers changes what int8 rounds, not what is computed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alknet_firewall.model.smoothing import largest_seen, smoothed
from alknet_firewall.model.weights import SMOOTHING

HIDDEN, INNER = 6, 10
SHAPES = {
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
    **{f"self_attn.{part}_proj": (4, HIDDEN) for part in "qkv"},
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        f"model.layers.0.{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def computed(weights: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """What a block does with one normed row, attention's mixing of tokens left out."""
    w = {name: weights[f"model.layers.0.{name}.weight"].astype(np.float64) for name in SHAPES}
    attention = [w[f"self_attn.{part}_proj"] @ (x * w["input_layernorm"]) for part in "qkv"]
    inner = x * w["post_attention_layernorm"]
    gate = w["mlp.gate_proj"] @ inner
    return [
        *attention,
        w["mlp.down_proj"] @ (gate / (1 + np.exp(-gate)) * (w["mlp.up_proj"] @ inner)),
    ]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_function_stays_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, x = tensors(rng), rng.standard_normal(HIDDEN)
    sizes = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN, "mlp.up_proj": INNER}
    seen = {f"0.{n}": np.exp(rng.normal(0, 2, k)).astype(np.float32) for n, k in sizes.items()}
    for before, after in zip(
        computed(weights, x), computed(dict(smoothed(weights, seen)), x), strict=True
    ):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_the_order_in_which_a_file_is_read_does_not_matter() -> None:
    weights = tensors(np.random.default_rng(0))
    sizes = {"post_attention_layernorm": HIDDEN, "mlp.up_proj": INNER}
    seen = {f"0.{n}": np.arange(1, k + 1, dtype=np.float32) for n, k in sizes.items()}
    one, other = smoothed(weights, seen), smoothed(weights, dict(reversed(seen.items())))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_a_column_that_was_never_seen_is_no_reason_to_divide_by_nothing() -> None:
    weights = tensors(np.random.default_rng(0))
    changed = smoothed(weights, {"0.input_layernorm": np.zeros(HIDDEN, np.float32)})
    assert all(np.isfinite(array).all() for array in changed.values())


def test_layers_that_are_not_there_are_passed_over() -> None:
    weights = tensors(np.random.default_rng(0))
    assert dict(smoothed(weights, {"7.mlp.up_proj": np.ones(INNER, np.float32)})) == weights


def test_the_packaged_magnitudes_cover_every_layer_that_a_codebook_may_read() -> None:
    seen = largest_seen(SMOOTHING)
    assert {key.partition(".")[0] for key in seen} == {str(layer) for layer in range(8)}
    assert all((magnitude > 0).any() for magnitude in seen.values())
