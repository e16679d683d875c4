"""NeMo Guardrails calls `init` of this file when it loads the folder."""

from nemoguardrails import LLMRails

from alknet_firewall.integrations.nemo import register


def init(app: LLMRails) -> None:
    register(app)
