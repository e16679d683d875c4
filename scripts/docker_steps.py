#!/usr/bin/env python3
"""Execute the Dockerfile without Docker, and measure what would be in the image.

    sudo scripts/docker_steps.py

Every stage is an overlay over this machine's file system: what its steps write is
seen, and nothing of the machine is changed. Python and uv are this machine's, in
the place of the base images'. At the end the image is run as it should be:
read-only, as its user, without a network; the demo must be right, the command must
become healthy, and SIGTERM must end it. Needs Linux and root.
"""
# ruff: noqa: S603, S607  (commands of this machine, with no input from elsewhere)

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 600e6
BASE = 130e6
"""Bytes of python:3.13-slim, unpacked. It cannot be pulled here, so it is written down."""

RUN_IT = """
set -eu
ip link set lo up
inside() {{ exec chroot --userspec={user} {root} env -i HOME=/nonexistent {env} "$@"; }}
(inside alknet-firewall demo --once --port 0)
inside {command} & server=$!
for _ in $(seq 240); do
    sleep 0.5
    if (inside {health}) 2>/dev/null; then
        kill -TERM $server
        wait $server && code=0 || code=$?
        echo "healthy, and SIGTERM ended it with $code"
        exit $((code != 0 && code != 143))
    fi
done
echo "it did not become healthy" && exit 1
"""


@dataclass
class Stage:
    """One image in the making."""

    name: str
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def written(self) -> Path:
        return self.folder / "written"

    def path(self, inside: str) -> Path:
        return self.root / os.path.join(self.workdir, inside).lstrip("/")


def main() -> None:
    if os.environ.get("DOCKER_STEPS") != "inside":
        sys.exit(_in_a_namespace())
    work = Path(sys.argv[1])
    started = time.monotonic()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", work], check=True)
    context = _context(work / "context")
    stages: list[Stage] = []
    for instruction, rest in instructions((REPOSITORY / "Dockerfile").read_text("utf-8")):
        print(f"{instruction} {rest}"[:110], flush=True)
        execute(instruction, rest, stages, context, work)
    _measure(stages[-1])
    _run(stages[-1])
    print(f"{time.monotonic() - started:.0f} s")


def _in_a_namespace() -> int:
    """This script again where its mounts are seen by nobody else, and end with it."""
    if os.geteuid():
        print("scripts/docker_steps.py mounts file systems: run it as root", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="docker-steps-") as work:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, work]
        return subprocess.run(command, env={**os.environ, "DOCKER_STEPS": "inside"}).returncode


def _context(folder: Path) -> Path:
    """The tracked files that .dockerignore lets through."""
    ignored = (REPOSITORY / ".dockerignore").read_text("utf-8")
    allowed = re.findall(r"^!(.+)", ignored, re.MULTILINE)
    listed = subprocess.check_output(["git", "ls-files", "-z", *allowed], cwd=REPOSITORY, text=True)
    for name in filter(None, listed.split("\0")):
        if (source := REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    return folder


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Each instruction and its arguments, continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            yield instruction, " ".join(rest.split())


def execute(instruction: str, rest: str, stages: list[Stage], context: Path, work: Path) -> None:
    """Do what one instruction says. Raises `ValueError` for one that is not known."""
    if instruction == "FROM":
        stages.append(_stage(rest, len(stages), work))
        return
    stage = stages[-1]
    match instruction:
        case "ARG" | "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                stage.env[name] = string.Template(value).safe_substitute(
                    {**os.environ, **stage.env}
                )
        case "WORKDIR":
            stage.workdir = rest
            stage.path(".").mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "COPY":
            _copy(rest, stages, context)
        case "RUN":
            step = f"cd {stage.workdir} && {rest}"
            env = {**os.environ, **stage.env}
            subprocess.run(["chroot", stage.root, "/bin/sh", "-ec", step], env=env, check=True)
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition("CMD ")[2])
        case "LABEL" | "EXPOSE":
            pass
        case _:
            raise ValueError(f"{instruction}: not known to scripts/docker_steps.py")


def _stage(rest: str, number: int, work: Path) -> Stage:
    image, _, name = rest.partition(" AS ")
    if not image.startswith("python:"):
        raise ValueError(f"{image}: there is nothing here to stand in for it")
    stage = Stage(name or str(number), work / f"stage{number}")
    for folder in (stage.root, stage.written, spare := stage.folder / "spare"):
        folder.mkdir(parents=True)
    layers = f"lowerdir=/,upperdir={stage.written},workdir={spare}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, stage.root], check=True)
    subprocess.run(["mount", "--rbind", "/dev", stage.root / "dev"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", stage.root / "proc"], check=True)
    # Everybody may run the Python of an image; this machine's may be root's own.
    (stage.root / "root").chmod(0o755)
    return stage


def _copy(rest: str, stages: list[Stage], context: Path) -> None:
    *words, target = rest.split()
    origin = next((word[7:] for word in words if word.startswith("--from=")), None)
    sources = [word for word in words if not word.startswith("--")]
    stage = stages[-1]
    to = stage.path(target)
    for source in sources:
        path = _source(origin, source, stages, context)
        folder = target.endswith("/") or path.is_dir()
        (to if folder else to.parent).mkdir(parents=True, exist_ok=True)
        contents = f"{path}/." if path.is_dir() else path
        subprocess.run(["cp", "-a", "--no-preserve=ownership", contents, to], check=True)


def _source(origin: str | None, source: str, stages: list[Stage], context: Path) -> Path:
    if origin is None:
        return context / source
    for stage in stages[:-1]:
        if stage.name == origin:
            return stage.path(source)
    if origin.startswith("ghcr.io/astral-sh/uv:") and source == "/uv":
        return Path(_uv())
    raise ValueError(f"{origin}: there is nothing here to stand in for it")


def _uv() -> str:
    """The program itself, not a wrapper that would look for it elsewhere."""
    found = subprocess.run(
        ["uv", "run", "--no-project", "sh", "-c", "echo $UV"], capture_output=True, text=True
    )
    return found.stdout.strip() or str(shutil.which("uv"))


def _measure(stage: Stage) -> None:
    sizes = {name: _size(stage.written / name) for name in ("app/.venv", "app/cache")}
    total = BASE + _size(stage.written)
    print(f"\nbase {BASE / 1e6:.0f} MB (written down)", end="")
    for name, size in sizes.items():
        print(f", /{name} {size / 1e6:.0f} MB", end="")
    print(f", in all {total / 1e6:.0f} MB of at most {LIMIT / 1e6:.0f} MB", flush=True)
    components = json.loads((stage.written / "app/sbom.cdx.json").read_text())["components"]
    print(f"SBOM: {len(components)} components")
    if total > LIMIT:
        sys.exit("the image would be too large")


def _size(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def _run(stage: Stage) -> None:
    print("\nread-only, without a network, as", stage.user, flush=True)
    subprocess.run(["mount", "-o", "remount,ro", stage.root], check=True)
    script = RUN_IT.format(
        user=stage.user,
        root=stage.root,
        env=shlex.join(f"{name}={value}" for name, value in stage.env.items()),
        command=shlex.join(stage.entrypoint + stage.command),
        health=shlex.join(stage.health),
    )
    subprocess.run(["unshare", "--net", "sh", "-c", script], check=True)


if __name__ == "__main__":
    main()
