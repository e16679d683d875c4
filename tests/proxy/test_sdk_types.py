"""Every string that the installed clients' types allow in a request is found."""

from __future__ import annotations

import collections.abc
import itertools
import types
from collections.abc import Iterator
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from typing_extensions import get_type_hints, is_typeddict

from alknet_firewall.proxy.content import Shape, extract
from alknet_firewall.proxy.leaves import Untrusted

_DEEPEST = 9


class Sampler:
    """Makes values of a type in which every free string is a marked sentence."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def samples(self, kind: Any, depth: int = 0) -> list[Any]:
        """At least one value for each variant of a type; none for what is no JSON."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Required, NotRequired):
            return self.samples(arguments[0], depth)
        if origin is Literal:
            return [arguments[0]]
        if origin in (Union, types.UnionType):
            return [value for item in arguments for value in self.samples(item, depth)]
        if is_typeddict(kind):
            return [*self._objects(kind, depth)]
        if origin is dict or origin is collections.abc.Mapping:
            return [{"key": value} for value in self.samples(arguments[1], depth)[:1]]
        if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
            return [self.samples(arguments[0], depth + 1)]
        return self._plain(kind)

    def _plain(self, kind: Any) -> list[Any]:
        if kind in (str, object, Any):
            return [f"leaf number {next(self._numbers)} speaks"]
        if kind in (bool, int, float):
            return [kind(1)]
        if getattr(kind, "__supertype__", None) is str or "SequenceNotStr" in repr(kind):
            return [[f"leaf number {next(self._numbers)} speaks"]]
        return []

    def _objects(self, kind: Any, depth: int) -> Iterator[dict[str, Any]]:
        if depth > _DEEPEST:
            return
        fields = {
            name: self.samples(hint, depth + 1)
            for name, hint in get_type_hints(kind, include_extras=True).items()
        }
        present = {name: values for name, values in fields.items() if values}
        first = {name: values[0] for name, values in present.items()}
        yield first
        for name, values in present.items():
            for value in values[1:]:
                yield {**first, name: value}


CASES: list[tuple[Shape, Any]] = [
    ("chat", chat_create_params.CompletionCreateParamsNonStreaming),
    ("completions", completion_create_params.CompletionCreateParamsNonStreaming),
    ("embeddings", embedding_create_params.EmbeddingCreateParams),
    ("responses", response_create_params.ResponseCreateParamsNonStreaming),
    ("messages", message_create_params.MessageCreateParamsNonStreaming),
    ("messages", message_count_tokens_params.MessageCountTokensParams),
    ("messages", beta_message_create_params.MessageCreateParamsNonStreaming),
]


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.startswith("leaf number"):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


@pytest.mark.parametrize(("shape", "kind"), CASES)
def test_every_string_of_every_type_is_screened(shape: Shape, kind: Any) -> None:
    bodies = Sampler().samples(kind)
    assert bodies
    for body in bodies:
        body.pop("extra_headers", None)
        screened = {item.text for item in extract(shape, body, ()).texts}
        assert set(_leaves(body)) <= screened


@pytest.mark.parametrize(("shape", "kind"), CASES)
def test_every_place_leads_to_its_text(shape: Shape, kind: Any) -> None:
    body = Sampler().samples(kind)[0]
    for item in extract(shape, body, ()).texts:
        if len(item.places) == 1:
            assert _at(body, item) == item.text


def _at(body: Any, item: Untrusted) -> Any:
    for step in item.places[0]:
        body = body[step]
    return body
