"""`alknet-firewall init` and `completion`: a configuration and a shell to begin with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from alknet_firewall.cli import main
from alknet_firewall.config import load_config
from alknet_firewall.proxy.settings import Source, refuse_itself
from alknet_firewall.proxy.state import state_of
from alknet_firewall.proxy.telemetry import Telemetry
from alknet_firewall.starter import UPSTREAMS


@pytest.mark.parametrize("name", [*UPSTREAMS])
def test_what_init_writes_can_be_served(name: str, tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    written = CliRunner().invoke(main, ["init", name, "--out", str(file)])
    assert written.exit_code == 0
    assert str(file) in written.output
    checked = CliRunner().invoke(main, ["config", "check", str(file)])
    assert checked.output == f"{file}: ok\n"
    config = Source(file).load({})
    assert config.proxy.upstream == UPSTREAMS[name].base_url
    state_of(config, Telemetry())
    refuse_itself(config)


@pytest.mark.parametrize("name", [*UPSTREAMS])
def test_what_is_commented_out_loads_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "proxy.toml"
    CliRunner().invoke(main, ["init", name, "--out", str(file)])
    text = re.sub(r"^# (?=\[|\w+ = )", "", file.read_text("utf-8"), flags=re.MULTILINE)
    assert len(tomllib.loads(text)["policy"]["roles"]["tool"]) == 1
    if not (variable := UPSTREAMS[name].key_env):
        return
    file.write_text(re.sub(r"^upstream = .*", "", text, flags=re.MULTILINE), "utf-8")
    monkeypatch.setenv(variable, "sk-x")
    state_of(load_config(file), Telemetry())


def test_init_takes_another_url(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    arguments = ["init", "vllm", "--base-url", 'http://vllm:8000/"v1', "--out", str(file)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert load_config(file).proxy.upstream == 'http://vllm:8000/"v1'


def test_init_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("# mine\n")
    result = CliRunner().invoke(main, ["init", "openai", "--out", str(file)])
    assert result.exit_code == 2
    assert "not overwritten" in result.stderr
    assert file.read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["init", "closedai"], "'openai'"),
        (["init", "vllm", "--base-url", "vllm:8000"], "--base-url"),
        (["init", "vllm", "--base-url", "http://a\nb"], "--base-url"),
        (["init", "vllm", "--out", "/no/such/folder/x.toml"], "cannot be written"),
        (["completion", "tcsh"], "'bash'"),
    ],
)
def test_a_wrong_call_is_one_clear_line(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_ALKNET_FIREWALL_COMPLETE" in result.output


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("ser", ["serve"]), ("init ol", ["ollama"]), ("screen --js", ["--json", "--jsonl"])],
)
def test_bash_completes(typed: str, offered: list[str]) -> None:
    words = ["alknet-firewall", *typed.split()]
    script = (
        'eval "$(alknet-firewall completion bash)"\n'
        f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}\n"
        "_alknet_firewall_completion alknet-firewall\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == offered
