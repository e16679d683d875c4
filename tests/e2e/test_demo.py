"""The first thing anyone sees must be right."""

from __future__ import annotations

import pytest

from alknet_firewall.demo import run_demo


def test_demo_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(once=True, port=0) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 verdicts are right" in shown
    assert "messages[3].content (tool)" in shown
    assert "400 content_filter, nothing reached the upstream" in shown
