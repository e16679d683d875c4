"""Texts are cut for training as they are for screening."""

import numpy as np
import pytest

from alknet_firewall.codebook.detection import WindowShape
from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.training.cuts import cut
from alknet_firewall.training.data_loader import Example

SHAPE = WindowShape(tokens=32, overlap=8)


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel((2,))


def examples(*texts: str) -> list[Example]:
    return [Example(text, "benign", "benign_chat", "user", "s") for text in texts]


def test_there_are_the_windows_of_each_text_up_to_a_length(model: EmbeddedModel) -> None:
    shape = WindowShape(tokens=8, overlap=2)
    found = cut(model, examples("one two three " * 10, "", "four"), shape, 20)
    assert [len(wording.ids) for wording in found.wordings] == [8, 8, 8, 1]
    assert found.blocks.shape == (0, 2)


def test_the_paragraphs_of_a_window_come_behind_all_windows(model: EmbeddedModel) -> None:
    first, second = (
        "The cat sat on the mat all day long.",
        "Birds sing in the morning and at night.",
    )
    found = cut(model, examples("One.", f"{first}\n\n{second}"), SHAPE, 100)
    assert len(found.wordings) == 4
    assert found.window.tolist() == [1, 1]
    text = found.wordings[1].ids
    for wording, (start, end) in zip(found.wordings[2:], found.blocks, strict=True):
        np.testing.assert_array_equal(wording.ids, text[start * 4 : end * 4])
    assert found.wordings[1].text == f"{first}\n\n{second}"
    assert found.wordings[2].text.startswith(first)
    assert found.wordings[3].text.endswith(second)
    assert found.blocks[0, 0] == 0
    assert found.blocks[1, 1] == -(-len(text) // 4)
