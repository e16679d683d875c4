"""A model's folder, from the hub or from the disk. Needs no torch."""

import hashlib
import json
import traceback
from pathlib import Path

import httpx
import pytest

from alknet_firewall.errors import (
    CacheError,
    ConfigError,
    UnsafeWeightsError,
    UnsupportedModelError,
    WeightsNotFoundError,
    WeightsVerificationError,
)
from alknet_firewall.model.repository import (
    check_revision,
    check_sha256,
    combined_sha256,
    find_folder,
    safetensors_files,
)

from ..conftest import StartHub
from ..hub import COMMIT

REPO = "example/detector"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise AssertionError",
    "README.md": b"# A model",
}


def find(*, cache_dir: Path | None = None, local_files_only: bool = False) -> Path:
    cache = str(cache_dir) if cache_dir else None
    return find_folder(REPO, COMMIT, cache_dir=cache, local_files_only=local_files_only)


def test_only_what_may_be_opened_is_downloaded(start_hub: StartHub) -> None:
    hub = start_hub(REPO, FILES)
    folder = find()
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors"}
    assert not any("evil" in request.url.path for request in hub.requests)


def test_a_cached_model_needs_no_hub(start_hub: StartHub, tmp_path: Path) -> None:
    hub = start_hub(REPO, FILES)
    first = find(cache_dir=tmp_path / "elsewhere")
    assert first.is_relative_to(tmp_path / "elsewhere")
    hub.requests.clear()
    assert find(cache_dir=tmp_path / "elsewhere", local_files_only=True) == first
    assert hub.requests == []


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_folder(str(tmp_path), None, cache_dir=None, local_files_only=False) == tmp_path


@pytest.mark.parametrize("local", [True, False])
def test_offline_and_absent(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    hub = start_hub(REPO, FILES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", not local)
    with pytest.raises(WeightsNotFoundError) as caught:
        find(local_files_only=local)
    for way in ("HF_HUB_OFFLINE", "local_files_only", "HF_HOME", "cache_dir", "local folder"):
        assert way in str(caught.value)
    assert hub.requests == []


def test_a_repository_of_pickles(start_hub: StartHub) -> None:
    start_hub(REPO, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(UnsafeWeightsError, match=r"pytorch_model\.bin"):
        find()


def test_a_repository_without_weights(start_hub: StartHub) -> None:
    start_hub(REPO, {"config.json": b"{}"})
    with pytest.raises(WeightsNotFoundError):
        find()


def test_a_repository_that_is_not_there(start_hub: StartHub) -> None:
    start_hub("tests/other", FILES)
    with pytest.raises(WeightsNotFoundError, match="HTTP 404"):
        find()


@pytest.mark.parametrize("status", [401, 403])
def test_a_repository_that_wants_a_token(start_hub: StartHub, status: int) -> None:
    start_hub(REPO, FILES).fail = lambda _: httpx.Response(status)
    with pytest.raises(WeightsNotFoundError, match=rf"HTTP {status}.* HF_TOKEN"):
        find()


def test_the_cache_cannot_be_written(start_hub: StartHub, tmp_path: Path) -> None:
    start_hub(REPO, FILES)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="or set HF_HOME"):
        find(cache_dir=tmp_path / "file")


def test_the_token_is_sent_and_never_told(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    hub = start_hub(REPO, FILES)

    def quotes_the_header(request: httpx.Request) -> httpx.Response:
        # What h11 says about a header that it cannot send.
        raise httpx.LocalProtocolError(f"Illegal header value {request.headers['authorization']}")

    hub.fail = quotes_the_header
    with pytest.raises(WeightsNotFoundError) as caught:
        find()
    assert any("hf_verysecret" in str(r.headers.raw) for r in hub.requests)
    assert "hf_verysecret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("revision", ["", "main", "v1.0", COMMIT[:12], COMMIT.upper()])
def test_a_revision_that_pins_nothing(revision: str) -> None:
    with pytest.raises(ConfigError, match="40 hex digits"):
        check_revision(REPO, revision)


def test_a_commit_is_a_revision() -> None:
    check_revision(REPO, COMMIT)


# Which files are opened


def index(folder: Path, *names: str) -> None:
    weight_map = {f"tensor.{number}": name for number, name in enumerate(names)}
    text = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    index(tmp_path, "b.safetensors", "a.safetensors", "b.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "b.safetensors").write_bytes(b"2")
    files = safetensors_files(tmp_path)
    assert [path.name for path in files] == ["a.safetensors", "b.safetensors"]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    assert combined_sha256(files) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_one_file_has_its_own_checksum(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert combined_sha256(safetensors_files(tmp_path)) == expected


@pytest.mark.parametrize("name", ["evil.bin", "../evil.safetensors", "/evil.safetensors"])
def test_an_index_that_names_something_else(tmp_path: Path, name: str) -> None:
    index(tmp_path, name)
    with pytest.raises(UnsafeWeightsError, match="not a safetensors file of this folder"):
        safetensors_files(tmp_path)


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    index(tmp_path, "model-00001-of-00002.safetensors")
    with pytest.raises(WeightsNotFoundError, match="model-00001-of-00002"):
        safetensors_files(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}'])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UnsupportedModelError, match="is not an index of safetensors"):
        safetensors_files(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_folder_of_pickles(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"pickle")
    with pytest.raises(UnsafeWeightsError, match=name):
        safetensors_files(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"neither model\.safetensors nor"):
        safetensors_files(tmp_path)


def test_the_wrong_checksum() -> None:
    check_sha256("a file", "0" * 64, "0" * 64)
    with pytest.raises(WeightsVerificationError, match=r"a file: its sha256 is 0+ and must be 1+"):
        check_sha256("a file", "0" * 64, "1" * 64)
