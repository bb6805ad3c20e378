# ckd-det in a container, as a user without rights.
#
#   docker build -t ckd-det .                       for processors
#   docker build -t ckd-det:cuda --target cuda .    for NVIDIA GPUs
#
#   docker run --rm -v "$PWD:/data" ckd-det train quickstart
#   docker run --rm --gpus all -v "$PWD:/data" --user "$(id -u):$(id -g)" ckd-det:cuda train coco_r101_r18 --device cuda
ARG RUST=1.95
ARG CUDA=13.0.1

FROM rust:${RUST}-bookworm AS build-cpu
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked && install -Ds target/release/ckd-det /out/ckd-det

FROM rust:${RUST}-bookworm AS rust

# nvcc for candle's kernels; those of ckd-det are compiled at their first use, for the GPU that is there.
FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu24.04 AS build-cuda
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
# The driver's library is the host's; its stub is what a build links.
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH \
    CUDA_COMPUTE_CAP=80 LIBRARY_PATH=/usr/local/cuda/lib64/stubs
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked --features cuda && install -Ds target/release/ckd-det /out/ckd-det

# The image has CUDA's libraries, its runtime compiler and cuDNN.
FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=build-cuda /out/ckd-det /usr/local/bin/ckd-det
RUN useradd --create-home --uid 10001 ckd && install -d -o ckd -g ckd -m 1777 /data /var/cache/ckd-det
ENV CKD_DET_CACHE=/var/cache/ckd-det
USER 10001
WORKDIR /data
ENTRYPOINT ["ckd-det"]
CMD ["--help"]

FROM debian:bookworm-slim AS cpu
COPY --from=build-cpu /out/ckd-det /usr/local/bin/ckd-det
RUN useradd --create-home --uid 10001 ckd && install -d -o ckd -g ckd -m 1777 /data
USER 10001
WORKDIR /data
ENTRYPOINT ["ckd-det"]
CMD ["--help"]
