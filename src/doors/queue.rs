//! The queue's door: from Redis lists into the ledger.
//!
//! Waits by looks, takes by a script that notes in `executor:accepting:{ledger_id}` before it removes
//! ([`super::take`]); writes down in one commit; then forgets the note. What a crash or a lost reply
//! leaves in that hash is read again at the start, after each outage and at every heartbeat, and
//! recognised by its receipt.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::intake::{self, Intake};
use super::leader::read_item;
use super::noted::{List, Noted, accepting};
use super::origin::{self, TakeOver};
use super::take::{BATCH, Found, LOOK_ANSWER, Look, Most, Place};
use crate::experiments::tools::{ToolTable, tool_table};
use crate::health::Health;
use crate::job::{Refusal, Source, Target};
use crate::ledger::{Arrival, Ledger};
use crate::link::{Link, is_outage};
use crate::payload::Draft;

/// Jobs taken into the ledger ahead of their turn while nobody else serves the queue, so that
/// priorities count among them.
const AHEAD: u64 = 10_000;
/// Looks for room while there is none.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(5);
/// After so long without another take, notes are forgotten by themselves.
const FORGET: Duration = Duration::from_millis(100);
/// After Redis or the ledger refused.
const PAUSE: Duration = Duration::from_millis(500);

/// What the door needs.
#[derive(Debug)]
pub struct QueueDoor {
    /// The lists it takes from, in this order.
    pub lists: Vec<List>,
    /// How often notes left behind are looked for.
    pub look_again: Duration,
    /// Redis.
    pub link: Arc<Link>,
    /// Where jobs are written down.
    pub ledger: Ledger,
    /// The rules.
    pub intake: Intake,
    /// Told of a fault.
    pub health: Arc<Health>,
    /// Redis' own list of the executors that serve the queue.
    pub members: String,
    /// How many they are, as last seen by a heartbeat or a take.
    pub peers: watch::Sender<u32>,
    /// Set once nothing more is to be taken.
    pub draining: watch::Receiver<bool>,
    /// Receipts of what has been written down, but is still noted in Redis.
    pub written_down: Vec<String>,
    /// The ledger that ours was copied from, until its notes are ours.
    pub origin: Option<String>,
}

/// Why a round of the door ended early.
#[derive(Debug, thiserror::Error)]
enum DoorError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
}

impl QueueDoor {
    /// Takes jobs until draining. What was noted but not yet written down stays noted.
    pub async fn run(mut self) {
        let mut told = String::new();
        while !*self.draining.borrow() {
            match self.serve(&mut told).await {
                Ok(()) => {}
                Err(error) => self.pause(error, &mut told).await,
            }
        }
    }

    /// One log line for each kind of trouble, until a round goes well.
    async fn pause(&mut self, error: DoorError, told: &mut String) {
        let text = error.to_string();
        match &error {
            DoorError::Redis(error) if is_outage(error) => self.link.failed(error).await,
            DoorError::Redis(_) if *told != text => {
                self.health.set_door_fault(Some(format!("nothing can be taken: {text}")));
                tracing::error!(
                    event = "queue_unreadable",
                    error = text,
                    "nothing is taken until this is mended"
                );
            }
            // While it cannot be written at all, it says so itself.
            DoorError::Ledger(error) if *told != text && self.ledger.trouble().is_none() => {
                tracing::error!(event = "accept_delayed", error = %error, "the ledger refused jobs; they stay noted in Redis and are tried again");
            }
            _ => {}
        }
        *told = text;
        self.sleep(PAUSE).await;
    }

    async fn sleep(&mut self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = begun(&mut self.draining) => {}
        }
    }

    /// Serves over one set of connections until something fails.
    async fn serve(&mut self, told: &mut String) -> Result<(), DoorError> {
        let mut shared = self.link.connection().await?;
        self.accept_noted(&mut shared).await?;
        let place = Arc::new(self.place());
        // Before the first look: that would bring over the whole of a payload however large.
        self.take_all(&place, &mut shared).await?;
        self.well(told);
        let mut looks = FuturesUnordered::new();
        let mut look_again = tokio::time::interval(self.look_again);
        look_again.reset();
        while !*self.draining.borrow() {
            if self.room() == 0 {
                if self.ledger.trouble().is_some() {
                    // What they might take could not be written down.
                    looks.clear();
                }
                self.forget(&mut shared).await?;
                self.sleep(LOOK_FOR_ROOM).await;
                continue;
            }
            if looks.is_empty() {
                for list in 0..place.lists.len() {
                    let connection = self.link.own(LOOK_ANSWER).await?;
                    let look = Look { connection, place: Arc::clone(&place), list };
                    looks.push(look.begin(self.room_alone(), self.written_down.clone()));
                }
            }
            let (mut draining, ledger) = (self.draining.clone(), self.ledger.clone());
            tokio::select! {
                Some(looked) = looks.next() => {
                    self.follow(&place, looked.found?, &mut shared).await?;
                    self.well(told);
                    let look = looked.look;
                    looks.push(look.begin(self.room_alone(), self.written_down.clone()));
                }
                () = tokio::time::sleep(FORGET), if !self.written_down.is_empty() => {
                    self.forget(&mut shared).await?;
                }
                _ = look_again.tick() => self.accept_noted(&mut shared).await?,
                () = ledger.lost() => {}
                () = begun(&mut draining) => {}
            }
        }
        Ok(self.forget(&mut shared).await?)
    }

    /// Writes down what came with a look, and takes what is left.
    async fn follow(
        &mut self,
        place: &Place,
        found: Found,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), DoorError> {
        self.written_down.retain(|receipt| !found.forgotten.contains(receipt));
        let took = found.taken.noted.len();
        if took > 0 {
            self.know(found.taken.peers);
            self.accept(connection, found.taken.noted).await?;
        }
        if (found.there && took == 0) || took >= BATCH {
            self.take_all(place, connection).await?;
        }
        Ok(())
    }

    /// One that has just come is not yet known by the heartbeat.
    fn know(&self, peers: u32) {
        self.peers.send_if_modified(|known| std::mem::replace(known, peers) != peers);
    }

    fn place(&self) -> Place {
        Place {
            accepting: self.accepting(),
            members: self.members.clone(),
            lists: self.lists.iter().map(|list| list.name().to_owned()).collect(),
        }
    }

    /// A round went well: the next trouble is told again.
    fn well(&self, told: &mut String) {
        if !told.is_empty() {
            told.clear();
            if self.health.set_door_fault(None).is_some() {
                tracing::info!(event = "queue_readable", "jobs are taken again");
            }
        }
    }

    /// How many more jobs may be taken into the ledger. Those that wait for their time, or for
    /// another job, do not stand in the way of those that could begin.
    fn room(&self) -> usize {
        if self.ledger.trouble().is_some() {
            return 0;
        }
        match *self.peers.borrow() {
            0 | 1 => self.room_alone().max(self.room_together()),
            _ => self.room_together(),
        }
    }

    /// The same as long as nobody else serves the queue, one batch at most.
    fn room_alone(&self) -> usize {
        let ahead = AHEAD.saturating_sub(self.ledger.waiting());
        usize::try_from(ahead).unwrap_or(usize::MAX).max(self.room_together()).min(BATCH)
    }

    /// The same while others serve the queue, too.
    fn room_together(&self) -> usize {
        usize::try_from(2 * self.ledger.unmet_demand()).unwrap_or(usize::MAX)
    }

    /// Takes batch after batch while there is something to take, and room.
    async fn take_all(
        &mut self,
        place: &Place,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), DoorError> {
        loop {
            let most = self.room().min(BATCH);
            if most == 0 || *self.draining.borrow() {
                return Ok(());
            }
            let noted = self.take(place, connection, most).await?;
            let full = noted.len() == most;
            self.accept(connection, noted).await?;
            if !full {
                return Ok(());
            }
        }
    }

    async fn take(
        &mut self,
        place: &Place,
        connection: &mut MultiplexedConnection,
        most: usize,
    ) -> Result<Vec<Noted>, RedisError> {
        let most = Most { alone: most, together: self.room_together().min(most) };
        let taken = place.take(connection, most, &self.written_down).await?;
        self.written_down.clear();
        self.know(taken.peers);
        Ok(taken.noted)
    }

    /// Writes down what was noted earlier, oldest first.
    async fn accept_noted(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), DoorError> {
        self.take_over(connection).await?;
        // What is known to be written down needs no ledger, which may refuse.
        self.forget(connection).await?;
        let noted: std::collections::BTreeMap<String, Vec<u8>> =
            redis::cmd("HGETALL").arg(self.accepting()).query_async(connection).await?;
        let noted: Vec<Noted> =
            noted.into_iter().map(|(receipt, value)| Noted { receipt, value }).collect();
        for batch in noted.chunks(BATCH) {
            self.accept(connection, batch.to_vec()).await?;
            self.forget(connection).await?;
        }
        Ok(())
    }

    /// Over a restored copy: what its original had only noted is ours, once its executor is dead.
    async fn take_over(&mut self, connection: &mut MultiplexedConnection) -> Result<(), DoorError> {
        let Some(origin) = self.origin.clone() else { return Ok(()) };
        match origin::take_over(connection, &origin, self.ledger.id()).await? {
            TakeOver::Lives => {
                tracing::debug!(
                    event = "origin_lives",
                    origin,
                    "the ledger this one was copied from is served; what it has noted stays its own"
                );
            }
            TakeOver::Done(notes) => {
                self.ledger.forget_origin().await?;
                self.origin = None;
                tracing::info!(
                    event = "origin_taken_over",
                    origin,
                    notes,
                    "this ledger is a copy; what its original had only noted is taken over"
                );
            }
        }
        Ok(())
    }

    /// Writes a batch down. Its notes are forgotten along with the next take, or a little later.
    async fn accept(
        &mut self,
        connection: &mut MultiplexedConnection,
        noted: Vec<Noted>,
    ) -> Result<(), DoorError> {
        if noted.is_empty() {
            return Ok(());
        }
        let arrivals = self.arrivals(connection, &noted).await?;
        failpoint!("accept.before", DoorError::Redis(crate::failpoint::broken().into()));
        let accepted = self.ledger.accept(arrivals.clone()).await?;
        failpoint!("accept.after", DoorError::Redis(crate::failpoint::broken().into()));
        intake::tell(&arrivals, &accepted);
        self.written_down.extend(noted.into_iter().map(|note| note.receipt));
        Ok(())
    }

    /// Forgets the notes of what has been written down. One that stays is recognised by its receipt.
    async fn forget(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if self.written_down.is_empty() {
            return Ok(());
        }
        let mut forget = redis::cmd("HDEL");
        forget.arg(self.accepting()).arg(&self.written_down);
        failpoint!("forget.before", crate::failpoint::broken().into());
        forget.query_async::<()>(connection).await?;
        failpoint!("forget.after", crate::failpoint::broken().into());
        self.written_down.clear();
        Ok(())
    }

    async fn arrivals(
        &self,
        connection: &mut MultiplexedConnection,
        noted: &[Noted],
    ) -> Result<Vec<Arrival>, RedisError> {
        let read: Vec<_> = noted.iter().map(|note| self.read(note)).collect();
        let mut names: Vec<&String> = Vec::new();
        for (_, _, draft) in &read {
            names.extend(tool_named(draft));
        }
        let tools = match names.is_empty() {
            true => ToolTable::new(),
            false => tool_table(connection, names).await?,
        };
        let arrivals = noted.iter().zip(read).map(|(note, (source, payload, draft))| {
            self.intake.arrival(Some(note.receipt.clone()), source, payload, draft, &tools)
        });
        Ok(arrivals.collect())
    }

    /// The door a payload came through, the payload, and what it says.
    fn read<'a>(&self, note: &'a Noted) -> (Source, &'a [u8], Result<Draft, Box<Refusal>>) {
        let list = note.list().and_then(|list| self.lists.get(list));
        let item = match list {
            Some(List::Due(_)) => read_item(note.payload()),
            _ => None,
        };
        let (source, payload) = item.unwrap_or((Source::Queue, note.payload()));
        let draft = match source {
            Source::Trigger => self.intake.read_trigger(payload),
            _ => self.intake.read(payload),
        };
        (source, payload, draft)
    }

    fn accepting(&self) -> String {
        accepting(self.ledger.id())
    }
}

fn tool_named(draft: &Result<Draft, Box<Refusal>>) -> Option<&String> {
    match draft.as_ref().ok()?.target.as_ref()? {
        Target::Tool(name) => Some(name),
        Target::Callable { .. } => None,
    }
}

/// Resolves once the drain has begun.
async fn begun(draining: &mut watch::Receiver<bool>) {
    // Its sender gone means that the daemon ends.
    let _ = draining.wait_for(|draining| *draining).await;
}
