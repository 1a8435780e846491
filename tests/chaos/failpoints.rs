//! The process dies, a step fails, or everything stands still, at each failpoint in turn.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use executor::failpoint::{ALL, Point, Step, VARIABLE};

use crate::Plan;
use crate::checks::{Checked, Counts, must};
use crate::load::Mix;
use crate::random::Random;
use crate::rows;
use crate::support::alive;
use crate::world::World;

const SLOTS: usize = 2;
const BACKLOG: u64 = 12;
/// Executors side by side, each with a Redis and a ledger of its own.
const WORLDS: usize = 4;
/// Until an armed point must have been reached.
const REACH: Duration = Duration::from_secs(60);
/// How long everything stands still.
const STALL: Duration = Duration::from_secs(3);
/// Until work goes on after a step failed.
const GOES_ON: Duration = Duration::from_secs(30);
/// A job each second, for the points of schedules.
const SCHEDULE: &str = r#"[{"id": "tick", "cron": "* * * * * *", "job":
    {"target": "tasks.load.work", "parameters": {"log": "LOG"}}}]"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Error,
    Stall,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Error => "error",
            Self::Stall => "stall",
        }
    }
}

/// One life with one armed point.
#[derive(Clone, Copy, Debug)]
struct Case {
    point: &'static Point,
    action: Action,
    on: u64,
}

#[test]
fn failpoints() {
    let plan = Plan::new("failpoints", 1, 50);
    let cases = cases(&plan);
    let said = [Action::Kill, Action::Error, Action::Stall]
        .map(|action| (action.word(), cases.iter().filter(|case| case.action == action).count()));
    let todo = Mutex::new(cases);
    let worlds: Vec<_> = std::thread::scope(|scope| {
        let todo = &todo;
        let begin = |index| scope.spawn(move || work(plan.seed + 1000 * index as u64, todo));
        let all: Vec<_> = (0..WORLDS).map(begin).collect();
        all.into_iter().map(|world| world.join().unwrap()).collect()
    });
    let mut counts = Counts::default();
    for world in worlds {
        match world {
            Ok(of_world) => counts += of_world,
            Err((what, kept)) => plan.fault(0, &what, &kept),
        }
    }
    let said = said.iter().map(|(action, n)| format!("{n} × {action}")).collect::<Vec<_>>();
    plan.report(&format!("{} points, {}; {counts}", ALL.len(), said.join(", ")));
}

/// All points with all their actions so many times, in an order of chance.
fn cases(plan: &Plan) -> Vec<Case> {
    let mut random = Random::new(plan.seed);
    let mut cases = Vec::new();
    for round in 0..plan.rounds {
        for point in ALL {
            for action in [Action::Kill, Action::Error, Action::Stall] {
                let can = action != Action::Error || point.step == Step::Fails;
                // A stall takes long: one in five, each point in its turn.
                let rare = action == Action::Stall
                    && !(random.percent(20) || plan.rounds > 4 && round == 0);
                if can && !rare {
                    cases.push(Case { point, action, on: 1 + random.below(often(point)) });
                }
            }
        }
    }
    for at in (1..cases.len()).rev() {
        cases.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
    cases
}

/// How often a point is reached in a second or two.
fn often(point: &Point) -> u64 {
    match point.name.split('.').next().unwrap() {
        "open" | "recover" | "shutdown" | "lead" | "retry" => 1,
        "beat" | "fire" | "forget" => 2,
        _ => 5,
    }
}

type Failed = (String, Vec<std::path::PathBuf>);

/// One world takes cases until there are none.
fn work(seed: u64, todo: &Mutex<Vec<Case>>) -> Result<Counts, Failed> {
    let mut world = World::new(seed, Mix::All, SLOTS);
    let log = world.subject.path("starts").display().to_string();
    world.subject.executor.set("SCHEDULES", &SCHEDULE.replace("LOG", &log));
    loop {
        let (case, left) = {
            let mut todo = todo.lock().unwrap();
            (todo.pop(), todo.len())
        };
        let Some(case) = case else { break };
        if left > 0 && left.is_multiple_of(100) {
            println!("chaos failpoints: {left} cases left");
        }
        let done = if case.point.name == "open.migrated" {
            first_start(case)
        } else {
            live(&mut world, case)
        };
        if let Err(what) = done {
            return Err((format!("{case:?}: {what}"), world.keep()));
        }
    }
    world.subject.executor.set(VARIABLE, "").set("SCHEDULES", "[]");
    let counts = world.end().and_then(|counts| fired_once(&world).map(|()| counts));
    counts.map_err(|what| (what, world.keep()))
}

/// A life in a world, up to its end.
fn live(world: &mut World, case: Case) -> Checked {
    if case.point.name.starts_with("recover") {
        leave_running(world)?;
    }
    arm(world, case);
    world.subject.begin();
    let reached = reach(world, case)?;
    if reached == Reach::Alive {
        goes_on(world, case)?;
    }
    world.subject.executor.set(VARIABLE, "");
    world.subject.sample()?;
    world.subject.fsck()
}

fn arm(world: &mut World, Case { point, action, on }: Case) {
    let value = format!("{}={}@{on}", point.name, action.word());
    world.subject.executor.set(VARIABLE, &value);
}

/// The next life finds jobs RUNNING.
fn leave_running(world: &mut World) -> Checked {
    world.subject.executor.set(VARIABLE, "");
    world.subject.begin();
    let begun = Instant::now();
    loop {
        world.push(BACKLOG);
        let jobs = rows::jobs(&world.subject.ledger());
        if world.subject.executor.count("ready") > 0 && jobs.iter().any(|j| j.status == "RUNNING") {
            break;
        }
        must(begun.elapsed() < REACH, || "nothing began to run".to_owned())?;
        std::thread::sleep(Duration::from_millis(3));
    }
    world.subject.kill();
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Died,
    Alive,
}

/// Waits until the armed point was reached and did what it was armed for.
fn reach(world: &mut World, case: Case) -> Result<Reach, String> {
    let begun = Instant::now();
    let mut asked = false;
    loop {
        if world.subject.has_died() {
            let how = world.subject.last_end.clone();
            return as_armed(case, &how).map(|()| Reach::Died);
        }
        if case.action == Action::Stall && stopped(world.subject.executor.pid()) {
            std::thread::sleep(STALL);
            world.subject.executor.signal(libc::SIGCONT);
            return Ok(Reach::Alive);
        }
        if case.action == Action::Error && world.subject.executor.count("failpoint") > 0 {
            return Ok(Reach::Alive);
        }
        must(begun.elapsed() < REACH, || "the point was not reached".to_owned())?;
        if case.point.name.starts_with("shutdown") {
            if !asked && world.subject.executor.count("ready") > 0 {
                world.subject.executor.signal(libc::SIGTERM);
                asked = true;
            }
        } else {
            world.push(BACKLOG);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Only what it was armed for may end it: the kill, or an error before it serves.
fn as_armed(case: Case, how: &str) -> Checked {
    let right = match case.action {
        Action::Kill => how.contains("signal: 9"),
        Action::Error => how == "exit status: 3",
        Action::Stall => false,
    };
    must(right, || format!("it ended by itself: {how}"))
}

/// Work goes on as if nothing had been, and a SIGTERM ends it well.
fn goes_on(world: &mut World, case: Case) -> Checked {
    if case.point.name.starts_with("shutdown") {
        let code = world.subject.ended();
        return must(code == Some(0), || format!("the shutdown ended with {code:?}"));
    }
    let (begun, before) = (Instant::now(), rows::ended(&world.subject.ledger(), "queue"));
    while rows::ended(&world.subject.ledger(), "queue") < before + 3 {
        if world.subject.has_died() {
            let started = world.subject.executor.count("ready") > 0;
            must(!started, || "it died".to_owned())?;
            return as_armed(case, &world.subject.last_end.clone());
        }
        world.push(BACKLOG);
        must(begun.elapsed() < GOES_ON, || format!("no work since {GOES_ON:?}"))?;
        std::thread::sleep(Duration::from_millis(10));
    }
    must(world.subject.executor.count("ready") > 0, || "it works, but is not ready".to_owned())?;
    let code = world.subject.terminate();
    must(code == Some(0), || format!("SIGTERM ended it with {code:?}"))
}

/// The very first start of a ledger is cut short; the next makes it.
fn first_start(case: Case) -> Checked {
    let mut world = World::new(7, Mix::Well, 1);
    arm(&mut world, case);
    world.subject.begin();
    reach(&mut world, case)?;
    if case.action != Action::Kill {
        world.subject.end_by(REACH)?;
    }
    world.subject.executor.set(VARIABLE, "");
    world.push(3);
    world.end().map(|_| ())
}

/// Each due time that was marked as fired is one job.
fn fired_once(world: &World) -> Checked {
    let marks: Vec<String> = world.redis.run(&["KEYS", "executor:fired:*"]);
    let jobs = rows::jobs(&world.subject.ledger());
    let fired = jobs.iter().filter(|job| job.source == "cron").count();
    must(marks.len() == fired, || format!("{} due times fired, {fired} jobs", marks.len()))
}

fn stopped(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    alive(pid) && stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
