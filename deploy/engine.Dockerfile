# The engine service: token ids in, token ids out. Built from the repository root:
#
#   docker build -f deploy/engine.Dockerfile -t folovllm-engine .
#
# TORCH_INDEX is an extra package index for torch; empty takes PyPI's build, which on Linux
# carries CUDA.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS dependencies
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv --without-pip /venv
WORKDIR /src
COPY requirements/lock.txt ./
RUN pip --python /venv/bin/python install --no-cache-dir --constraint lock.txt \
      ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "${TORCH}"
# The other dependencies, by way of an empty project: a change of code leaves this layer as it is.
COPY pyproject.toml ./
COPY folovllm/version.py folovllm/version.py
RUN touch README.md LICENSE \
    && pip --python /venv/bin/python install --no-cache-dir --constraint lock.txt ".[engine]" \
    && pip --python /venv/bin/python uninstall --yes folovllm

# The CPU kernels. Without them, as on processors other than x86-64, plain torch computes, and where
# a processor could use them the engine says so.
FROM dependencies AS kernels
RUN [ "$(uname -m)" != x86_64 ] || command -v g++ \
    || { apt-get update && apt-get install --yes --no-install-recommends g++; } \
    || echo "g++ cannot be installed; see above" >&2
WORKDIR /app
COPY folovllm/__init__.py folovllm/version.py folovllm/
COPY folovllm/installation folovllm/installation
COPY engine_service/__init__.py engine_service/
COPY engine_service/kernels engine_service/kernels
# A checkout may let a group write; kernels that others could have replaced are neither built nor used.
RUN chmod -R go-w /app
RUN [ "$(uname -m)" != x86_64 ] || /venv/bin/python -B -m engine_service.kernels.cpu.build || true

FROM ${BASE_IMAGE}
# For GPUs, whose kernels Triton launches through a few lines of C: gcc libc6-dev.
ARG COMPILER=
RUN [ -z "${COMPILER}" ] || { apt-get update \
    && apt-get install --yes --no-install-recommends ${COMPILER} \
    && rm -rf /var/lib/apt/lists/*; }
COPY --from=dependencies /venv /venv
# Where models named by hub id are kept. A new volume takes over its owner and mode.
RUN install --directory --owner=65532 --group=65532 --mode=700 /cache
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/cache \
    FOLOVLLM_ENGINE_HOST=0.0.0.0 \
    FOLOVLLM_ENGINE_PORT=50052
WORKDIR /app
COPY folovllm folovllm
COPY engine_service engine_service
COPY --from=kernels /app/engine_service/kernels engine_service/kernels
RUN chmod -R go-w /app && python -m compileall -q .
USER 65532:65532
EXPOSE 50052
HEALTHCHECK --interval=10s --timeout=8s --start-period=300s --retries=3 \
  CMD ["python", "-m", "folovllm.serving.healthcheck", "127.0.0.1:50052", "folovllm.v1.EngineService"]
ENTRYPOINT ["python", "-m", "engine_service"]
