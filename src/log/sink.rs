//! Where lines of runs go in, each sender in its turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::OutputLine;
use super::writer::Shared;
use crate::job::JobId;

/// How long standard output may be stuck before lines are dropped.
const STUCK: Duration = Duration::from_secs(1);
/// How many lines a follower may lag behind.
const FOLLOWER_ROOM: usize = 4096;

/// Where lines of runs go. Bounded and fair: each sender waits its turn.
#[derive(Clone, Debug)]
pub struct OutputSink(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Log(Arc<Shared>),
    Channel(mpsc::Sender<OutputLine>),
}

impl OutputSink {
    pub(super) fn to_log(shared: Arc<Shared>) -> Self {
        Self(Kind::Log(shared))
    }

    /// A sink and the end where its lines arrive, holding at most `room` of them.
    pub fn channel(room: usize) -> (Self, mpsc::Receiver<OutputLine>) {
        let (lines, receiver) = mpsc::channel(room);
        (Self(Kind::Channel(lines)), receiver)
    }

    /// Hands a line on, waiting while the log is behind, but no longer than a second: then the line
    /// is dropped and counted (`output_dropped`), and so are those after it until the log moves.
    pub async fn send(&self, line: OutputLine) {
        match &self.0 {
            // Nobody listens any more: nobody misses it.
            Kind::Channel(lines) => drop(lines.send(line).await),
            Kind::Log(shared) => send_to_log(shared, line).await,
        }
    }
}

async fn send_to_log(shared: &Shared, line: OutputLine) {
    shared.tell_followers(&line);
    let cost = Shared::cost(&line);
    let permit = if shared.stuck.load(Ordering::Relaxed) {
        shared.room.try_acquire_many(cost).ok()
    } else {
        let turn = tokio::time::timeout(STUCK, shared.room.acquire_many(cost)).await;
        turn.ok().and_then(Result::ok)
    };
    shared.stuck.store(permit.is_none(), Ordering::Relaxed);
    match permit {
        Some(permit) => {
            permit.forget();
            shared.push_output(line);
        }
        None => shared.count_dropped(),
    }
}

/// Where the lines of one job can be followed live.
#[derive(Clone, Debug)]
pub struct Tap {
    shared: Arc<Shared>,
}

impl Tap {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Output lines dropped so far because standard output was stuck.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped_ever.load(Ordering::Relaxed)
    }

    /// The lines of a job from now on. One who reads too slowly misses some.
    pub fn follow(&self, job: JobId) -> mpsc::Receiver<OutputLine> {
        let (sender, receiver) = mpsc::channel(FOLLOWER_ROOM);
        self.shared.add_follower(job, sender);
        receiver
    }
}
