"""Getting the weights: every way it may go wrong, and what is left behind."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import load_file

from alknet_firewall.errors import (
    CacheError,
    UnsupportedModelError,
    WeightsNotFoundError,
    WeightsVerificationError,
)
from alknet_firewall.model.weights import EMBEDDED, PreparedWeights, WeightsSource, prepare

from ..conftest import StartHub
from ..hub import FakeHub
from .tiny import write_gguf

FILES = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(start_hub: StartHub, tiny_source: WeightsSource, tmp_path: Path) -> FakeHub:
    """A hub that has the tiny GGUF."""
    files = {tiny_source.filename: (tmp_path / "tiny.gguf").read_bytes()}
    return start_hub(tiny_source.model_id, files)


def make(source: WeightsSource, cache: Path, n_layers: int = 2) -> PreparedWeights:
    return prepare(n_layers, source=source, cache_dir=cache, progress=False)


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


# Where the weights come from


def test_download_from_the_hub(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    prepared = make(tiny_source, cache)
    assert set(FILES) <= {path.name for path in prepared.folder.iterdir()}
    wanted = f"/tests/tiny/resolve/{tiny_source.revision}/tiny.gguf"
    assert wanted in {request.url.path for request in hub.requests}


def test_a_prepared_cache_asks_nobody(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path
) -> None:
    first = make(tiny_source, cache)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    hub.requests.clear()
    again = make(tiny_source, cache)
    assert again == first
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == written
    assert hub.requests == []


def test_each_depth_has_its_folder(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    one, two = make(tiny_source, cache, 1), make(tiny_source, cache, 2)
    assert len(load_file(one.folder / "model.safetensors")) == 11
    assert len(load_file(two.folder / "model.safetensors")) == 20


def test_the_installed_package_comes_before_the_hub(
    start_hub: StartHub,
    tiny_source: WeightsSource,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = start_hub(tiny_source.model_id, {})
    package = tmp_path / "site" / "carrier"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it was imported')")
    (tmp_path / "tiny.gguf").rename(package / "tiny.gguf")
    monkeypatch.syspath_prepend(package.parent)
    make(replace(tiny_source, package="carrier"), cache)
    assert hub.requests == []


def test_the_pinned_file_is_the_one_installed() -> None:
    assert EMBEDDED.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert EMBEDDED.revision == "ab810cf68114990406fdf996510dd3d3c6adbdf5"


# Absent


def assert_every_way_is_named(message: str) -> None:
    for way in (
        "pip install",
        "alknet-firewall download",
        "HF_HUB_OFFLINE",
        "ALKNET_FIREWALL_CACHE",
    ):
        assert way in message


def test_local_files_only_and_absent(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    with pytest.raises(WeightsNotFoundError) as caught:
        prepare(1, source=tiny_source, cache_dir=cache, local_files_only=True, progress=False)
    assert_every_way_is_named(str(caught.value))
    assert hub.requests == []
    assert folders(cache) == []


def test_offline_by_the_environment_and_absent(
    tiny_source: WeightsSource, cache: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from alknet_firewall.errors import WeightsNotFoundError\n"
        "from alknet_firewall.model.weights import WeightsSource, prepare\n"
        f"source = {tiny_source!r}\n"
        "try: prepare(1, source=source, cache_dir=Path(sys.argv[1]), progress=False)\n"
        "except WeightsNotFoundError as error: print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    printed = subprocess.check_output(
        [sys.executable, "-c", script, str(cache)], env=environment, text=True
    )
    assert_every_way_is_named(printed)
    assert "OfflineModeIsEnabled" in printed or "LocalEntryNotFoundError" in printed


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_the_hub_refuses(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path, status: int
) -> None:
    hub.fail = lambda _: httpx.Response(status)
    with pytest.raises(WeightsNotFoundError):
        make(tiny_source, cache)


def test_no_network(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Name or service not known", request=request)

    hub.fail = unreachable
    with pytest.raises(WeightsNotFoundError) as caught:
        make(tiny_source, cache)
    assert_every_way_is_named(str(caught.value))


def test_the_connection_breaks_during_the_download(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path
) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        answer = hub._file(request, "tiny.gguf")
        if request.method == "HEAD":
            return answer
        return httpx.Response(200, headers=answer.headers, stream=_Cut(answer.content))

    hub.fail = broken
    with pytest.raises(WeightsNotFoundError):
        make(tiny_source, cache)
    hub.fail = None
    assert make(tiny_source, cache).folder.is_dir()


class _Cut(httpx.SyncByteStream):
    """Half of a body, then a reset."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content[: len(self._content) // 2]
        raise httpx.ReadError("connection reset by peer")


# Not the right bytes


def test_wrong_bytes_on_the_hub(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    hub.files["tiny.gguf"] = hub.files["tiny.gguf"][:-1] + b"!"
    with pytest.raises(WeightsVerificationError, match=f"must be {tiny_source.sha256}"):
        make(tiny_source, cache)
    assert folders(cache) == []


def test_unknown_architecture(start_hub: StartHub, tmp_path: Path, cache: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", architecture="mamba")
    start_hub(source.model_id, {"tiny.gguf": (tmp_path / "tiny.gguf").read_bytes()})
    with pytest.raises(UnsupportedModelError, match=r"'mamba' and the embedded engine knows only"):
        make(source, cache)
    assert folders(cache) == []


# The cache


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [b"", None, b"{}"])
def test_a_damaged_cache_is_made_again(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path, file: str, damage: bytes | None
) -> None:
    folder = make(tiny_source, cache).folder
    whole = (folder / file).read_bytes()
    (folder / file).unlink() if damage is None else (folder / file).write_bytes(damage)
    assert (make(tiny_source, cache).folder / file).read_bytes() == whole


def test_a_flipped_bit_is_found(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    path = make(tiny_source, cache).folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    make(tiny_source, cache)
    assert path.read_bytes() == whole


def test_the_cache_directory_is_a_file(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path
) -> None:
    cache.write_text("in the way")
    with pytest.raises(CacheError, match="ALKNET_FIREWALL_CACHE") as caught:
        make(tiny_source, cache)
    assert str(cache) in str(caught.value)


def test_the_download_cannot_be_written(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub").write_text("in the way of the hub's cache")
    with pytest.raises(CacheError, match="the download cannot be written"):
        make(tiny_source, cache)


def test_others_may_read_what_the_umask_lets_them(
    hub: FakeHub, tiny_source: WeightsSource, cache: Path
) -> None:
    before = os.umask(0o027)
    try:
        folder = make(tiny_source, cache).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


# Processes

CHILD = """
import os, resource, sys, time
from pathlib import Path
import alknet_firewall.model.conversion as conversion
from alknet_firewall.errors import CacheError
from alknet_firewall.model.weights import WeightsSource, prepare

source = WeightsSource(**{source})
cache, convert = Path(sys.argv[1]), conversion.convert_gguf
"""


def child(source: WeightsSource, cache: Path, body: str) -> "subprocess.Popen[str]":
    """A process that has `tiny.gguf` in a package of its own, and runs `body`."""
    package = cache.parent / "site" / "carrier"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "tiny.gguf").write_bytes((cache.parent / "tiny.gguf").read_bytes())
    fields = {name: getattr(source, name) for name in source.__slots__} | {"package": "carrier"}
    script = f"import sys\nsys.path.insert(0, {str(package.parent)!r})\n"
    script += CHILD.replace("{source}", repr(fields)) + body
    return subprocess.Popen(
        [sys.executable, "-c", script, str(cache)], stdout=subprocess.PIPE, text=True
    )


FULL_DISK = """
# As on a full disk, the write itself fails: no file may grow past 64 KiB.
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try: prepare(2, source=source, cache_dir=cache, progress=False)
except CacheError as error: print(error)
"""


def test_the_disk_is_full_half_way(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    printed, _ = child(tiny_source, cache, FULL_DISK).communicate(timeout=60)
    assert f"{cache}: the weights cache cannot be written" in printed
    assert "free space" in printed
    assert folders(cache) == [], "a half-written folder was left"
    assert len(load_file(make(tiny_source, cache).folder / "model.safetensors")) == 20


KILLED = """
def half(gguf, folder, *rest):
    (folder / "model.safetensors").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
conversion.convert_gguf = half
prepare(2, source=source, cache_dir=cache, progress=False)
"""


def test_killed_half_way(hub: FakeHub, tiny_source: WeightsSource, cache: Path) -> None:
    process = child(tiny_source, cache, KILLED)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    prepared = make(tiny_source, cache)
    assert len(load_file(prepared.folder / "model.safetensors")) == 20
    assert folders(cache) == [prepared.folder], "what the killed process left is still there"


AT_ONCE = """
def slow(*arguments):
    print("converting", flush=True)
    time.sleep(1)
    convert(*arguments)
conversion.convert_gguf = slow
prepared = prepare(2, source=source, cache_dir=cache, progress=False)
print(sorted(path.name for path in prepared.folder.iterdir()))
"""


def test_two_processes_at_once(tiny_source: WeightsSource, cache: Path) -> None:
    processes = [child(tiny_source, cache, AT_ONCE) for _ in range(2)]
    printed = "".join(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert printed.count("model.safetensors") == 2
    assert printed.count("converting") == 1, "the second did not wait for the first"
