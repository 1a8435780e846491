//! One attempt, from its request to its report, in a slot that has a process ready.
//!
//! The loop waits; `verdict.rs` decides; `tree.rs` kills. Must not outlive its tree.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::asking::{baseline, request};
use super::channels::Channels;
use super::ending::{self, Health, Over, Remains};
use super::keeper::Ready;
use super::output::{Handle, Output, Reader, read_now, read_ready};
use super::slot::{Process, Slot};
use super::verdict::{self, Ended, Facts, Word};
use super::watching::{self, Baseline, Watch};
use super::{Run, Setup, Stop, spawn, stack, tree};
use crate::frame::{Decoder, Frame, Imported};
use crate::log::{Origin, OutputSink};
use crate::outcome::{Outcome, Report, RunEvent, Usage};

const DUMP_MAX: usize = 64 << 10;
/// Read of frames at once.
const CHUNK: usize = 16 << 10;
/// After a stop that brooks no grace.
const AT_ONCE: Duration = Duration::ZERO;

/// Channels and descriptors of one attempt, on our side.
struct Attempt<'a> {
    setup: &'a Setup,
    run: &'a Run,
    slot: &'a Slot,
    process: &'a Process,
    frames: AsyncFd<OwnedFd>,
    /// Somebody may still write frames.
    open: bool,
    dump: OwnedFd,
    chunk: Vec<u8>,
    decoder: Decoder,
    watch: Watch,
    baseline: Baseline,
    deadline: Instant,
    word: Option<Word>,
    partial: Option<Box<RawValue>>,
    imported: Option<Imported>,
    stalled: Option<RunEvent>,
    ended: Option<Ended>,
    kill_at: Option<Instant>,
}

/// An attempt that was made.
pub(super) struct Made {
    pub(super) report: Report,
    pub(super) health: Health,
    /// The next run of its slot, already born.
    pub(super) born: Option<i32>,
    /// What its run told of modules to load ahead.
    pub(super) imported: Option<Imported>,
}

/// Makes the attempt. An error means that the run was never asked.
pub(super) async fn make(
    setup: &Setup,
    sink: &OutputSink,
    ready: &mut Ready,
    run: &Run,
    mut stop: watch::Receiver<Stop>,
    started: impl FnOnce(u32) + Send,
    events: mpsc::Sender<RunEvent>,
) -> io::Result<Made> {
    let channels = ready.process.channels.take().map_or_else(Channels::make, Ok)?;
    let (slot, process) = (&ready.slot, &ready.process);
    let tmp = setup.tmpdirs.take()?;
    let asked = Attempt::ask(setup, sink, slot, process, channels, run, &tmp);
    let (mut attempt, output) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            setup.tmpdirs.put(tmp).await?;
            return Err(error);
        }
    };
    started(process.pid.unsigned_abs());
    let over = attempt.work(&mut stop, &events).await;
    failpoint!("ending.before");
    let (remains, health) = ending::clear(slot, process, over).await;
    failpoint!("ending.after");
    attempt.take_last_frames(&events).await;
    let finished_at = crate::clock::now();
    if let Err(error) = setup.tmpdirs.put(tmp).await {
        tracing::warn!(event = "tmpdir_not_removed", %error, job_id = %run.job_id, "a run's TMPDIR could not be removed");
    }
    let (log_tail, log_bytes) = output.finish().await;
    let usage = attempt.usage(&remains);
    let outcome = attempt.verdict(over, &remains, &log_tail);
    let report = Report {
        outcome,
        pid: Some(process.pid.unsigned_abs()),
        start_method: setup.options.start_method,
        finished_at,
        exit: remains.exit,
        usage,
        survivors_killed: remains.survivors,
        log_tail,
        log_bytes,
    };
    Ok(Made { report, health, born: remains.born, imported: attempt.imported.take() })
}

impl<'a> Attempt<'a> {
    /// Sends the request: from here on the run runs. What can wait is done after that.
    fn ask(
        setup: &'a Setup,
        sink: &OutputSink,
        slot: &'a Slot,
        process: &'a Process,
        channels: Channels,
        run: &'a Run,
        tmp: &Path,
    ) -> io::Result<(Self, Handle)> {
        let Channels { frames, stdout, stderr, dump, theirs } = channels;
        let options = &setup.options;
        let message = request(run, &tmp.to_string_lossy()).encode(process.pid.unsigned_abs())?;
        let attached = message
            .attached
            .map(|json| spawn::memory(c"executor-request", Some(&json)))
            .transpose()?;
        let baseline = baseline(setup, slot, process);
        watching::stand_behind(process.pid, &options.limits, &baseline);
        let mut fds: Vec<_> = theirs.iter().chain([&dump]).collect();
        fds.extend(&attached);
        failpoint!("start.before", crate::failpoint::broken());
        spawn::send(&slot.ctl, &message.datagram, &fds)?;
        failpoint!("start.after");
        if process.rehearsed {
            // It was quiet until now: the run may share this core, and what follows can wait.
            std::thread::yield_now();
        }
        drop(theirs);
        let origin = Arc::new(Origin {
            job_id: run.job_id.clone(),
            attempt: run.attempt,
            run_id: run.run_id.clone(),
            experiment_id: run.experiment_id.clone(),
        });
        let output = Output::start(stdout, stderr, options.log_tail_bytes, origin, sink.clone());
        let attempt = Self {
            setup,
            run,
            slot,
            process,
            frames,
            dump,
            open: true,
            chunk: Vec::with_capacity(CHUNK),
            decoder: Decoder::default(),
            watch: Watch::new(options.limits, baseline, setup.tick),
            baseline,
            deadline: Instant::now() + run.timeout,
            word: None,
            partial: None,
            imported: None,
            stalled: None,
            ended: None,
            kill_at: None,
        };
        Ok((attempt, output))
    }

    /// Waits for whatever comes first, until the tree is to be cleared.
    async fn work(
        &mut self,
        stop: &mut watch::Receiver<Stop>,
        events: &mpsc::Sender<RunEvent>,
    ) -> Over {
        let mut stoppable = true;
        let asked = *stop.borrow_and_update();
        self.stop(asked).await;
        loop {
            let ending = self.kill_at.is_some();
            let wake = self.kill_at.unwrap_or(self.deadline);
            tokio::select! {
                ready = self.process.pidfd.readable() => {
                    drop(ready);
                    return Over::Exited;
                }
                ready = self.slot.pidfd.readable() => {
                    drop(ready);
                    return Over::SlotLost;
                }
                () = sleep_until(wake.into()) => {
                    if ending {
                        return Over::Kill;
                    }
                    self.end(Ended::Timeout, self.setup.options.kill_grace).await;
                }
                changed = stop.changed(), if stoppable => {
                    stoppable = changed.is_ok();
                    let asked = *stop.borrow_and_update();
                    self.stop(asked).await;
                }
                permit = events.reserve(), if self.stalled.is_some() => {
                    if let (Some(event), Ok(permit)) = (self.stalled.take(), permit) {
                        permit.send(event);
                    }
                    self.decode(events).await;
                }
                ready = self.frames.readable(), if self.stalled.is_none() && self.open && !self.is_broken() => {
                    drop(ready);
                    self.read_frames(read_ready, events).await;
                }
                () = sleep_until(self.watch.next.into()) => self.look().await,
            }
        }
    }

    fn is_broken(&self) -> bool {
        matches!(self.ended, Some(Ended::Protocol(_)))
    }

    /// Follows a wish from outside. The first reason stays; a later one can only shorten the grace.
    async fn stop(&mut self, stop: Stop) {
        let (ended, grace) = match stop {
            Stop::No => return,
            Stop::Shutdown(grace) => (Ended::Shutdown, grace),
            Stop::Cancel => (Ended::Cancel, self.setup.options.kill_grace),
            Stop::Kill => (Ended::Shutdown, AT_ONCE),
        };
        self.end(ended, grace).await;
    }

    /// Starts the end: the stack, SIGTERM to all, and the instant of SIGKILL.
    async fn end(&mut self, ended: Ended, grace: Duration) {
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |set| set.min(at)));
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(ended);
        stack::ask(self.process, &self.dump).await;
        if grace > AT_ONCE {
            tree::ask_to_end(self.slot.pid);
        }
    }

    /// One look at the tree. In a storm its zombies go first, so that there is little to look at.
    async fn look(&mut self) {
        if self.watch.storm {
            self.reap_others().await;
        }
        let (breach, zombies) = self.watch.look(self.slot.pid, self.process.pid);
        if zombies > 0 {
            self.reap_others().await;
        }
        if let Some(breach) = breach {
            self.end(Ended::Limit(breach), self.setup.options.kill_grace).await;
        }
    }

    async fn reap_others(&mut self) {
        if let Ok((others, theirs)) = self.slot.reap_others().await {
            self.watch.reaped(others, theirs);
        }
    }

    async fn read_frames(&mut self, read: Reader, events: &mpsc::Sender<RunEvent>) -> bool {
        match read(&self.frames, &mut self.chunk) {
            // A closed pipe stays readable: it must not be waited for again.
            Ok(0) => {
                self.open = false;
                false
            }
            Err(_) => false,
            Ok(_) => {
                self.decoder.feed(&self.chunk);
                self.decode(events).await;
                true
            }
        }
    }

    /// Takes frames until one has to wait for its reader.
    async fn decode(&mut self, events: &mpsc::Sender<RunEvent>) {
        while self.stalled.is_none() && !self.is_broken() {
            match self.decoder.next_frame() {
                None => return,
                Some(Ok(Frame::Event(event))) => self.tell(event, events),
                Some(Ok(Frame::Imported(imported))) => self.imported = Some(imported),
                Some(Ok(Frame::Succeeded(success))) => self.say(Word::Succeeded(success)).await,
                Some(Ok(Frame::Failed(failed))) => self.say(Word::Failed(failed)).await,
                Some(Err(error)) => self.end(Ended::Protocol(error.to_string()), AT_ONCE).await,
            }
        }
    }

    async fn say(&mut self, word: Word) {
        if self.word.is_some() {
            self.end(Ended::Protocol("a second result".to_owned()), AT_ONCE).await;
        } else {
            self.word = Some(word);
        }
    }

    /// Passes an event on without waiting. What is only a number of the moment may be lost.
    fn tell(&mut self, event: RunEvent, events: &mpsc::Sender<RunEvent>) {
        if let RunEvent::Partial(value) = &event {
            self.partial = Some(value.clone());
        }
        if let Err(mpsc::error::TrySendError::Full(event)) = events.try_send(event)
            && matches!(event, RunEvent::Emit { .. } | RunEvent::Partial(_))
        {
            self.stalled = Some(event);
        }
    }

    /// What is left in the pipe once nobody can write any more. A reader that does not read is waited
    /// for a second at most.
    async fn take_last_frames(&mut self, events: &mpsc::Sender<RunEvent>) {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            if let Some(event) = self.stalled.take() {
                let left = until.saturating_duration_since(Instant::now());
                let _ = tokio::time::timeout(left, events.send(event)).await;
            }
            self.decode(events).await;
            if self.stalled.is_none()
                && (self.is_broken() || !self.read_frames(read_now, events).await)
            {
                return;
            }
        }
    }

    fn usage(&self, remains: &Remains) -> Usage {
        let all =
            remains.cpu.map(|cpu| (cpu + self.watch.reaped).saturating_sub(self.baseline.cpu));
        Usage {
            cpu_seconds: all.unwrap_or_default().max(self.watch.cpu).as_secs_f64(),
            max_rss_bytes: self.watch.peak_with(remains.leader_peak),
        }
    }

    fn verdict(&mut self, over: Over, remains: &Remains, log_tail: &str) -> Outcome {
        let dump = self.read_dump();
        verdict::decide(Facts {
            word: self.word.take(),
            exit: remains.exit,
            ended: self.ended.take(),
            slot_lost: over == Over::SlotLost || remains.exit.is_none(),
            dump: &dump,
            log_tail,
            partial: self.partial.take(),
            timeout: self.run.timeout,
            memory_limited: self.setup.options.limits.memory_bytes.is_some(),
            cpu_limited: self.setup.options.limits.cpu.is_some(),
        })
    }

    fn read_dump(&self) -> String {
        let size = rustix::fs::fstat(&self.dump).map_or(0, |stat| stat.st_size.unsigned_abs());
        if size == 0 {
            return String::new();
        }
        let mut bytes = vec![0; usize::try_from(size).map_or(DUMP_MAX, |size| size.min(DUMP_MAX))];
        let n = rustix::io::pread(&self.dump, &mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }
}
