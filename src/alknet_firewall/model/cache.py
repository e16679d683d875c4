"""Folders of the cache: whole or not there, and checked whenever they are used.

Whoever makes one writes beside it and renames, under a lock that other processes
wait for; a manifest in it holds the checksum of every file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import CacheError, ModelError
from .repository import sha256

__all__ = ["cached_folder", "default_cache_dir"]

_MANIFEST = "manifest.json"


def default_cache_dir() -> Path:
    """`ALKNET_FIREWALL_CACHE`, or the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("ALKNET_FIREWALL_CACHE") or user_cache_dir("alknet-firewall"))


def cached_folder(
    root: Path | None, name: str, needed: set[str], write: Callable[[Path], None]
) -> Path:
    """The folder `name` with at least the files `needed`, filled by `write` if it is not there.

    `root` is the cache directory, the default one if None. Raises `CacheError`, and
    what `write` raises of `ModelError`. Safe to call from several processes at once.
    """
    root = root or default_cache_dir()
    folder = root / name
    if _is_intact(folder, needed):
        return folder
    with _cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_intact(folder, needed):
                _write_whole(folder, write)
    return folder


def _is_intact(folder: Path, needed: set[str]) -> bool:
    """Whether the folder is complete and every file has its checksum."""
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text("utf-8"))
        return manifest.keys() >= needed and all(
            sha256(folder / name) == digest for name, digest in manifest.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    # What a killed process left: nobody else is writing, we hold the lock.
    for stale in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = folder.parent / f".{folder.name}-{os.getpid()}"
    partial.mkdir()
    try:
        write(partial)
        _write_manifest(partial)
        _share(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    digests = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def _share(folder: Path) -> None:
    """Let whoever may read the folder read its files.

    safetensors writes for the owner alone, and a cache is often prepared by one
    user, such as that of a container's build, and read by another.
    """
    for path in folder.iterdir():
        path.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    """Turn what the file system says into one sentence naming the directory."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        # safetensors reports a full disk as its own SafetensorError.
        raise CacheError(
            f"{root}: the weights cache cannot be written ({error}): free space or permissions "
            "there, or set ALKNET_FIREWALL_CACHE (or `cache_dir`) to another directory"
        ) from error
