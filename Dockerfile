# The executor with a Python of its own. Build: docker build -t fullsend-executor .
FROM rust:1.95-slim-bookworm AS build
# A C compiler for the bundled SQLite.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
# The dependencies are a layer of their own: a change of the sources alone does not build them again.
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -rf src target/release/executor target/release/deps/executor* target/release/deps/libexecutor* \
       target/release/.fingerprint/executor-*
COPY src src
COPY python_shim python_shim
COPY schema.sql ./
RUN cargo build --release --locked

FROM python:3.12-slim-bookworm AS runtime
RUN useradd --system --uid 10001 --create-home --home-dir /home/executor executor \
    && install -d -o executor -g executor /data
WORKDIR /app
COPY --from=build /build/target/release/executor /usr/local/bin/executor
COPY config config
COPY tasks tasks
COPY tools tools
ENV HTTP_ADDR=0.0.0.0:8080 \
    DB_URL=sqlite:///data/executor.db \
    TASKS_PATH=/app \
    TOOLS_PATH=/app/tools \
    LOG_FORMAT=json
# How experiments start (SCHEDULE_MODE and its kin) is left to the deployment.
USER executor
VOLUME ["/data", "/app/tools"]
EXPOSE 8080
# As process 1 the executor reaps what is orphaned; no init is needed beside it.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["executor", "doctor", "--health"]
ENTRYPOINT ["executor"]
CMD ["serve"]
