# The image of outboxd: one static program, no shell, no user but a number. Config and secrets are
# mounted; nothing is written but files of csv sinks, below /var/lib/outboxd. See docs/deploy.md.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies by themselves: this layer stays until Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src integration/bench files \
 && echo 'fn main() {}' | tee src/main.rs integration/main.rs >integration/bench/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked --lib

COPY src src
COPY sql sql
# Cargo goes by times, and the copied files are older than what it made of the empty ones.
RUN touch src/lib.rs src/main.rs \
 && cargo rustc --release --locked --bin outboxd -- -C target-feature=+crt-static

FROM scratch
COPY --from=build /build/target/release/outboxd /usr/local/bin/outboxd
COPY --from=build --chown=65532:65532 /build/files /var/lib/outboxd
ENV OUTBOXD_CONFIG=/etc/outboxd/outboxd.toml
USER 65532:65532
EXPOSE 9464
STOPSIGNAL SIGTERM
# Unhealthy means killed in many places, and a database that is away is cured by no restart. Without [admin]
# nothing can be asked: switch the check off there.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s CMD ["/usr/local/bin/outboxd", "health", "--live"]
ENTRYPOINT ["/usr/local/bin/outboxd"]
CMD ["run"]
