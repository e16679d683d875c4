"""The configuration that `alknet-firewall init` writes for an upstream."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

__all__ = ["UPSTREAMS", "Starter", "starter", "write_starter"]


@dataclass(frozen=True, slots=True)
class Starter:
    """What is particular about one upstream."""

    name: str
    """As its makers write it."""
    base_url: str
    port: int = 8080
    """Where the proxy listens; another one where the upstream takes 8080 itself."""
    prefixes: tuple[str, ...] = ("/v1",)
    key_env: str | None = None
    """The environment variable that its key is usually in."""
    key_header: str = "authorization"
    client: str = "export OPENAI_BASE_URL={url}/v1"
    """How a client is pointed at the proxy."""
    note: str = ""


_URL = re.compile(r"https?://[!-~]+")
_OWN_SERVER = (
    "Let clients reach the proxy only: what speaks to the server directly is not\nscreened."
)

UPSTREAMS: dict[str, Starter] = {
    "openai": Starter("OpenAI", "https://api.openai.com/v1", key_env="OPENAI_API_KEY"),
    "anthropic": Starter(
        "Anthropic",
        "https://api.anthropic.com/v1",
        key_env="ANTHROPIC_API_KEY",
        key_header="x-api-key",
        client="export ANTHROPIC_BASE_URL={url}",
    ),
    "azure": Starter(
        "Azure OpenAI",
        "https://YOUR-RESOURCE.openai.azure.com/openai/v1",
        prefixes=("/v1", "/openai/v1"),
        key_env="AZURE_OPENAI_API_KEY",
        key_header="api-key",
        client="export OPENAI_BASE_URL={url}/openai/v1",
        note="Put your resource's name into the URL. The paths are those of the v1 API; the\n"
        "older /openai/deployments/... are not served.",
    ),
    "gemini": Starter(
        "Gemini's OpenAI-compatible API",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        key_env="GEMINI_API_KEY",
    ),
    "mistral": Starter("Mistral", "https://api.mistral.ai/v1", key_env="MISTRAL_API_KEY"),
    "openrouter": Starter(
        "OpenRouter", "https://openrouter.ai/api/v1", key_env="OPENROUTER_API_KEY"
    ),
    "litellm": Starter(
        "a LiteLLM proxy", "http://127.0.0.1:4000/v1", key_env="LITELLM_API_KEY", note=_OWN_SERVER
    ),
    "vllm": Starter("vLLM", "http://127.0.0.1:8000/v1", key_env="VLLM_API_KEY", note=_OWN_SERVER),
    "sglang": Starter("SGLang", "http://127.0.0.1:30000/v1", note=_OWN_SERVER),
    "ollama": Starter("Ollama", "http://127.0.0.1:11434/v1", note=_OWN_SERVER),
    "llama-cpp": Starter(
        "llama.cpp's server", "http://127.0.0.1:8080/v1", port=8081, note=_OWN_SERVER
    ),
}


def starter(name: str, base_url: str | None = None) -> str:
    """A commented configuration for one of `UPSTREAMS`, as TOML.

    Raises `ConfigError` when `base_url` is no http(s) URL.
    """
    chosen = UPSTREAMS[name]
    if base_url is not None and not _URL.fullmatch(base_url):
        raise ConfigError("--base-url must be an http(s) URL, such as http://127.0.0.1:8000/v1")
    url = json.dumps(base_url or chosen.base_url)
    parts = (_head(name, chosen), _proxy(chosen, url), _keys(name, chosen, url), _POLICY)
    return "\n".join(parts)


def write_starter(path: Path, name: str, base_url: str | None = None) -> None:
    """Write it to a new file. Raises `ConfigError` when there is one already."""
    content = starter(name, base_url)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists already and is not overwritten: name another file with --out"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _head(name: str, chosen: Starter) -> str:
    client = chosen.client.format(url=f"http://127.0.0.1:{chosen.port}")
    return _commented(
        f"alknet-firewall in front of {chosen.name}, written by `alknet-firewall init {name}`.\n\n"
        "    alknet-firewall config check FILE\n"
        "    alknet-firewall serve --config FILE\n"
        f"    {client}\n\n"
        "Only the settings to begin with are here. What is absent has its default."
    )


def _proxy(chosen: Starter, url: str) -> str:
    prefixes = ", ".join(f'"{prefix}"' for prefix in chosen.prefixes)
    return f"""[proxy]
# Where clients connect. "0.0.0.0" lets other machines in, too.
host = "127.0.0.1"
port = {chosen.port}

{_commented(chosen.note)}upstream = {url}

# The paths that the API is served under.
prefixes = [{prefixes}]

# Messages of these roles are your own, and are not screened.
trusted_roles = ["system", "developer"]

# What becomes of a request that cannot be screened: "closed" answers 503,
# "open" forwards it, marked.
fail = "closed"
"""


def _keys(name: str, chosen: Starter, url: str) -> str:
    if chosen.key_env is None:
        return _commented("Clients' credentials are passed on as they are, and never logged.")
    return _commented(f"""\
The client's key is passed on to the upstream as it is, and never logged. To keep
the upstream's key here instead, take `upstream` above away and this in; clients
then need a key of their own (printf %s KEY | sha256sum).
[[upstream]]
name = "{name}"
base_url = {url}
api_key_env = "{chosen.key_env}"
api_key_header = "{chosen.key_header}"
[[client]]
name = "me"
key_sha256 = "{"0" * 64}\"""")


_POLICY = """\
[policy]
# "shadow" records what would be done, and does nothing: a good first week.
mode = "enforce"

# "allow", "log", "annotate" (forward, and say so in a header), "refuse" (answer
# as if the model had refused), or "block" (400, code "content_filter").
[policy.default]
suspicious = "annotate"
dangerous = "block"

# Where a role differs: "user" is what the user wrote, "tool" everything else,
# such as tool results and documents.
[policy.roles.tool]
# suspicious = "block"
"""


def _commented(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())
