"""Any OpenAI client, with the firewall in between.

uv run alknet-firewall demo            # in one terminal
uv run examples/openai_client.py       # in another; or export OPENAI_BASE_URL instead
"""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="unused by the demo")

stream = client.chat.completions.create(
    model="echo",
    messages=[{"role": "user", "content": "What is a good recipe for banana bread?"}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
