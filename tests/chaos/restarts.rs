//! Redis dies and comes back under load; what it has acknowledged it keeps (AOF).

use std::time::{Duration, Instant};

use crate::Plan;
use crate::checks::{Counts, must};
use crate::load::Mix;
use crate::rows;
use crate::world::World;

const SLOTS: usize = 2;
const BACKLOG: u64 = 30;
/// How long after its return Redis is consumed again (SPEC 9).
const BACK: Duration = Duration::from_secs(5);

#[test]
fn restarts() {
    let plan = Plan::new("restarts", 4, 20);
    let mut world = World::new(plan.seed, Mix::WellWithExperiments, SLOTS);
    let mut longest = Duration::ZERO;
    match restart(&mut world, plan.rounds, &mut longest) {
        Ok(counts) => plan.report(&format!(
            "{} restarts of Redis, consumed again within {longest:.2?}; {counts}",
            plan.rounds
        )),
        Err(what) => plan.fault(plan.rounds, &what, &world.keep()),
    }
}

fn restart(world: &mut World, rounds: u64, longest: &mut Duration) -> Result<Counts, String> {
    world.subject.begin();
    world.subject.ready()?;
    for _ in 0..rounds {
        world.push(BACKLOG);
        let pause = world.random.millis(500);
        std::thread::sleep(pause);
        world.push(BACKLOG);
        world.redis.pause();
        let pause = world.random.millis(700);
        std::thread::sleep(pause);
        world.redis.resume();
        let back = Instant::now();
        // Whatever was pushed before, this one is new to the ledger.
        let id = format!("t{}", world.pushed());
        let one = world.load.more(1);
        world.redis.push_all(one.iter().map(Vec::as_slice));
        while !rows::jobs(&world.subject.ledger()).iter().any(|job| job.id == id) {
            must(back.elapsed() < BACK, || format!("{id} is not taken {BACK:?} after the return"))?;
            std::thread::sleep(Duration::from_millis(10));
        }
        *longest = back.elapsed().max(*longest);
        must(!world.subject.has_died(), || "the executor died by itself".to_owned())?;
        world.subject.sample()?;
    }
    let counts = world.finish()?;
    must(counts.starts == counts.jobs, || format!("a job ran twice: {counts}"))?;
    Ok(counts)
}
