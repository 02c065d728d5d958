# CUDA (torch from PyPI brings its own libraries; run with `--gpus all`):
#     docker build -t regsearch .
# CPU only, with the index of CPU wheels that pytorch.org's install page names:
#     docker build -t regsearch:cpu --build-arg TORCH_INDEX=... .
#
#     docker run --rm --gpus all -v "$PWD:/work" regsearch run search_spaces/digits.yaml
FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# The compiler builds the kernels for training on a CPU; torch.compile needs it for a GPU's.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/regsearch
COPY pyproject.toml README.md constraints.txt ./
COPY pipeline pipeline
RUN if [ -n "$TORCH_INDEX" ]; then PIP_INDEX_URL="$TORCH_INDEX" pip install torch torchvision; fi \
 && if [ -n "$TORCH_INDEX" ]; then pip install .; else pip install . -c constraints.txt; fi

RUN useradd --create-home --uid 1000 regsearch && mkdir /work && chown regsearch /work
USER regsearch
WORKDIR /work
COPY --chown=regsearch search_spaces search_spaces
ENTRYPOINT ["regsearch"]
CMD ["--help"]
