"""Reading the residual stream of a torch transformer, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["hidden_states"]


class _Reached(Exception):
    """Leaves the forward pass when the last wanted layer is known."""


def hidden_states(
    model: Any, blocks: Any, input_ids: Sequence[int], layers: Sequence[int]
) -> dict[int, Any]:
    """Float32 arrays (tokens, hidden) of the residual stream at `layers`.

    They are taken from the blocks, not from `output_hidden_states`: there the
    last entry has gone through the final norm.
    """
    import torch

    states: dict[int, Any] = {}
    ids = torch.tensor([list(input_ids)], dtype=torch.long, device=model.device)
    with torch.inference_mode(), _watching(blocks, layers, states), suppress(_Reached):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return {layer: state[0].float().cpu().numpy() for layer, state in states.items()}


@contextmanager
def _watching(blocks: Any, layers: Sequence[int], states: dict[int, Any]) -> Iterator[None]:
    """Collect the stream into `states`, and stop at the last layer."""

    def keep(layer: int, value: Any) -> None:
        stream = value[0] if isinstance(value, tuple) else value
        states[layer] = stream.clone()  # the next block may add to it in place
        if layer == layers[-1]:
            raise _Reached

    handles = [_hook(blocks, layer, keep) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(blocks: Any, layer: int, keep: Callable[[int, Any], None]) -> Any:
    """Layer 0 goes into the first block; layer n comes out of the n-th."""
    if layer == 0:
        return blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: keep(0, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    return blocks[layer - 1].register_forward_hook(lambda _, __, output: keep(layer, output))
