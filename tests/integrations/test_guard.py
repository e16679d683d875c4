"""What the adapters share, with the real detector."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from alknet_firewall.alarm import AlarmLevel
from alknet_firewall.config import Config, PolicyConfig, ProxyConfig
from alknet_firewall.errors import ConfigError, RequestError, ScreeningError
from alknet_firewall.integrations._guard import Guard
from alknet_firewall.proxy.options import LevelActions

from ..proxy.fakes import ATTACK as FAKE_ATTACK
from ..proxy.fakes import DOUBTFUL, FakeFirewall
from .texts import ATTACK, HARMLESS


def test_an_attack_is_stopped_and_the_message_holds_none_of_it(guard: Guard) -> None:
    ruling = guard.text(ATTACK, "tool", "the page")
    assert ruling.stops
    assert ruling.level is AlarmLevel.DANGEROUS
    assert "the page" in ruling.message
    assert "Ignore" not in ruling.message
    assert ruling.info["action"] == "block"


def test_a_harmless_text_passes_without_a_word(guard: Guard) -> None:
    ruling = guard.text(HARMLESS, "user")
    assert (ruling.action, ruling.message, ruling.advice) == ("allow", "", "")


def test_a_body_is_read_by_its_shape(guard: Guard) -> None:
    trusted = {"messages": [{"role": "system", "content": ATTACK}]}
    fetched = {"messages": [{"role": "tool", "content": ATTACK}]}
    assert not guard.body("chat", trusted).stops
    assert "messages[0].content" in guard.body("chat", fetched).message


def test_the_model_is_advised_of_what_is_annotated() -> None:
    ruling = Guard(firewall=FakeFirewall()).text(DOUBTFUL, "tool", "the page")
    assert (ruling.action, ruling.stops) == ("annotate", False)
    assert "the page" in ruling.advice
    assert DOUBTFUL not in ruling.advice


def test_an_image_can_be_stopped_and_is_not_advised_of() -> None:
    body = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://x/a"}}],
            }
        ]
    }
    for action, stops in (("block", True), ("annotate", False)):
        guard = Guard({"policy": {"not_screened": {"image": action}}}, FakeFirewall())
        ruling = guard.body("chat", body)
        assert (ruling.stops, ruling.advice) == (stops, "")


def test_settings_are_a_file_or_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "firewall.toml"
    path.write_text('[policy.default]\ndangerous = "log"\n')
    policy = PolicyConfig(default=LevelActions(dangerous="log"))
    tables = {"policy": {"default": {"dangerous": "log"}}}
    for settings in (path, str(path), tables, Config(policy=policy)):
        assert Guard(settings, FakeFirewall()).text(FAKE_ATTACK, "user").action == "log"


@pytest.mark.parametrize("settings", [{"policy": {"defualt": {}}}, 7])
def test_wrong_settings_are_told(settings: object) -> None:
    with pytest.raises(ConfigError, match="settings"):
        Guard(settings, FakeFirewall())  # type: ignore[arg-type]


def test_a_detector_that_does_not_see_an_attack_is_refused() -> None:
    blind = {"firewall": {"thresholds": {"tool": {"suspicious": 1.0, "dangerous": 1.0}}}}
    with pytest.raises(ScreeningError, match="known attack"):
        Guard(blind)


def test_a_failure_is_no_verdict_and_the_settings_say_what_it_means(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = Guard(firewall=FakeFirewall(ValueError("secret text")))
    with pytest.raises(ScreeningError, match="unexpected ValueError"):
        closed.text("hello", "user")
    opened = Guard(Config(proxy=ProxyConfig(fail="open")), FakeFirewall(ValueError("secret text")))
    ruling = opened.text("hello", "user")
    assert (ruling.level, ruling.stops) == (None, False)
    assert ruling.info["level"] == "UNSCREENED"
    assert "failed open" in caplog.text
    assert "secret" not in caplog.text


def test_limits_hold_where_failures_pass() -> None:
    guard = Guard(Config(proxy=ProxyConfig(fail="open", max_texts=1)), FakeFirewall())
    with pytest.raises(RequestError, match="max_texts"):
        guard.body(
            "chat", {"messages": [{"role": "user", "content": "a"}] * 2 + [{"content": "b"}]}
        )


async def test_beside_the_event_loop_for_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(Config(proxy=ProxyConfig(screen_timeout=0.05)), FakeFirewall(delay=0.2))
    with pytest.raises(ScreeningError, match="screen_timeout"):
        await guard.beside(guard.text, "hello", "user")
    patient = Guard(firewall=FakeFirewall())
    assert (await patient.beside(patient.text, FAKE_ATTACK, "user")).stops


def test_what_was_screened_before_is_not_screened_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    firewall = FakeFirewall()
    guard = Guard(firewall=firewall)
    for _ in range(2):
        assert guard.text(FAKE_ATTACK, "user").stops
    assert firewall.seen == [(FAKE_ATTACK, "user")]
    assert caplog.text.count("action=block") == 2
    assert FAKE_ATTACK not in caplog.text
