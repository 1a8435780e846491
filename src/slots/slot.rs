//! Our side of one slot: its process, its control socket, the run parked under it.
//!
//! The slot only forks and reaps (`serving.py`); this only asks it to. Deciding is `attempt.rs`'s.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;

use super::channels::Channels;
use super::output::read_ready;
use super::reaped::{Reaped, parse_reaped};
use super::{Setup, past, proc, retire, spawn, tree};

/// How long a slot may take to answer before it is given up, and with it the run whose end it was to tell. On a machine
/// that swaps or is choked, seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for its first answer: its interpreter starts and loads modules ahead, perhaps large ones from a cold disk.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);
/// The same in the midst of a run, whose deadline must not wait for it, and where there is another way.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);
/// How long it may take before we see to it that it is not stopped.
const NUDGE: Duration = Duration::from_millis(200);

/// A slot is exchanged after so many births or this age, or once its own memory has grown by so much: nothing of a run
/// should ever get there, and if it does it goes with the slot.
const MOST_BIRTHS: u32 = 50_000;
const OLDEST: Duration = Duration::from_secs(6 * 3600);
const MOST_GROWTH: u64 = 16 << 20;
/// Births between two looks at its memory.
const LOOK_EVERY: u32 = 500;

/// Why a slot did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotError {
    #[error("the slot is gone")]
    Gone,
    #[error("the slot does not answer")]
    Silent,
    #[error("no process could be made: {0}")]
    Refused(String),
    #[error("the system refused")]
    System(#[from] io::Error),
}

/// Which zombies a slot is to reap.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom {
    /// The leader, which is who was born last, and all others.
    All,
    /// The leader has been reaped.
    Others,
}

/// A run's process, parked or at work.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: AsyncFd<OwnedFd>,
    /// It may have done work before its request: the start of an interpreter, which is not the run's.
    pub(super) parked: bool,
    /// It walks, or has walked, the way of a run once already.
    pub(super) rehearsed: bool,
    /// Taken with its request.
    pub(super) channels: Option<Channels>,
}

impl Process {
    pub(super) fn is_alive(&self) -> bool {
        lives(&self.pidfd)
    }
}

/// A pidfd is readable once its process has ended.
fn lives(pidfd: &AsyncFd<OwnedFd>) -> bool {
    let mut asked = [PollFd::new(pidfd.get_ref(), PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
}

/// One slot. Dropping it ends it with all that is under it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) pid: i32,
    /// Of the recipe by which it loaded modules ahead.
    pub(super) generation: u64,
    born: Instant,
    births: AtomicU32,
    /// Its own memory after its first births.
    lean: AtomicU64,
    /// It grew.
    grown: AtomicBool,
    /// What a run has at its birth, looked at now and then.
    inherited: Mutex<proc::Memory>,
    pub(super) pidfd: AsyncFd<OwnedFd>,
    pub(super) children: proc::Children,
    pub(super) ctl: OwnedFd,
    parked: Option<Process>,
    /// Answers it owes to orders that were given up: those come first when it speaks again.
    owed: AtomicU32,
    go: Option<AsyncFd<OwnedFd>>,
    child: Option<Child>,
}

impl Slot {
    /// Starts one. It answers once its interpreter is up.
    pub(super) fn start(setup: &Setup) -> io::Result<Self> {
        let recipe = setup.preload.recipe();
        let mut command = spawn::launcher(&setup.options.launcher, setup.constant);
        command
            .arg(&setup.executable)
            .args(["-I", "-S", "-u", "-X", "utf8"])
            .arg(setup.shim.join("executor_shim/slot.py"))
            .arg(setup.config(&recipe.names))
            .env_clear()
            .env("LD_BIND_NOW", "1") // or every fork binds for itself; `serving.py` takes it out again
            .envs(&setup.options.environment);
        let born = spawn::slot(command)?;
        let pid = spawn::pid_of(&born.child);
        past::remember(&setup.options.runtime_dir, pid, past::Kind::Slot)?;
        setup.guard.tell(pid);
        let pidfd = pidfd_open(Pid::from_child(&born.child), PidfdFlags::NONBLOCK)?;
        let mut log = tokio::net::unix::pipe::Receiver::from_owned_fd(born.log)?;
        tokio::spawn(async move {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = log.read(&mut piece).await {
                let text = String::from_utf8_lossy(&piece[..n]);
                tracing::warn!(
                    event = "slot_output",
                    pid,
                    line = text.trim_end(),
                    "a slot, or a run without its streams, wrote"
                );
            }
        });
        Ok(Self {
            pid,
            generation: recipe.generation,
            born: Instant::now(),
            births: AtomicU32::new(0),
            lean: AtomicU64::new(0),
            grown: AtomicBool::new(false),
            inherited: Mutex::default(),
            pidfd: spawn::watched(pidfd)?,
            children: proc::Children::of(pid),
            ctl: born.ctl,
            parked: None,
            owed: AtomicU32::new(0),
            go: Some(spawn::watched(born.go)?),
            child: Some(born.child),
        })
    }

    /// One message, one answer.
    async fn order(&self, message: &[u8], patience: Duration) -> Result<Vec<u8>, SlotError> {
        let go = self.go.as_ref().ok_or(SlotError::Gone)?;
        spawn::send(go.get_ref(), message, &[]).map_err(|_| SlotError::Gone)?;
        let mut answer = Vec::with_capacity(512);
        let asked = Instant::now();
        loop {
            let Ok(ready) = tokio::time::timeout(NUDGE, go.readable()).await else {
                tree::signal(self.pidfd.get_ref(), Signal::CONT);
                if asked.elapsed() > patience {
                    self.owed.fetch_add(1, Ordering::Relaxed);
                    return Err(SlotError::Silent);
                }
                continue;
            };
            drop(ready?);
            match read_ready(go, &mut answer) {
                Ok(0) => return Err(SlotError::Gone),
                Ok(_) if self.owes() => {
                    self.owed.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(_) => return Ok(answer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(SlotError::Gone),
            }
        }
    }

    /// Whether it was silent when last asked. What can do without it need not wait for it again.
    fn owes(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > 0
    }

    /// A new process for a run, which waits for its request.
    pub(super) async fn birth(&self) -> Result<Process, SlotError> {
        let is_new = self.births.load(Ordering::Relaxed) == 0;
        let patience = if is_new { FIRST_PATIENCE } else { PATIENCE };
        let answer = self.order(b"f", patience).await?;
        let pid = match answer.split_first() {
            Some((b'F', pid)) => std::str::from_utf8(pid)
                .ok()
                .and_then(|pid| pid.trim_start().parse().ok())
                .ok_or(SlotError::Silent)?,
            Some((b'E', why)) => {
                return Err(SlotError::Refused(String::from_utf8_lossy(why).into_owned()));
            }
            _ => return Err(SlotError::Silent),
        };
        self.adopt(pid)
    }

    /// Takes over a run that the slot has just given birth to.
    fn adopt(&self, pid: i32) -> Result<Process, SlotError> {
        // Only an order reaps a child of the slot: if it lives, the number still means this process.
        let raw = Pid::from_raw(pid).ok_or(SlotError::Silent)?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(io::Error::from)?;
        if !lives(&self.pidfd) {
            return Err(SlotError::Gone);
        }
        let births = self.births.fetch_add(1, Ordering::Relaxed) + 1;
        if births.is_multiple_of(LOOK_EVERY) {
            self.look_at_memory();
        }
        if births % LOOK_EVERY == 1 {
            *self.inherited.lock().unwrap_or_else(PoisonError::into_inner) =
                proc::memory_at_birth(pid);
        }
        let channels = Some(Channels::make()?);
        Ok(Process {
            pid,
            pidfd: spawn::watched(pidfd)?,
            parked: false,
            rehearsed: false,
            channels,
        })
    }

    /// What its runs have at their birth, or nearly so.
    pub(super) fn inherited(&self) -> proc::Memory {
        *self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at_memory(&self) {
        let memory = proc::memory(self.pid).anonymous;
        match self.lean.load(Ordering::Relaxed) {
            0 => self.lean.store(memory, Ordering::Relaxed),
            lean => self.grown.store(memory > lean + MOST_GROWTH, Ordering::Relaxed),
        }
    }

    /// Whether it has served long enough: by age, by number, or because it grew.
    pub(super) fn is_worn(&self) -> bool {
        self.births.load(Ordering::Relaxed) >= MOST_BIRTHS
            || self.born.elapsed() >= OLDEST
            || self.grown.load(Ordering::Relaxed)
    }

    /// Whether its place should be `spare`'s.
    pub(super) fn should_go(&self, spare: &Self) -> bool {
        self.generation < spare.generation || self.is_worn()
    }

    /// Reaps these; then, if nothing is left, the next run is born.
    pub(super) async fn reap(&self, whom: Whom) -> Result<Reaped, SlotError> {
        let order: &[u8] = match whom {
            Whom::All => b"a",
            Whom::Others => b"z",
        };
        parse_reaped(&self.order(order, PATIENCE).await?).ok_or(SlotError::Silent)
    }

    /// Reaps every zombie but the leader while its run goes on; their number and time.
    pub(super) async fn reap_others(&self) -> Result<(u32, Duration), SlotError> {
        if self.owes() {
            return Err(SlotError::Silent);
        }
        let answer = self.order(b"o", SHORT_PATIENCE).await?;
        let reaped = parse_reaped(&answer).ok_or(SlotError::Silent)?;
        Ok((reaped.others, reaped.theirs))
    }

    /// Has the slot kill everything under it in one call, against which no fork and no new session helps.
    /// False if signals are not scoped here: then the slot has done nothing.
    pub(super) async fn kill_all(&self) -> Result<bool, SlotError> {
        if self.owes() {
            return Ok(false);
        }
        Ok(self.order(b"k", SHORT_PATIENCE).await? == b"K1")
    }

    /// A process for a run: the parked one if it is well, else a new one.
    pub(super) async fn process(&mut self) -> Result<Process, SlotError> {
        // Without its slot a parked process is an orphan about to be killed.
        if !lives(&self.pidfd) {
            return Err(SlotError::Gone);
        }
        if let Some(parked) = self.parked.take() {
            if parked.is_alive() {
                return Ok(parked);
            }
            if let Some(pid) = self.reap(Whom::All).await?.born {
                return self.adopt(pid);
            }
        }
        self.birth().await
    }

    /// Keeps a process for the next run: the one `born` at the end of the last one, or a new one.
    pub(super) async fn prepare(&mut self, born: Option<i32>) -> Result<(), SlotError> {
        let process = match born {
            Some(pid) => self.adopt(pid)?,
            None => self.process().await?,
        };
        self.park(process);
        Ok(())
    }

    /// Keeps a process for the next run.
    pub(super) fn park(&mut self, process: Process) {
        self.parked = Some(Process { parked: true, ..process });
    }

    /// Has the parked process rehearse, once.
    pub(super) fn rehearse(&mut self) {
        let Some(parked) = self.parked.as_mut().filter(|parked| !parked.rehearsed) else { return };
        parked.rehearsed = true;
        let mut message = vec![b'R'];
        message.extend_from_slice(&parked.pid.to_le_bytes());
        // If it cannot be told, it is slower.
        let _ = spawn::send(&self.ctl, &message, &[]);
    }

    /// Ends the slot. The thread is done when slot and tree are gone.
    pub(super) fn retire(mut self) -> Option<JoinHandle<()>> {
        self.end()
    }

    fn end(&mut self) -> Option<JoinHandle<()>> {
        let mut child = self.child.take()?;
        self.go = None;
        tree::signal(self.pidfd.get_ref(), Signal::CONT);
        let pid = self.pid;
        std::thread::Builder::new()
            .name("slot-end".to_owned())
            .spawn(move || retire::end(&mut child, pid))
            .ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
