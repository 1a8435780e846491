//! The thread that owns the stream: takes what is waiting, writes it in one go.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc as tokio_mpsc};

use super::OutputLine;
use super::line::{Event, Look};
use super::live::Live;
use crate::clock;
use crate::job::JobId;

/// Room for lines of runs that wait to be written, in units of [`UNIT`] bytes.
const ROOM: usize = 4096;
/// A line costs one unit and one more for each so many bytes.
const UNIT: usize = 1024;
/// Most events of our own that wait; more are dropped and counted.
const EVENTS: usize = 16_384;
/// A write is not put off for more than so many bytes.
const CHUNK: usize = 64 * 1024;

/// What waits to be written.
#[derive(Debug)]
pub(super) enum Entry {
    Event(Box<Event>),
    Output(OutputLine),
    Finish,
}

/// What the ends share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Sender<Entry>,
    pub(super) room: Semaphore,
    events: AtomicUsize,
    /// The last line did not get room within its time.
    pub(super) stuck: AtomicBool,
    dropped: AtomicU64,
    pub(super) dropped_ever: AtomicU64,
    live: Mutex<Live>,
}

impl Shared {
    pub(super) fn new() -> (Arc<Self>, Receiver<Entry>) {
        let (queue, receiver) = mpsc::channel();
        let shared = Self {
            queue,
            room: Semaphore::new(ROOM),
            events: AtomicUsize::new(0),
            stuck: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            dropped_ever: AtomicU64::new(0),
            live: Mutex::default(),
        };
        (Arc::new(shared), receiver)
    }

    /// What a line takes of the room.
    pub(super) fn cost(line: &OutputLine) -> u32 {
        u32::try_from(1 + line.line.len() / UNIT).unwrap_or(1)
    }

    /// Never waits: the runtime must not hang on a reader of logs.
    pub(super) fn push_event(&self, event: Event) {
        if self.events.fetch_add(1, Ordering::Relaxed) >= EVENTS {
            self.events.fetch_sub(1, Ordering::Relaxed);
            self.count_dropped();
            return;
        }
        self.push(Entry::Event(Box::new(event)));
    }

    pub(super) fn push_output(&self, line: OutputLine) {
        self.push(Entry::Output(line));
    }

    pub(super) fn finish(&self) {
        self.push(Entry::Finish);
    }

    fn push(&self, entry: Entry) {
        // The writer outlives everyone but a process that ends.
        let _ = self.queue.send(entry);
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.dropped_ever.fetch_add(1, Ordering::Relaxed);
    }

    /// The lines of a job's latest attempts that are still known, and those to come.
    pub(super) fn add_follower(&self, job: JobId, sender: tokio_mpsc::Sender<OutputLine>) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).add_follower(job, sender);
    }

    pub(super) fn tell_followers(&self, line: &OutputLine) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).take(line);
    }
}

/// Writes until told to finish, or until the stream is gone: then lines are taken and forgotten.
pub(super) fn run(queue: Receiver<Entry>, shared: &Shared, look: &Look, mut output: impl Write) {
    let mut text = String::with_capacity(CHUNK * 2);
    let mut finishing = false;
    while !finishing && let Ok(first) = queue.recv() {
        let mut next = Some(first);
        let mut freed = 0;
        while let Some(entry) = next {
            match entry {
                Entry::Event(event) => {
                    shared.events.fetch_sub(1, Ordering::Relaxed);
                    look.event(&event, &mut text);
                }
                Entry::Output(line) => {
                    freed += Shared::cost(&line) as usize;
                    look.output(&line, &mut text);
                }
                Entry::Finish => finishing = true,
            }
            next = if text.len() < CHUNK { queue.try_recv().ok() } else { None };
        }
        // A reader that has gone away is no reason to stop working.
        let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        text.clear();
        shared.room.add_permits(freed);
        tell_dropped(shared, look, &mut text);
        let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        text.clear();
    }
}

/// The stream moves again: says how much was lost.
fn tell_dropped(shared: &Shared, look: &Look, text: &mut String) {
    let count = shared.dropped.swap(0, Ordering::Relaxed);
    if count == 0 {
        return;
    }
    let event = Event {
        at: clock::now(),
        level: tracing::Level::WARN,
        event: "output_dropped".to_owned(),
        message: format!("standard output was stuck: {count} lines are missing"),
        fields: vec![("count", count.to_string())],
    };
    look.event(&event, text);
}
