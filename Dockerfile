# The images of docker-compose.yml, one target each: db, manager, client. Made for trying, not for production.
# It needs BuildKit (the default since engine 23; DOCKER_BUILDKIT=1 before): the older builder would make every stage,
# the servers of both flavors among them.

ARG FLAVOR=mariadb
ARG MARIADB_IMAGE=mariadb:10.11
ARG MYSQL_IMAGE=mysql:9.7
ARG DEBIAN_IMAGE=debian:bookworm-slim
ARG RUST_IMAGE=rust:1.95-slim-bookworm
# The stage or image that has the programs in /out. An image of your own spares the build.
ARG PROGRAMS=build

# Debian 12's glibc is no newer than that of the server images, so what is linked here runs there.
FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests/lab tests/lab
RUN cargo build --release --locked --bins --example writer --example checker \
    && install -D -t /out target/release/mha-manager target/release/mha-agent target/release/mhactl \
        target/release/examples/writer target/release/examples/checker

FROM ${PROGRAMS} AS programs

FROM ${MARIADB_IMAGE} AS server-mariadb
FROM ${MYSQL_IMAGE} AS server-mysql

# A database host: server and agent. Debian, Ubuntu and Oracle Linux are what the official images are made from.
FROM server-${FLAVOR} AS db
ARG FLAVOR
USER root
RUN if command -v apt-get; then \
        apt-get update && apt-get install -y --no-install-recommends nftables iproute2 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    else microdnf install -y nftables iproute util-linux && microdnf clean all; fi \
    && { id mysql || useradd --system --home-dir /nonexistent --shell /bin/false mysql; } \
    && rm -rf /var/lib/mysql/* && mkdir -p /var/lib/mysql /var/lib/mha-agent && chown mysql:mysql /var/lib/mysql /var/lib/mha-agent \
    && ln -sf /run/client.cnf /root/.my.cnf
COPY --from=programs /out/mha-agent /usr/local/bin/
COPY scripts/lib/server-config.sh docker/db docker/db-health docker/server-start docker/clone /usr/local/lib/mha/
ENV FLAVOR=${FLAVOR}
EXPOSE 3306 8421
ENTRYPOINT ["/usr/local/lib/mha/db"]
CMD []

FROM ${DEBIAN_IMAGE} AS base
RUN groupadd --system --gid 8420 mha \
    && useradd --system --uid 8420 --gid mha --home-dir /nonexistent --shell /usr/sbin/nologin mha
COPY docker/secrets /usr/local/lib/mha/

# The manager; mhactl in it knows where to ask.
FROM base AS manager
COPY --from=programs /out/mha-manager /out/mhactl /usr/local/bin/
COPY docker/manager docker/adopt /usr/local/lib/mha/
COPY docker/mhactl.toml /etc/mha/mhactl.toml
RUN mkdir -m 700 /var/lib/mha && chown mha:mha /var/lib/mha
USER mha
EXPOSE 8420
ENTRYPOINT ["/usr/local/lib/mha/manager"]

# The measuring client, and the forwarder by which the host reaches the VIP.
FROM base AS client
RUN apt-get update && apt-get install -y --no-install-recommends socat && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=programs /out/writer /out/checker /usr/local/bin/
COPY docker/client docker/door /usr/local/lib/mha/
USER mha
ENTRYPOINT ["/usr/local/lib/mha/client"]
