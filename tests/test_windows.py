from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.windows import paragraph_blocks, paragraph_starts, window_bounds


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


@given(
    st.lists(st.integers(0, 600), max_size=30).map(sorted),
    st.integers(0, 300),
    st.integers(1, 256),
    st.integers(1, 8),
)
def test_paragraphs_cover_a_window_or_there_are_none(
    starts: list[int], first: int, size: int, block: int
) -> None:
    found = paragraph_blocks(starts, (first, first + size), block)
    assert len(found) != 1
    if found:
        assert {b for start, end in found for b in range(start, end)} == set(
            range(-(-size // block))
        )
        assert all((end - start) * block >= 8 for start, end in found)


def test_blank_lines_part_paragraphs() -> None:
    text = "One two.\n \nThree.\nFour.\n\n\nFive."
    words = ["One", " two.", "\n \n", "Three.", "\n", "Four.", "\n\n\n", "Five."]
    ends = [sum(len(word) for word in words[: n + 1]) for n in range(len(words))]
    offsets = list(zip([0, *ends], ends, strict=False))
    assert [words[start] for start in paragraph_starts(text, offsets)] == ["Three.", "Five."]
    assert paragraph_starts(text, []) == []


def test_a_few_words_are_read_with_the_next_paragraph() -> None:
    assert paragraph_blocks([3, 20, 60], (0, 64), 4) == [(0, 5), (5, 16)]
    assert paragraph_blocks([3, 20, 60], (0, 16), 4) == []
    assert paragraph_blocks([30], (16, 48), 4) == [(0, 4), (3, 8)]
