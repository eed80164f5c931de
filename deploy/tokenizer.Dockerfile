# The tokenizer service: text in, streamed text out; no torch. Built from the repository root:
#
#   docker build -f deploy/tokenizer.Dockerfile -t folovllm-tokenizer .
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS dependencies
RUN python -m venv --without-pip /venv
WORKDIR /src
# The dependencies, by way of an empty project: a change of code leaves this layer as it is.
COPY pyproject.toml requirements/lock.txt ./
COPY folovllm/version.py folovllm/version.py
RUN touch README.md LICENSE \
    && pip --python /venv/bin/python install --no-cache-dir --constraint lock.txt ".[tokenizer]" \
    && pip --python /venv/bin/python uninstall --yes folovllm

FROM ${BASE_IMAGE}
COPY --from=dependencies /venv /venv
# Where models named by hub id are kept. A new volume takes over its owner and mode.
RUN install --directory --owner=65532 --group=65532 --mode=700 /cache
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/cache \
    FOLOVLLM_HOST=0.0.0.0 \
    FOLOVLLM_PORT=50051
WORKDIR /app
COPY folovllm folovllm
COPY tokenizer_service tokenizer_service
RUN python -m compileall -q .
USER 65532:65532
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=8s --start-period=300s --retries=3 \
  CMD ["python", "-m", "folovllm.serving.healthcheck", "127.0.0.1:50051", "folovllm.v1.TokenizerService"]
ENTRYPOINT ["python", "-m", "tokenizer_service"]
