//! Replies of Redis are lost after it has done what was asked.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::checks::{Counts, must};
use crate::load::Mix;
use crate::lossy::Lossy;
use crate::subject::Subject;
use crate::support::RedisServer;
use crate::world::World;

const SLOTS: usize = 2;
const BACKLOG: u64 = 20;
/// Until the next reply must have been lost.
const NEXT: Duration = Duration::from_secs(30);

#[test]
fn replies() {
    let plan = Plan::new("replies", 15, 1);
    let redis = RedisServer::start();
    let lossy = Lossy::before(redis.port(), plan.seed, plan.rounds);
    let subject = Subject::new(&lossy.url(), "chaos", SLOTS);
    let mut world = World::with(plan.seed, Mix::WellWithExperiments, redis, subject);
    match lose(&mut world, &lossy) {
        Ok(counts) => {
            plan.report(&format!("{} replies lost ({:?}); {counts}", plan.rounds, lossy.lost()))
        }
        Err(what) => plan.fault(plan.rounds - lossy.left(), &what, &world.keep()),
    }
}

fn lose(world: &mut World, lossy: &Lossy) -> Result<Counts, String> {
    world.subject.begin();
    world.subject.ready()?;
    let (mut left, mut since) = (lossy.left(), Instant::now());
    while left > 0 {
        world.push(BACKLOG);
        std::thread::sleep(Duration::from_millis(20));
        must(!world.subject.has_died(), || "the executor died by itself".to_owned())?;
        if lossy.left() < left {
            (left, since) = (lossy.left(), Instant::now());
            world.subject.sample()?;
        }
        must(since.elapsed() < NEXT, || format!("nothing was asked of Redis for {NEXT:?}"))?;
    }
    let counts = world.finish()?;
    must(counts.starts == counts.jobs, || format!("a job ran twice: {counts}"))?;
    Ok(counts)
}
