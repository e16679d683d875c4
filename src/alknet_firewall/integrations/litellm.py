"""A LiteLLM guardrail: in the proxy's configuration, or as a callback of its SDK.

guardrails:
  - guardrail_name: alknet
    litellm_params:
      guardrail: alknet_firewall.integrations.litellm.AlknetGuardrail
      mode: pre_call
      default_on: true
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec

from litellm.exceptions import APIError, GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail, log_guardrail_information
from litellm.proxy.common_utils.callback_utils import add_guardrail_to_applied_guardrails_header
from litellm.types.guardrails import GuardrailEventHooks
from litellm.types.utils import CallTypes

from ..errors import ConfigError, RequestError, ScreeningError
from ..proxy.content import Shape
from ..proxy.policy import Context
from ..proxy.screening import Detector
from ..proxy.service import guardrail_content
from ._guard import Guard, Ruling, Settings

__all__ = ["AlknetGuardrail"]

_P = ParamSpec("_P")

# Types of call -> how the body is read. Others are read as prompts and data.
_SHAPES: dict[str, Shape] = {
    "completion": "chat",
    "text_completion": "completions",
    "responses": "responses",
    "anthropic_messages": "messages",
    "embedding": "embeddings",
}
_ROUTES: dict[Shape, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
_HOOKS = ("pre_call", "during_call", "logging_only")
# What LiteLLM keeps beside the body, and where and as whom it asks the provider.
_NOT_BODY = re.compile(
    r"(user_api_key|litellm)_.*|metadata|secret_fields|proxy_server_request|"
    r"guardrails|(extra_)?headers|api_key|api_base|base_url|api_version"
)


class AlknetGuardrail(CustomGuardrail):
    """Screens what a request holds, before the model is called or while it is.

    `settings` is the path of a TOML file such as the proxy's, or its tables, of
    which `[firewall]`, `[policy]` and the limits under `[proxy]` apply here.
    """

    # A whole body says who wrote what; LiteLLM's extraction leaves parts of it out.
    use_native_lifecycle_hooks = True

    def __init__(
        self, settings: Settings = None, firewall: Detector | None = None, **kwargs: Any
    ) -> None:
        self._guard = Guard(settings, firewall)
        hooks = [GuardrailEventHooks(hook) for hook in _HOOKS]
        try:
            super().__init__(**{"supported_event_hooks": hooks, **kwargs})
        except ValueError as error:
            # LiteLLM would note a ValueError, and start without the guardrail.
            raise ConfigError(f"mode: choose of {', '.join(_HOOKS)} ({error})") from error

    @log_guardrail_information
    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Before the call: block it, or add an advisory message for the model."""
        shape, ruling = await self._screen(data, call_type, user_api_key_dict)
        if ruling.advice and not self._advise(data, shape, ruling.advice):
            raise self._blocked(ruling)
        return data

    @log_guardrail_information
    async def async_moderation_hook(
        self, data: dict[str, Any], user_api_key_dict: Any, call_type: str
    ) -> dict[str, Any]:
        """During the call: the request is on its way, so an annotation is a block."""
        _, ruling = await self._screen(data, call_type, user_api_key_dict)
        if ruling.advice:
            raise self._blocked(ruling)
        return data

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: CallTypes | None
    ) -> dict[str, Any]:
        """In the SDK, where there is no proxy to run the hook before."""
        if self._pre_call_hook_already_ran(kwargs):
            return kwargs
        if not self.should_run_guardrail(kwargs, GuardrailEventHooks.pre_call):
            return kwargs
        name = call_type.value if call_type else ""
        await self.async_pre_call_hook(None, None, data=kwargs, call_type=name)
        return kwargs

    async def apply_guardrail(
        self,
        inputs: Mapping[str, Any],
        request_data: dict[str, Any],
        input_type: Literal["request", "response"],
        logging_obj: Any = None,
    ) -> Mapping[str, Any]:
        """Texts that LiteLLM has extracted: what it logs, and `/guardrails/apply_guardrail`."""
        asked = {**inputs, "input_type": input_type}
        content = guardrail_content(asked, self._guard.config.proxy.trusted_roles)
        context = Context(model=inputs.get("model"))
        ruling = await self._ruling(request_data, self._guard.content, content, context)
        if ruling.advice:
            raise self._blocked(ruling)
        return inputs

    async def _screen(
        self, data: dict[str, Any], call_type: str, caller: Any
    ) -> tuple[Shape, Ruling]:
        body = {key: value for key, value in data.items() if not _NOT_BODY.fullmatch(key)}
        name = call_type if call_type in _SHAPES else call_type.removeprefix("a")
        shape = _SHAPES.get(name) or ("chat" if "messages" in body else "completions")
        client = getattr(caller, "key_alias", None)
        context = Context(_ROUTES[shape], body.get("model"), client)
        add_guardrail_to_applied_guardrails_header(data, self.guardrail_name)
        return shape, await self._ruling(data, self._guard.body, shape, body, context)

    async def _ruling(
        self, data: dict[str, Any], method: Callable[_P, Ruling], *args: _P.args, **kw: _P.kwargs
    ) -> Ruling:
        try:
            ruling = await self._guard.beside(method, *args, **kw)
        except (ScreeningError, RequestError) as error:
            # Neither is a verdict, so neither may look like a block.
            status = error.status if isinstance(error, RequestError) else 503
            raise APIError(status, str(error), "alknet-firewall", data.get("model", "")) from None
        if ruling.action == "refuse":
            self.raise_passthrough_exception(self._said(ruling), data, ruling.info)
        if ruling.stops:
            raise self._blocked(ruling)
        return ruling

    def _advise(self, data: dict[str, Any], shape: Shape, advice: str) -> bool:
        """Whether the model will read the advice."""
        if shape == "messages":  # Anthropic takes no system message among the others
            system = data.get("system") or []
            parts = [{"type": "text", "text": system}] if isinstance(system, str) else system
            data["system"] = [*parts, {"type": "text", "text": advice}]
            return True
        told: bool = shape in ("chat", "responses") and self.inject_advisory_message(data, advice)
        return told

    def _blocked(self, ruling: Ruling) -> GuardrailRaisedException:
        return GuardrailRaisedException(
            self.guardrail_name, self._said(ruling), False, status_code=400, blocked_content=True
        )

    def _said(self, ruling: Ruling) -> str:
        said: str = self.render_violation_message(ruling.message, ruling.info)
        return said
