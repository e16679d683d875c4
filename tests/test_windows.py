from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.windows import window_bounds


@given(st.integers(0, 5000), st.integers(1, 300), st.data())
def test_every_short_run_of_tokens_lies_whole_in_a_window(
    tokens: int, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    bounds = window_bounds(tokens, size, overlap)
    assert all(0 < end - start <= size for start, end in bounds)
    covered = {token for start, end in bounds for token in range(start, end)}
    assert covered == set(range(tokens))
    length = max(1, min(overlap, tokens))
    for start in range(0, tokens - length + 1, max(1, tokens // 20)):
        assert any(low <= start and start + length <= high for low, high in bounds)


def test_the_number_of_windows_grows_linearly() -> None:
    assert window_bounds(0, 256, 64) == []
    assert window_bounds(256, 256, 64) == [(0, 256)]
    assert window_bounds(257, 256, 64) == [(0, 256), (192, 257)]
    assert len(window_bounds(192_000, 256, 64)) == 1000
