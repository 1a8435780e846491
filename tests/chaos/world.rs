//! One Redis, one executor, one load: the stage of most modes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::checks::{self, Checked, Counts, Seen, must};
use crate::load::{End, Load, Mix, Token, store_experiments};
use crate::random::Random;
use crate::rows;
use crate::subject::{Subject, places};
use crate::support::RedisServer;

pub(crate) const QUEUE: &str = "executor:jobs";
/// Until all that was pushed must have ended.
const DRAIN: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) redis: RedisServer,
    pub(crate) subject: Subject,
    pub(crate) load: Load,
    pub(crate) random: Random,
}

impl World {
    /// A new one, with nothing started.
    pub(crate) fn new(seed: u64, mix: Mix, slots: usize) -> Self {
        let redis = RedisServer::start();
        let subject = Subject::new(&redis.url(), "chaos", slots);
        Self::with(seed, mix, redis, subject)
    }

    pub(crate) fn with(seed: u64, mix: Mix, redis: RedisServer, subject: Subject) -> Self {
        let starts = subject.path("starts");
        store_experiments(&redis, &starts);
        let load = Load::new(seed, mix, 200, starts);
        Self { redis, subject, load, random: Random::new(seed ^ 0x6368_616f_7300) }
    }

    /// Fills the backlog of jobs that have not ended up to this many.
    pub(crate) fn push(&mut self, backlog: u64) {
        let open = self.pushed() - rows::ended(&self.subject.ledger(), "queue");
        let more = self.load.more(backlog.saturating_sub(open));
        if !more.is_empty() {
            self.redis.push_all(more.iter().map(Vec::as_slice));
        }
    }

    pub(crate) fn pushed(&self) -> u64 {
        self.load.tokens.len() as u64
    }

    /// Every token is in exactly one place. For an executor that is not running.
    pub(crate) fn conserved(&self) -> Checked {
        let places = places(&self.redis, QUEUE, &[&self.subject]);
        checks::conserved(&self.load.tokens, &places)
    }

    /// Waits until all has ended. For an executor that runs.
    pub(crate) fn drain(&mut self) -> Checked {
        let begun = Instant::now();
        while rows::ended(&self.subject.ledger(), "queue") < self.pushed() {
            must(!self.subject.has_died(), || "the executor died by itself".to_owned())?;
            must(begun.elapsed() < DRAIN, || {
                let jobs = rows::jobs(&self.subject.ledger());
                let open: Vec<_> = jobs.iter().filter(|job| !job.ended()).collect();
                let rows = jobs.len();
                format!("after {DRAIN:?} there are {rows} rows, and these have not ended: {open:?}")
            })?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A last life lasts until all has ended; then everything is checked.
    pub(crate) fn end(&mut self) -> Result<Counts, String> {
        self.subject.begin();
        self.subject.ready()?;
        self.finish()
    }

    /// Drains, stops, and checks everything.
    pub(crate) fn finish(&mut self) -> Result<Counts, String> {
        self.drain()?;
        self.subject.fsck()?;
        let code = self.subject.terminate();
        must(code == Some(0), || format!("SIGTERM ended it with {code:?}"))?;
        self.subject.nothing_left()?;
        self.subject.sample()?;
        self.subject.fsck()?;
        let places = places(&self.redis, QUEUE, &[&self.subject]);
        must(places.list.is_empty(), || format!("{} are left in the list", places.list.len()))?;
        must(places.noted.is_empty(), || format!("left noted: {:?}", places.noted))?;
        self.experiments_are_told()?;
        let (jobs, mut tokens) = (rows::jobs(&self.subject.ledger()), self.load.tokens.clone());
        // What a schedule brought has its id from us.
        for job in jobs.iter().filter(|job| job.source == "cron") {
            let token = Token { end: End::Ok, max_attempts: 3, key: None };
            tokens.insert(job.id.clone(), token);
        }
        checks::ended(&Seen {
            tokens: &tokens,
            jobs,
            attempts: rows::attempts(&self.subject.ledger()),
            starts: &self.subject.path("starts"),
            kills: &self.subject.kills,
            slots: self.subject.slots,
        })
    }

    /// No experiment is held by anybody, and each run's hash says how its job ended.
    fn experiments_are_told(&self) -> Checked {
        let held = self.redis.hash("executor:runs");
        must(held.is_empty(), || format!("all has ended, and experiments are held: {held:?}"))?;
        for number in 0..4 {
            let state = self.redis.hash(&format!("experiments:e{number}")).remove("state");
            must(state.as_deref() != Some("running"), || format!("e{number} is running still"))?;
            let paused = state.as_deref() == Some("paused");
            must((number == 3) == paused, || format!("e{number} has become {state:?}"))?;
        }
        for job in rows::jobs(&self.subject.ledger()) {
            let Some(run) = &job.run_id else { continue };
            let status = self.redis.hash(&format!("experiment_runs:{run}")).remove("status");
            must(status.as_deref() == Some(job.status.to_lowercase().as_str()), || {
                format!("the run {run} shows {status:?}, its job is {job:?}")
            })?;
        }
        Ok(())
    }

    /// Keeps the files of executor and Redis.
    pub(crate) fn keep(&mut self) -> Vec<PathBuf> {
        self.redis.dir.disable_cleanup(true);
        vec![self.subject.keep(), self.redis.dir.path().to_owned()]
    }
}
