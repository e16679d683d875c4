"""The commented configuration at the root says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from alknet_firewall.config import (
    AnswersConfig,
    AuditConfig,
    CacheConfig,
    CaptureConfig,
    ClientConfig,
    Config,
    FirewallConfig,
    LevelActions,
    PolicyConfig,
    ProxyConfig,
    RoleActions,
    RouteConfig,
    RuleConfig,
    TelemetryConfig,
    Thresholds,
    UpstreamConfig,
    load_config,
)

FILE = Path(__file__).parents[2] / "proxy.toml"


def test_its_values_are_the_defaults() -> None:
    # Two empty tables stand in it, to show where a role is configured.
    shown = PolicyConfig(roles={"user": RoleActions(), "tool": RoleActions()})
    assert load_config(FILE) == Config(policy=shown)


@pytest.mark.parametrize(
    "table",
    [
        AnswersConfig,
        AuditConfig,
        CacheConfig,
        CaptureConfig,
        ClientConfig,
        FirewallConfig,
        LevelActions,
        PolicyConfig,
        ProxyConfig,
        RouteConfig,
        RuleConfig,
        TelemetryConfig,
        Thresholds,
        UpstreamConfig,
    ],
)
def test_it_names_every_key(table: type) -> None:
    text = FILE.read_text(encoding="utf-8")
    for item in fields(table):
        assert re.search(
            rf"^(# )?(\[+(firewall|policy)\.|(or )?`)?{item.name}\b", text, re.MULTILINE
        ), item.name


def test_what_is_commented_out_loads_too(tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8")
    uncommented = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    copy = tmp_path / "all.toml"
    copy.write_text(uncommented, encoding="utf-8")
    config = load_config(copy)
    assert config.proxy.upstream == "https://api.openai.com/v1"
    assert config.policy.roles["tool"].suspicious == "block"
    assert config.policy.rule[0].client == config.client[0].name == "search"
    assert config.policy.not_screened == {"history": "block"}
    assert config.firewall.thresholds["tool"] == Thresholds(0.5, 0.9)
