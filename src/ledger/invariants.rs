//! The list of the ledger's invariants. Data only: [`super::check`] asks.

/// One rule: its question answers the rows that break it, as job id (or NULL) and a sentence.
pub(super) struct Invariant {
    /// For programs; several rules may share one.
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    /// What to do about a row that breaks it.
    pub(super) advice: &'static str,
}

const REPORT: &str = "keep a copy of the ledger and report it: no executor writes such a row";
const REQUEUE: &str = "cancel the job (`executor job cancel ID`) and push it again";
const RESTART: &str = "restart the executor: it puts back what nobody runs; then report it";

/// Rules that hold at any instant, with or without an executor at work.
pub(super) const ALL: &[Invariant] = &[
    Invariant {
        name: "file",
        sql: "SELECT NULL, 'the ledger has no id of its own' WHERE NOT EXISTS
            (SELECT 1 FROM meta WHERE name = 'ledger_id')",
        advice: "restore a backup: what is noted in Redis for this ledger is found by its id",
    },
    // The schema says so, too; this holds for files that another program has written to.
    Invariant {
        name: "state",
        sql: "SELECT id, 'it is ' || status || ', yet finished_at is ' || coalesce(finished_at, 'NULL')
            FROM jobs WHERE (finished_at IS NOT NULL) <> (status IN ('COMPLETED', 'FAILED'))",
        advice: REPORT,
    },
    Invariant {
        name: "state",
        sql: "SELECT id, 'it waits for its time, but has none' FROM jobs
            WHERE status = 'QUEUED' AND ready = 0 AND run_at IS NULL",
        advice: REQUEUE,
    },
    Invariant {
        name: "state",
        sql: "SELECT id, 'it is RUNNING, yet marked as waiting' FROM jobs
            WHERE status = 'RUNNING' AND ready <> 1",
        advice: REPORT,
    },
    Invariant {
        name: "state",
        sql: "SELECT id, 'it is RUNNING, but nothing says since when, or by whom' FROM jobs
            WHERE status = 'RUNNING' AND (started_at IS NULL OR executor_id IS NULL OR attempts = 0)",
        advice: RESTART,
    },
    Invariant {
        name: "state",
        sql: "SELECT id, 'it is COMPLETED ' || CASE WHEN result IS NULL THEN 'without a result'
                ELSE 'with the error ' || error_type END
            FROM jobs WHERE status = 'COMPLETED' AND (result IS NULL OR error_type IS NOT NULL)",
        advice: REPORT,
    },
    Invariant {
        name: "state",
        sql: "SELECT id, 'it is FAILED, and nothing says why' FROM jobs
            WHERE status = 'FAILED' AND error_type IS NULL",
        advice: REPORT,
    },
    Invariant {
        name: "state",
        sql: "SELECT j.id, 'it is ' || j.status || ', though its attempt ' || a.attempt || ' succeeded'
            FROM jobs j JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempts
            WHERE j.status IN ('QUEUED', 'FAILED') AND a.outcome = 'succeeded'",
        advice: REPORT,
    },
    Invariant {
        name: "state",
        sql: "SELECT j.id, 'it is COMPLETED, but its last attempt ' || coalesce(a.outcome, 'is missing')
            FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempts
            WHERE j.status = 'COMPLETED' AND j.duplicate = 0 AND a.outcome IS NOT 'succeeded'",
        advice: REPORT,
    },
    Invariant {
        name: "follows",
        sql: "SELECT j.id, 'it waits for the end of job ' || coalesce(j.duplicate_of, '(none)') || ', which '
                || CASE WHEN l.id IS NULL THEN 'is not in the ledger'
                    WHEN l.ready = 2 AND l.status = 'QUEUED' THEN 'itself waits for another'
                    ELSE 'is ' || l.status END
            FROM jobs j LEFT JOIN jobs l ON l.id = j.duplicate_of
            WHERE j.status = 'QUEUED' AND j.ready = 2
                AND (l.id IS NULL OR l.status NOT IN ('QUEUED', 'RUNNING') OR l.ready = 2)",
        advice: REQUEUE,
    },
    Invariant {
        name: "duplicate",
        sql: "SELECT id, 'duplicate is ' || duplicate || ', duplicate_of is ' || coalesce(duplicate_of, 'NULL')
            FROM jobs WHERE duplicate <> (duplicate_of IS NOT NULL) OR duplicate_of = id",
        advice: REPORT,
    },
    Invariant {
        name: "duplicate",
        sql: "SELECT j.id, 'it took over the result of job ' || l.id || ', which has another'
            FROM jobs j JOIN jobs l ON l.id = j.duplicate_of
            WHERE j.status = 'COMPLETED' AND j.idempotency_key IS NOT NULL AND j.attempts = 0
                AND (l.status <> 'COMPLETED' OR l.result IS NOT j.result)",
        advice: REPORT,
    },
    Invariant {
        name: "key",
        sql: "SELECT max(id), 'of the jobs with the key ' || idempotency_key || ', ' || count(*)
                || ' are to run, run, or have run to a result of their own'
            FROM jobs WHERE idempotency_key IS NOT NULL
                AND ((status IN ('QUEUED', 'RUNNING') AND ready <> 2) OR (status = 'COMPLETED' AND duplicate = 0))
            GROUP BY idempotency_key HAVING count(*) > 1",
        advice: REPORT,
    },
    Invariant {
        name: "attempts",
        sql: "SELECT j.id, 'it counts ' || j.attempts || ' starts, but ' || coalesce(a.n, 0)
                || ' attempts are recorded, the last numbered ' || coalesce(a.last, 0)
            FROM jobs j LEFT JOIN
                (SELECT job_id, count(*) AS n, max(attempt) AS last FROM attempts GROUP BY job_id) a
                ON a.job_id = j.id
            WHERE j.attempts <> coalesce(a.n, 0) OR j.attempts <> coalesce(a.last, 0)",
        advice: REPORT,
    },
    Invariant {
        name: "attempts",
        sql: "SELECT job_id, 'its attempt ' || attempt || ' is recorded, but the job is not'
            FROM attempts WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = job_id)",
        advice: REPORT,
    },
    Invariant {
        name: "open_attempt",
        sql: "SELECT a.job_id, 'its attempt ' || a.attempt || ' is open, though the job is '
                || j.status || ' with ' || j.attempts || ' starts'
            FROM attempts a JOIN jobs j ON j.id = a.job_id
            WHERE a.finished_at IS NULL AND (j.status <> 'RUNNING' OR a.attempt <> j.attempts)",
        advice: REPORT,
    },
    Invariant {
        name: "open_attempt",
        sql: "SELECT j.id, 'it is RUNNING, but its attempt ' || j.attempts || ' is '
                || CASE WHEN a.attempt IS NULL THEN 'not recorded'
                    WHEN a.finished_at IS NOT NULL THEN 'over' ELSE 'that of ' || a.executor_id END
            FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempts
            WHERE j.status = 'RUNNING'
                AND (a.attempt IS NULL OR a.finished_at IS NOT NULL OR a.executor_id <> j.executor_id)",
        advice: RESTART,
    },
    Invariant {
        name: "outcome",
        sql: "SELECT job_id, 'its attempt ' || attempt || ' has the outcome ' || coalesce(outcome, 'NULL')
                || ' and finished_at ' || coalesce(finished_at, 'NULL')
            FROM attempts WHERE (outcome IS NULL) <> (finished_at IS NULL)
                OR outcome NOT IN ('succeeded', 'failed', 'timed_out', 'limit_exceeded', 'crashed',
                    'cancelled', 'interrupted', 'not_started', 'lost')",
        advice: REPORT,
    },
    Invariant {
        name: "counts",
        sql: "SELECT id, failures || ' failures and ' || interruptions || ' interruptions in '
                || attempts || ' attempts'
            FROM jobs WHERE failures + interruptions > attempts",
        advice: REPORT,
    },
    // They are compared as text, so another form would be out of order.
    Invariant {
        name: "times",
        sql: "WITH times(id, name, value) AS (
                SELECT id, 'created_at', created_at FROM jobs UNION ALL
                SELECT id, 'run_at', run_at FROM jobs UNION ALL
                SELECT id, 'started_at', started_at FROM jobs UNION ALL
                SELECT id, 'finished_at', finished_at FROM jobs UNION ALL
                SELECT job_id, 'started_at of attempt ' || attempt, started_at FROM attempts UNION ALL
                SELECT job_id, 'finished_at of attempt ' || attempt, finished_at FROM attempts)
            SELECT id, 'its ' || name || ' is ' || value || ', not RFC 3339 with milliseconds and Z'
            FROM times WHERE value NOT GLOB
                '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z'",
        advice: REPORT,
    },
    Invariant {
        name: "experiment",
        sql: "SELECT max(id), count(*) || ' jobs run the experiment ' || experiment_id
            FROM jobs WHERE status = 'RUNNING' AND experiment_id IS NOT NULL
            GROUP BY experiment_id HAVING count(*) > 1",
        advice: REPORT,
    },
    Invariant {
        name: "experiment",
        sql: "SELECT max(id), count(*) || ' jobs are the run ' || run_id
            FROM jobs WHERE run_id IS NOT NULL GROUP BY run_id HAVING count(*) > 1",
        advice: REPORT,
    },
    Invariant {
        name: "outbox",
        sql: "SELECT subject, 'message ' || seq || ' for Redis cannot be read' FROM outbox
            WHERE NOT json_valid(body) OR kind NOT IN ('job', 'run_began', 'run_ended')",
        advice: REPORT,
    },
    Invariant {
        name: "outbox",
        sql: "SELECT j.id, 'it is ' || j.status || ' with ' || j.attempts
                || ' starts, but the last message waiting for Redis says ' || (o.body ->> 'status')
                || ' with ' || (o.body ->> 'attempts')
            FROM (SELECT max(seq) AS last FROM outbox WHERE kind = 'job' GROUP BY subject)
            JOIN outbox o ON o.seq = last JOIN jobs j ON j.id = o.subject
            WHERE json_valid(o.body) AND (o.body ->> 'status' <> j.status OR o.body ->> 'attempts' <> j.attempts)",
        advice: REPORT,
    },
];

/// Holds while an executor serves. Parameters: its name, since when its process lives.
pub(super) const SERVED: Invariant = Invariant {
    name: "served",
    sql: "SELECT id, 'it is RUNNING since ' || started_at || ' by ' || executor_id
            || ', but the executor at work is ' || ?1 || ', since ' || ?2
        FROM jobs WHERE status = 'RUNNING' AND (executor_id <> ?1 OR started_at < ?2)",
    advice: RESTART,
};
