# The binary alone, as a user without rights. Mount or bake in the project's folder:
#   docker build -t deltaworks . && docker run --rm -v "$PWD:/project:ro" deltaworks check
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package deltaworks-cli

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates tzdata \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /project deltaworks
COPY --from=build /src/target/release/deltaworks /usr/local/bin/deltaworks
USER 10001
WORKDIR /project
ENTRYPOINT ["/usr/local/bin/deltaworks"]
