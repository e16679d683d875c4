import json
from pathlib import Path

import pytest

from alknet_firewall.errors import DataError
from alknet_firewall.training.data_loader import Example, load_folder, sample


def write(path: Path, *rows: object) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


def test_rows_become_examples(tmp_path: Path) -> None:
    write(
        tmp_path / "mails.jsonl",
        {"text": "a", "label": "benign", "kind": "benign_document", "role": "user"},
        {"text": "b c", "label": "attack", "kind": "jailbreak", "role": "user", "injection": "c"},
    )
    examples, files = load_folder(tmp_path)
    assert [e.role for e in examples] == ["tool", "user"]
    assert examples[1].injection == "c"
    assert examples[0].source == "mails"
    assert [(f.name, f.rows) for f in files] == [("mails.jsonl", 2)]


@pytest.mark.parametrize(
    "row", ["no json", '{"text": 3, "label": "benign"}', '{"text": "x", "label": "bad"}', "[]"]
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: str) -> None:
    good = '{"text": "x", "label": "benign"}'
    (tmp_path / "rows.jsonl").write_text(f"{good}\n\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3"):
        load_folder(tmp_path)


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.jsonl"):
        load_folder(tmp_path)


def test_sampling_is_per_group_and_does_not_depend_on_other_files() -> None:
    ours = [Example(str(i), "benign", "k", "user", "ours") for i in range(50)]
    others = [Example(str(i), "attack", "k", "tool", "others") for i in range(50)]
    alone = sample(ours, 10, seed=1)
    together = sample(others + ours, 10, seed=1)
    assert len(together) == 20
    assert [e for e in together if e.source == "ours"] == alone
