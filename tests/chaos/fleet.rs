//! Many executors, each with a ledger of its own, share one Redis; each second one is killed.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::checks::{self, Checked, Counts, Seen, must};
use crate::load::{Load, Mix};
use crate::rows;
use crate::subject::{Subject, places};
use crate::support::RedisServer;
use crate::world::QUEUE;

/// Between two kills.
const BEAT: Duration = Duration::from_secs(1);
/// Without any job's end for so long, something is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// A job each second, whoever fires it.
const SCHEDULE: &str = r#"[{"id": "tick", "cron": "* * * * * *", "job":
    {"target": "tasks.load.work", "parameters": {"log": "LOG"}}}]"#;
/// The most that one has done, over the least.
const SPREAD: u64 = 2;

struct Fleet {
    redis: RedisServer,
    subjects: Vec<Subject>,
    load: Load,
    /// The last that was killed.
    killed: usize,
}

/// What came of it.
struct Done {
    counts: Counts,
    kills: usize,
    fired: usize,
    /// Jobs ended by one executor.
    least: u64,
    most: u64,
}

#[test]
fn fleet() {
    // Long enough for each to be killed twice: who is away does nothing, and the work is still to be spread.
    let plan = Plan::new("fleet", 40, 1);
    let size = if plan.rounds > 100 { 20 } else { 4 };
    let redis = RedisServer::start();
    let new = |index| Subject::new(&redis.url(), &format!("chaos-{index}"), 1);
    let mut subjects: Vec<_> = (0..size).map(new).collect();
    let schedule = SCHEDULE.replace("LOG", &subjects[0].path("starts").display().to_string());
    for subject in &mut subjects {
        subject.executor.set("SCHEDULES", &schedule);
    }
    let load = Load::new(plan.seed, Mix::Well, 40, subjects[0].path("starts"));
    let mut fleet = Fleet { redis, subjects, load, killed: 0 };
    match fleet.run(plan.rounds * 20) {
        Ok(Done { counts, kills, fired, least, most }) => plan.report(&format!(
            "{size} executors, {kills} kills; {counts}; {least} to {most} jobs each; {fired} due times, each fired once"
        )),
        Err(what) => {
            let kept: Vec<_> = fleet.subjects.iter_mut().map(Subject::keep).collect();
            plan.fault(plan.rounds, &what, &kept)
        }
    }
}

impl Fleet {
    fn run(&mut self, jobs: u64) -> Result<Done, String> {
        self.subjects.iter_mut().for_each(Subject::begin);
        for subject in &mut self.subjects {
            subject.ready()?;
        }
        self.work(jobs)?;
        for subject in &mut self.subjects {
            subject.ready()?;
            subject.fsck()?;
        }
        for subject in &mut self.subjects {
            let code = subject.terminate();
            must(code == Some(0), || format!("SIGTERM ended it with {code:?}"))?;
            subject.nothing_left()?;
            subject.sample()?;
            subject.fsck()?;
        }
        let done: Vec<u64> = self.done();
        let (least, most) = (done.iter().min().copied(), done.iter().max().copied());
        let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
        must(most <= SPREAD * least, || format!("the work is spread unevenly: {done:?}"))?;
        let kills = self.subjects.iter().map(|subject| subject.kills.len()).sum();
        let (counts, fired) = self.check()?;
        Ok(Done { counts, kills, fired, least, most })
    }

    fn done(&self) -> Vec<u64> {
        self.subjects.iter().map(|subject| rows::ended(&subject.ledger(), "queue")).collect()
    }

    /// Pushes bit by bit, and kills one each second, until all has ended.
    fn work(&mut self, jobs: u64) -> Checked {
        let (mut beat, mut moved, mut before) = (Instant::now(), Instant::now(), 0);
        loop {
            let done: u64 = self.done().iter().sum();
            let pushed = self.load.tokens.len() as u64;
            let room = (100 * self.subjects.len() as u64).saturating_sub(pushed - done);
            let more = self.load.more(room.min(jobs - pushed));
            if !more.is_empty() {
                self.redis.push_all(more.iter().map(Vec::as_slice));
            }
            if done == jobs {
                return Ok(());
            }
            if done > before {
                (before, moved) = (done, Instant::now());
            }
            must(moved.elapsed() < STUCK, || format!("{done} of {jobs} have ended, and no more"))?;
            if beat.elapsed() >= BEAT {
                beat = Instant::now();
                self.kill_one()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill_one(&mut self) -> Checked {
        // In turn, so that none is held back more often than another.
        self.killed = (self.killed + 1) % self.subjects.len();
        let index = self.killed;
        let subject = &mut self.subjects[index];
        must(!subject.has_died(), || format!("executor {index} died by itself"))?;
        if subject.executor.count("ready") == 0 {
            // Killed again and again before it works, on a slow machine it would never work.
            return Ok(());
        }
        subject.kill();
        subject.sample()?;
        subject.begin();
        Ok(())
    }

    /// The counts, and how many due times were fired.
    fn check(&self) -> Result<(Counts, usize), String> {
        let subjects: Vec<&Subject> = self.subjects.iter().collect();
        let places = places(&self.redis, QUEUE, &subjects);
        must(places.list.is_empty(), || format!("{} are left in the list", places.list.len()))?;
        must(places.noted.is_empty(), || format!("left noted: {:?}", places.noted))?;
        let mut kills: Vec<String> = subjects.iter().flat_map(|s| s.kills.clone()).collect();
        kills.sort();
        let of_all = |read: fn(&std::path::Path) -> Vec<rows::Attempt>| {
            subjects.iter().flat_map(|subject| read(&subject.ledger())).collect()
        };
        let (due, jobs): (Vec<_>, Vec<_>) =
            places.jobs.into_iter().partition(|job| job.source == "cron");
        let fired = self.fired_once(due.len())?;
        let counts = checks::ended(&Seen {
            tokens: &self.load.tokens,
            jobs,
            attempts: of_all(rows::attempts),
            starts: &self.subjects[0].path("starts"),
            kills: &kills,
            // Kills of several may fall into one attempt's time: the first is taken for its end.
            slots: self.subjects.len(),
        })?;
        Ok((counts, fired))
    }

    /// Each due time that was marked as fired is one job, in a ledger or still on the list.
    fn fired_once(&self, recorded: usize) -> Result<usize, String> {
        let marks: Vec<String> = self.redis.run(&["KEYS", "executor:fired:*"]);
        let waiting: usize = self.redis.run(&["LLEN", "executor:due"]);
        let fired = marks.len();
        must(fired == recorded + waiting, || {
            format!(
                "{fired} due times were fired, {recorded} jobs of schedules are recorded, {waiting} wait"
            )
        })?;
        Ok(fired)
    }
}
