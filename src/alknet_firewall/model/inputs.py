"""What may be given to a detector model."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ScreeningError

__all__ = ["check_ids"]


def check_ids(input_ids: Sequence[int], vocabulary: int, positions: int | None) -> None:
    """Raise `ScreeningError` unless a model can read these token ids at once.

    Engines differ in what they make of a wrong id: one of them reads -1 as the
    last row of the embedding.
    """
    if not len(input_ids) or (positions and len(input_ids) > positions):
        limit = f"1 to {positions}" if positions else "at least 1"
        raise ScreeningError(
            f"{len(input_ids)} tokens were given to the model and it reads {limit} at once: cut "
            "the text into windows"
        )
    if min(input_ids) < 0 or max(input_ids) >= vocabulary:
        raise ScreeningError(
            f"a token id is not in 0..{vocabulary - 1}: use the ids of this model's encode()"
        )
