-- The ledger, version 1. Embedded in the binary; later versions migrate by PRAGMA user_version.
--
-- Times are RFC 3339 UTC text with milliseconds and Z, so they compare as text. JSON is text.
-- seq is the order of arrival. Every transition is guarded by status, attempt and owner in
-- src/ledger; the checks here are the last line.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE jobs (
    seq              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 200),
    source           TEXT NOT NULL CHECK (source IN ('queue', 'trigger', 'cron', 'speedrun', 'cli')),
    task_type        TEXT CHECK (task_type IN ('event', 'on_demand', 'scheduled_batch', 'etl', 'maintenance')),
    experiment_id    TEXT,
    run_id           TEXT,
    -- When its run began: the first of its attempts.
    run_started_at   TEXT,
    -- The target: a tool, or the triple. All NULL for an experiment that has not begun, and for
    -- a payload that names none.
    module_path      TEXT,
    class_name       TEXT,
    method_name      TEXT,
    tool             TEXT,
    parameters       TEXT CHECK (parameters IS NULL OR json_valid(parameters)),
    priority         INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 9),
    status           TEXT NOT NULL CHECK (status IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED')),
    -- Starts; those that count against max_attempts; those ended by the executor's own death.
    attempts         INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    failures         INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    interruptions    INTEGER NOT NULL DEFAULT 0 CHECK (interruptions >= 0),
    max_attempts     INTEGER NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
    retry_on         TEXT NOT NULL CHECK (retry_on IN ('all', 'transient')),
    timeout_seconds  REAL NOT NULL CHECK (timeout_seconds > 0),
    idempotency_key  TEXT,
    -- duplicate_of is the job this one repeats or follows.
    duplicate        INTEGER NOT NULL DEFAULT 0 CHECK (duplicate IN (0, 1)),
    duplicate_of     TEXT,
    warning          TEXT,
    run_at           TEXT,
    created_at       TEXT NOT NULL,
    -- Of the latest attempt.
    started_at       TEXT,
    finished_at      TEXT,
    result           TEXT CHECK (result IS NULL OR json_valid(result)),
    result_bytes     INTEGER,
    result_truncated INTEGER NOT NULL DEFAULT 0 CHECK (result_truncated IN (0, 1)),
    -- Of the latest failure; kept while a retry waits.
    error_type       TEXT,
    error            TEXT,
    traceback        TEXT,
    partial_results  TEXT CHECK (partial_results IS NULL OR json_valid(partial_results)),
    executor_id      TEXT,
    -- As it came: text, or a BLOB where it is not UTF-8.
    payload          ANY,
    -- Recognises a repeated delivery.
    receipt          TEXT UNIQUE,
    -- 1: may be claimed. 0: its run_at lies ahead. 2: it follows the job duplicate_of names.
    ready            INTEGER NOT NULL DEFAULT 1 CHECK (ready IN (0, 1, 2)),
    CHECK ((finished_at IS NOT NULL) = (status IN ('COMPLETED', 'FAILED'))),
    CHECK (status <> 'FAILED' OR error_type IS NOT NULL),
    CHECK (status <> 'RUNNING' OR (attempts > 0 AND executor_id IS NOT NULL))
) STRICT;

-- What may be claimed: by priority, and by age alone for every tenth start.
CREATE INDEX jobs_waiting ON jobs (priority DESC, seq) WHERE status = 'QUEUED' AND ready = 1;
CREATE INDEX jobs_oldest ON jobs (seq) WHERE status = 'QUEUED' AND ready = 1;
CREATE INDEX jobs_due ON jobs (run_at) WHERE status = 'QUEUED' AND ready = 0;
CREATE INDEX jobs_running ON jobs (experiment_id) WHERE status = 'RUNNING';
CREATE INDEX jobs_keys ON jobs (idempotency_key, seq) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_following ON jobs (duplicate_of, seq) WHERE status = 'QUEUED' AND ready = 2;
CREATE INDEX jobs_failed ON jobs (seq) WHERE status = 'FAILED';
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE attempts (
    job_id           TEXT NOT NULL,
    attempt          INTEGER NOT NULL CHECK (attempt > 0),
    executor_id      TEXT NOT NULL,
    pid              INTEGER,
    start_method     TEXT NOT NULL,
    started_at       TEXT NOT NULL,
    finished_at      TEXT,
    -- succeeded, failed, timed_out, limit_exceeded, crashed, cancelled, interrupted, not_started,
    -- lost (the executor died under it); NULL while it runs.
    outcome          TEXT,
    error_type       TEXT,
    error            TEXT,
    traceback        TEXT,
    exit_code        INTEGER,
    signal           INTEGER,
    cpu_seconds      REAL,
    max_rss_bytes    INTEGER,
    survivors_killed INTEGER,
    log_tail         TEXT,
    log_bytes        INTEGER,
    PRIMARY KEY (job_id, attempt)
) STRICT, WITHOUT ROWID;

-- What Redis must be told, in this order, until it has acknowledged it.
CREATE TABLE outbox (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    body    TEXT NOT NULL
) STRICT;

-- Schedules without Redis: since when each is known, its last due time (catch-up).
CREATE TABLE clock (
    id         TEXT PRIMARY KEY,
    expression TEXT NOT NULL,
    timezone   TEXT NOT NULL,
    seen       TEXT NOT NULL,
    last       TEXT
) STRICT;
