//! What must hold, as functions of what was seen. Each fault is a sentence.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::load::{End, Token};
use crate::rows::{Attempt, Job};

pub(crate) type Checked = Result<(), String>;

/// `Err` unless it holds.
pub(crate) fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// What samples of one ledger have shown so far.
#[derive(Default)]
pub(crate) struct History(HashMap<String, Job>);

impl History {
    /// No row vanishes, attempts only rise, and a row that has ended never changes.
    pub(crate) fn sample(&mut self, jobs: Vec<Job>) -> Checked {
        let now: HashMap<String, Job> = jobs.into_iter().map(|job| (job.id.clone(), job)).collect();
        for (id, before) in &self.0 {
            let Some(job) = now.get(id) else { return Err(format!("the row of {id} is gone")) };
            // One that has just been claimed may be given back, its start not counted.
            let back = u32::from(before.status == "RUNNING");
            must(job.attempts + back >= before.attempts, || {
                format!("the attempts of {id} fell from {} to {}", before.attempts, job.attempts)
            })?;
            must(!before.ended() || job == before, || {
                format!("{id} had ended and has changed: {before:?}, now {job:?}")
            })?;
        }
        self.0 = now;
        Ok(())
    }
}

/// Where the tokens are while nobody moves them.
pub(crate) struct Places {
    /// Payloads in the list.
    pub(crate) list: Vec<Vec<u8>>,
    /// Receipts and payloads that are noted.
    pub(crate) noted: Vec<(String, Vec<u8>)>,
    pub(crate) jobs: Vec<Job>,
}

/// Every token is in exactly one place.
pub(crate) fn conserved(tokens: &BTreeMap<String, Token>, places: &Places) -> Checked {
    let known: BTreeSet<&str> = places.jobs.iter().filter_map(|j| j.receipt.as_deref()).collect();
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut at = |id: String, place| found.entry(id).or_default().push(place);
    for payload in &places.list {
        at(id_of(payload)?, "the list");
    }
    for (receipt, payload) in &places.noted {
        if !known.contains(receipt.as_str()) {
            at(id_of(&payload[1..])?, "a note");
        }
    }
    for job in &places.jobs {
        at(job.id.clone(), "the ledger");
    }
    for id in tokens.keys() {
        match found.remove(id).as_deref() {
            Some([_]) => {}
            Some(many) => return Err(format!("{id} is in {} places: {many:?}", many.len())),
            None => return Err(format!("{id} is lost: neither in Redis nor in the ledger")),
        }
    }
    must(found.is_empty(), || format!("nobody pushed these: {found:?}"))
}

fn id_of(payload: &[u8]) -> Result<String, String> {
    let value: serde_json::Value =
        serde_json::from_slice(payload).map_err(|error| format!("a payload is cut: {error}"))?;
    Ok(value["job_id"].as_str().unwrap_or_default().to_owned())
}

/// What was seen in all, once everything has ended.
pub(crate) struct Seen<'a> {
    pub(crate) tokens: &'a BTreeMap<String, Token>,
    /// Of all ledgers.
    pub(crate) jobs: Vec<Job>,
    pub(crate) attempts: Vec<Attempt>,
    /// The file in which jobs note their starts.
    pub(crate) starts: &'a Path,
    /// When executors were killed.
    pub(crate) kills: &'a [String],
    /// Attempts that one kill may cut short.
    pub(crate) slots: usize,
}

/// What came of it, for the report.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) jobs: usize,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    /// Runs of experiments.
    pub(crate) runs: usize,
    pub(crate) starts: usize,
    pub(crate) lost_attempts: usize,
    pub(crate) given_up: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.completed += other.completed;
        self.failed += other.failed;
        self.runs += other.runs;
        self.starts += other.starts;
        self.lost_attempts += other.lost_attempts;
        self.given_up += other.given_up;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { jobs, completed, failed, runs, starts, lost_attempts, given_up } = self;
        write!(
            f,
            "{jobs} jobs ({completed} COMPLETED, {failed} FAILED, {given_up} of them after five deaths; \
             {runs} runs of experiments), \
             {starts} starts noted by jobs, {lost_attempts} attempts cut short"
        )
    }
}

/// Checks the whole record.
pub(crate) fn ended(seen: &Seen<'_>) -> Result<Counts, String> {
    let mut counts = Counts { jobs: seen.jobs.len(), ..Counts::default() };
    let mut jobs: BTreeMap<&str, &Job> = BTreeMap::new();
    for job in &seen.jobs {
        must(jobs.insert(&job.id, job).is_none(), || format!("{} has two rows", job.id))?;
        must(job.ended(), || format!("{} has not ended: {job:?}", job.id))?;
        must(seen.tokens.contains_key(&job.id), || format!("nobody pushed {}", job.id))?;
    }
    let mut attempts: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in &seen.attempts {
        attempts.entry(&attempt.job).or_default().push(attempt);
    }
    for (id, token) in seen.tokens {
        let job = jobs.get(id.as_str()).ok_or_else(|| format!("{id} is lost: it has no row"))?;
        let attempts = attempts.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        one(token, job, attempts)?;
        let lost = attempts.iter().filter(|a| a.outcome.as_deref() == Some("lost")).count();
        counts.lost_attempts += lost;
        counts.completed += usize::from(job.status == "COMPLETED");
        counts.runs += usize::from(job.run_id.is_some());
        counts.failed += usize::from(job.status == "FAILED");
        counts.given_up += usize::from(job.error_type.as_deref() == Some(LOST));
    }
    counts.starts = starts(seen)?;
    lost_at_kills(seen)?;
    keys(seen, &jobs)?;
    Ok(counts)
}

/// What a job that killed its executors too often is failed with.
const LOST: &str = "ExecutorLostError";

/// One token's row and attempts are what its kind must come to.
fn one(token: &Token, job: &Job, attempts: &[&Attempt]) -> Checked {
    let id = &job.id;
    let outcome = |a: &Attempt| a.outcome.clone().unwrap_or_else(|| "open".to_owned());
    let outcomes: Vec<String> = attempts.iter().map(|a| outcome(a)).collect();
    let count = |words: &[&str]| {
        u32::try_from(outcomes.iter().filter(|o| words.contains(&o.as_str())).count()).unwrap()
    };
    let tell = || format!("{id} ({token:?}) ended as {job:?} after {outcomes:?}");
    must(job.attempts == u32::try_from(attempts.len()).unwrap(), tell)?;
    must(job.interruptions == count(&["lost"]), tell)?;
    must(
        job.failures == if token.end == End::Bad { 0 } else { count(&["failed", "crashed"]) },
        tell,
    )?;
    must(count(&["succeeded"]) <= 1, tell)?;
    // Every start but the last was cut short, failed, or never came to be.
    let again = ["lost", "failed", "crashed", "not_started", "interrupted"];
    let before = outcomes.split_last().map_or(&[][..], |(_, before)| before);
    must(before.iter().all(|o| again.contains(&o.as_str())), tell)?;
    let error = job.error_type.as_deref();
    if error == Some(LOST) {
        return must(job.status == "FAILED" && job.interruptions == 5, tell);
    }
    let right = match token.end {
        End::Ok | End::Once => job.status == "COMPLETED",
        End::Fail => error == Some("RuntimeError") && job.failures == token.max_attempts,
        End::Crash | End::Leave => {
            error == Some("CrashedError") && job.failures == token.max_attempts
        }
        End::Bad => error == Some("InvalidPayloadError") && job.attempts == 0,
        End::Experiment(false) => job.status == "COMPLETED",
        End::Experiment(true) => error == Some("RuntimeError") && job.failures == 1,
    };
    must(right, tell)
}

/// Each start that a job noted itself has an attempt of its own, and each success was noted.
fn starts(seen: &Seen<'_>) -> Result<usize, String> {
    let text = std::fs::read_to_string(seen.starts).unwrap_or_default();
    let recorded: BTreeSet<(&str, u32)> =
        seen.attempts.iter().map(|a| (a.job.as_str(), a.number)).collect();
    let mut noted = BTreeSet::new();
    for line in text.lines() {
        let (job, number) = line.split_once(' ').ok_or_else(|| format!("a torn line: {line}"))?;
        let start = (job, number.parse().map_err(|_| format!("a torn line: {line}"))?);
        must(noted.insert(start), || format!("attempt {} of {} ran twice", start.1, start.0))?;
        must(recorded.contains(&start), || {
            format!("{} noted a start {} that has no attempt", start.0, start.1)
        })?;
    }
    for attempt in &seen.attempts {
        let ran = matches!(attempt.outcome.as_deref(), Some("succeeded" | "failed"));
        must(!ran || noted.contains(&(attempt.job.as_str(), attempt.number)), || {
            format!("{attempt:?} is recorded, but the job never started")
        })?;
    }
    Ok(noted.len())
}

/// A start was cut short only by a kill, and by each kill no more of them than there are slots.
fn lost_at_kills(seen: &Seen<'_>) -> Checked {
    let mut by_kill: BTreeMap<&str, usize> = BTreeMap::new();
    for attempt in seen.attempts.iter().filter(|a| a.outcome.as_deref() == Some("lost")) {
        let ended = attempt.finished_at.as_deref().unwrap_or_default();
        let began = attempt.started_at.as_str();
        let kill = seen.kills.iter().find(|at| began <= at.as_str() && at.as_str() <= ended);
        let kill =
            kill.ok_or_else(|| format!("{attempt:?} is lost, but nothing was killed then"))?;
        *by_kill.entry(kill).or_default() += 1;
    }
    match by_kill.iter().find(|(_, lost)| **lost > seen.slots) {
        Some((kill, lost)) => {
            Err(format!("the kill at {kill} cut {lost} attempts short, of {} slots", seen.slots))
        }
        None => Ok(()),
    }
}

/// Of jobs with one key, one ran to its result, and all have that result.
fn keys(seen: &Seen<'_>, jobs: &BTreeMap<&str, &Job>) -> Checked {
    let mut groups: BTreeMap<&str, Vec<&Job>> = BTreeMap::new();
    for (id, token) in seen.tokens {
        if let Some(key) = &token.key {
            groups.entry(key).or_default().push(jobs[id.as_str()]);
        }
    }
    let won: BTreeSet<&str> = seen
        .attempts
        .iter()
        .filter(|a| a.outcome.as_deref() == Some("succeeded"))
        .map(|a| a.job.as_str())
        .collect();
    for (key, jobs) in groups {
        let ran = jobs.iter().filter(|job| won.contains(job.id.as_str())).count();
        must(ran <= 1, || format!("of the jobs with the key {key}, {ran} ran to a result"))?;
        let results: BTreeSet<_> =
            jobs.iter().filter(|j| j.status == "COMPLETED").map(|j| &j.result).collect();
        must(results.len() <= 1, || format!("jobs with the key {key} have results {results:?}"))?;
    }
    Ok(())
}
