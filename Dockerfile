# Builds the image of pause with docker, buildah or podman.
#
#   docker buildx build --platform linux/amd64,linux/arm64 .
#
# The image has the same files and settings as the one that podpause-image writes, but not the same digest: each engine
# archives and compresses layers in its own way.

# Docker without BuildKit does not set BUILDPLATFORM, so it has a default.
FROM --platform=${BUILDPLATFORM:-linux/amd64} rust:1.95.0 AS build
# The targets that `podpause-image --list-platforms` prints. The layers up to ARG TARGETPLATFORM are the same for all
# platforms.
RUN rustup target add x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu \
    armv7-unknown-linux-gnueabihf powerpc64le-unknown-linux-gnu s390x-unknown-linux-gnu \
    riscv64gc-unknown-linux-gnu loongarch64-unknown-linux-gnu i686-unknown-linux-gnu
WORKDIR /source
COPY . .
RUN cargo build --locked --release --package podpause-image
ARG TARGETPLATFORM
RUN target/release/podpause-image ${TARGETPLATFORM:+--platform "$TARGETPLATFORM"} --out /dist \
    && mkdir -p /files/usr/bin \
    && cp /dist/pause-linux-* /files/pause \
    && ln /files/pause /files/usr/bin/pod

FROM scratch
COPY --from=build /files /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER 65535:65535
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["/pause"]
