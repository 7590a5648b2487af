# The environment of `make setup` as an image, by the same scripts.
#
#   docker build -t gemma-tf-distill .                                    (make docker)
#   docker run --rm -v "$PWD/outputs:/home/distill/outputs" gemma-tf-distill run demo
#   docker build --build-arg EXTRAS= -t gemma-tf-distill-worker .         the core alone: a trainer's image without TFX
#
# The mounted folder must be writable for user 1000. The base is Debian 13 with a Python 3.11 in it, because Debian 13 itself
# has only 3.13, and the one that uv could fetch comes from a host that many networks close.
ARG BASE=python:3.11-slim-trixie

FROM ${BASE} AS builder
# pyfarmhash, which tensorflow-data-validation wants, is compiled.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gemma-tf-distill
# The image's user cannot write byte code beside the packages, and would compile them in every container.
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
# In two steps, so that a change of the code does not fetch all packages anew.
ARG EXTRAS=demo,vertex
COPY pyproject.toml constraints.txt ./
COPY scripts scripts
RUN bash scripts/setup.sh packages
COPY . .
RUN bash scripts/setup.sh project && rm -rf .tools

FROM ${BASE}
RUN useradd --create-home --uid 1000 distill
COPY --from=builder /opt/gemma-tf-distill /opt/gemma-tf-distill
# Vertex AI and Beam workers start `python`, not the entry point.
ENV PATH=/opt/gemma-tf-distill/.venv/bin:${PATH}
# As tfx_pipeline/launcher.py sets them for a run.
ENV MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776
USER distill
WORKDIR /home/distill
ENTRYPOINT ["gemma-distill"]
CMD ["--help"]
