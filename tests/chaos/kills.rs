//! `kill -9` of the executor at random instants, restarted at once, under load.

use crate::Plan;
use crate::checks::{Checked, must};
use crate::load::Mix;
use crate::world::World;

const SLOTS: usize = 2;
/// Jobs that have not ended are kept at about so many.
const BACKLOG: u64 = 40;
/// Rounds between two looks at everything.
const LOOK: u64 = 10;

#[test]
fn kills() {
    let plan = Plan::new("kills", 20, 1);
    let mut world = World::new(plan.seed, Mix::All, SLOTS);
    for number in 1..=plan.rounds {
        if let Err(what) = life(&mut world, number) {
            plan.fault(number, &what, &world.keep());
        }
        if number % 100 == 0 {
            println!("chaos kills: {number} kills, {} jobs pushed", world.pushed());
        }
    }
    match world.end() {
        Ok(counts) => plan.report(&format!("{} kills, {counts}", world.subject.kills.len())),
        Err(what) => plan.fault(plan.rounds, &what, &world.keep()),
    }
}

/// One life, from its start to its kill.
fn life(world: &mut World, number: u64) -> Checked {
    world.push(BACKLOG);
    world.subject.begin();
    if world.random.percent(20) {
        // While it begins.
        std::thread::sleep(world.random.millis(300));
    } else {
        world.subject.ready()?;
        std::thread::sleep(world.random.millis(300));
        world.push(BACKLOG);
        if number % LOOK == 5 {
            world.subject.fsck()?;
        }
        std::thread::sleep(world.random.millis(400));
    }
    must(!world.subject.has_died(), || "the executor died by itself".to_owned())?;
    if number % LOOK == 7 && world.subject.executor.count("ready") > 0 {
        // One life in ten ends as it should.
        let code = world.subject.terminate();
        must(code == Some(0), || format!("SIGTERM ended it with {code:?}"))?;
    } else {
        world.subject.kill();
    }
    world.subject.sample()?;
    if number.is_multiple_of(LOOK) {
        world.conserved()?;
        world.subject.fsck()?;
    }
    Ok(())
}
