# docker build -t sedm .
# docker run --rm -v "$PWD/figures:/sedm/figures" -v "$PWD/data/runs:/sedm/data/runs" sedm        # make reproduce
# docker run --rm -p 127.0.0.1:8888:8888 sedm .venv/bin/jupyter lab --ip=0.0.0.0 --allow-root --no-browser
#
# With an NVIDIA GPU, PyPI's own build of torch: docker build --build-arg TORCH_INDEX= -t sedm .
# and docker run --gpus all … sedm make reproduce PRESET=full
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /sedm

# Packages first: they are fetched again only when the lock file changes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=$TORCH_INDEX PIP_NO_CACHE_DIR=1
COPY requirements.lock .
RUN python -m venv .venv && .venv/bin/python -m pip install --quiet -r requirements.lock

COPY . .
RUN make .venv/installed
CMD ["make", "reproduce"]
