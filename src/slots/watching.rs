//! What a run's tree uses while it runs, against its limits. Polled: a tree can go over a limit for a
//! quarter of a second; rlimits stand behind.

use std::time::{Duration, Instant};

use nix::time::{clock_getcpuclockid, clock_gettime};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::proc::{self, Stat};
use super::tree;
use crate::job::Limits;
use crate::outcome::Limit;

/// From the first look to the usual rhythm.
const FIRST: Duration = Duration::from_millis(20);
const USUAL: Duration = Duration::from_millis(250);
/// So many orphans dead since the last look are a storm of processes. In a storm the rhythm is the first
/// one: a heap of zombies makes every scan slow, and leaves the machine without pids.
const STORM: u32 = 64;
/// So few, that it is over.
const CALM: u32 = 4;

/// The largest tree whose memory is taken exactly: it is looked at on a thread that others wait for.
const LOOKED_AT_CLOSELY: usize = 256;

/// What a process had before its request came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Baseline {
    pub(super) memory: proc::Memory,
    pub(super) cpu: Duration,
    /// Forked: its memory at that time is inherited and not its own.
    pub(super) inherited: u64,
}

/// A limit that was passed, with a sentence that has the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) limit: Limit,
    pub(super) sentence: String,
}

/// What one look at a tree showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    memory: u64,
    cpu: Duration,
    processes: u64,
}

/// Compares what was seen with what is allowed.
fn judge(limits: &Limits, seen: Seen) -> Option<Breach> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if let Some(limit) = limits.memory_bytes.filter(|limit| seen.memory > *limit) {
        let sentence = format!(
            "the run's processes hold {} MiB of memory, allowed are {} MiB",
            mib(seen.memory),
            mib(limit)
        );
        return Some(Breach { limit: Limit::Memory, sentence });
    }
    if let Some(limit) = limits.cpu.filter(|limit| seen.cpu > *limit) {
        let sentence = format!(
            "the run's processes used {:.1} s of CPU time, allowed are {} s",
            seen.cpu.as_secs_f64(),
            limit.as_secs_f64()
        );
        return Some(Breach { limit: Limit::Cpu, sentence });
    }
    if let Some(limit) = limits.processes.filter(|limit| seen.processes > *limit) {
        let sentence = format!("the run has {} processes, allowed are {limit}", seen.processes);
        return Some(Breach { limit: Limit::Processes, sentence });
    }
    None
}

/// Watches one run.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    baseline: Baseline,
    pub(super) peak: u64,
    pub(super) cpu: Duration,
    /// Time of orphans that were reaped during the run.
    pub(super) reaped: Duration,
    /// Processes are born and die so fast that zombies would heap up.
    pub(super) storm: bool,
    pub(super) next: Instant,
    step: Duration,
    tick: Duration,
}

impl Watch {
    pub(super) fn new(limits: Limits, baseline: Baseline, tick: Duration) -> Self {
        Self {
            limits,
            baseline,
            peak: 0,
            cpu: Duration::ZERO,
            reaped: Duration::ZERO,
            storm: false,
            next: Instant::now() + FIRST,
            step: FIRST,
            tick,
        }
    }

    /// Orphans were reaped during the run.
    pub(super) fn reaped(&mut self, number: u32, theirs: Duration) {
        self.reaped += theirs;
        self.storm = number > if self.storm { CALM } else { STORM };
        if self.storm {
            self.step = FIRST;
            self.next = self.next.min(Instant::now() + FIRST);
        }
    }

    /// Looks once. Gives the limit passed, if one was, and how many zombies the slot should reap.
    pub(super) fn look(&mut self, slot: i32, leader: i32) -> (Option<Breach>, usize) {
        self.step = if self.storm { FIRST } else { (self.step * 2).min(USUAL) };
        self.next = Instant::now() + self.step;
        if let Some(stat) = proc::stat(slot).filter(Stat::is_stopped)
            && let Some(fd) = tree::open(slot, stat.start)
        {
            tree::signal(&fd, Signal::CONT);
        }
        let all = proc::descendants(slot);
        let alive = all.iter().filter(|(_, stat)| !stat.is_dead());
        let memory = self.memory(&alive.clone().map(|(pid, _)| *pid).collect::<Vec<_>>());
        let ticks: u64 = all.iter().map(|(_, stat)| stat.own_ticks + stat.reaped_ticks).sum();
        let cpu = self.tick * u32::try_from(ticks).unwrap_or(u32::MAX) + self.reaped;
        let seen = Seen {
            memory,
            cpu: cpu.saturating_sub(self.baseline.cpu),
            processes: alive.count() as u64,
        };
        self.peak = self.peak.max(seen.memory);
        self.cpu = self.cpu.max(seen.cpu);
        let zombies = all
            .iter()
            .filter(|(pid, stat)| stat.is_dead() && stat.parent == slot && *pid != leader)
            .count();
        (judge(&self.limits, seen), zombies)
    }

    /// Memory of these processes without what was inherited. Their plain sum counts what forked processes
    /// share once for each; before that breaks the limit it is taken more exactly, which costs more.
    fn memory(&self, pids: &[i32]) -> u64 {
        let own = |sum: u64| sum.saturating_sub(self.baseline.inherited);
        let plain = own(pids.iter().map(|pid| proc::memory(*pid).anonymous).sum());
        let over = self.limits.memory_bytes.is_some_and(|limit| plain > limit);
        if !over || !(2..=LOOKED_AT_CLOSELY).contains(&pids.len()) {
            return plain;
        }
        let exact =
            |pid: &i32| proc::shared_out(*pid).unwrap_or_else(|| proc::memory(*pid).anonymous);
        own(pids.iter().map(exact).sum())
    }

    /// The peak of the tree, where no look came in time: from the leader's own account.
    pub(super) fn peak_with(&self, leader_peak: u64) -> u64 {
        let grown = leader_peak.saturating_sub(self.baseline.memory.peak);
        let had = self.baseline.memory.anonymous.saturating_sub(self.baseline.inherited);
        self.peak.max(had + grown)
    }
}

/// Rlimits behind the polled limits: they stop what is too fast for a look, and what lost its watcher.
pub(super) fn stand_behind(pid: i32, limits: &Limits, baseline: &Baseline) {
    let set = |resource, soft: u64, hard: u64| {
        let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
        if let Err(error) = prlimit(Pid::from_raw(pid), resource, limit) {
            tracing::warn!(event = "rlimit_refused", %error, "a limit of a run could not be set");
        }
    };
    if let Some(cpu) = limits.cpu {
        let seconds = (cpu + baseline.cpu).as_secs() + 2;
        set(Resource::Cpu, seconds, seconds + 1);
    }
    if let Some(memory) = limits.memory_bytes {
        // Address space for data is more than what is used of it: stacks of threads, arenas.
        let data =
            baseline.memory.data.saturating_add(memory.saturating_mul(2)).saturating_add(256 << 20);
        set(Resource::Data, data, data);
    }
}

/// CPU time a process has used, finer than ticks. Its pid must not be another's by now.
pub(super) fn cpu_of(pid: i32) -> Duration {
    clock_getcpuclockid(nix::unistd::Pid::from_raw(pid))
        .and_then(clock_gettime)
        .map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_names_itself_and_its_numbers() {
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            cpu: Some(Duration::from_secs(2)),
            processes: Some(3),
            ..Limits::default()
        };
        let fine = Seen { memory: 64 << 20, cpu: Duration::from_secs(2), processes: 3 };
        assert_eq!(judge(&limits, fine), None);
        let breach = judge(&limits, Seen { memory: (64 << 20) + 1, ..fine }).unwrap();
        assert_eq!(breach.limit, Limit::Memory);
        assert_eq!(
            breach.sentence,
            "the run's processes hold 65 MiB of memory, allowed are 64 MiB"
        );
        assert_eq!(
            judge(&limits, Seen { cpu: Duration::from_millis(2100), ..fine }).unwrap().limit,
            Limit::Cpu
        );
        assert_eq!(judge(&limits, Seen { processes: 4, ..fine }).unwrap().limit, Limit::Processes);
        assert_eq!(judge(&Limits::default(), Seen { memory: u64::MAX, ..fine }), None);
    }

    #[test]
    fn a_short_run_is_judged_by_its_leader() {
        let mib = 1 << 20;
        let baseline = Baseline {
            memory: proc::Memory { anonymous: 6 * mib, peak: 10 * mib, data: 0 },
            ..Baseline::default()
        };
        let watch = Watch::new(Limits::default(), baseline, Duration::from_millis(10));
        assert_eq!(watch.peak_with(15 * mib), 11 * mib);
        let forked = Baseline { inherited: 6 * mib, ..baseline };
        assert_eq!(
            Watch::new(Limits::default(), forked, Duration::from_millis(10)).peak_with(10 * mib),
            0
        );
    }
}
