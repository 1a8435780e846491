//! Taking from Redis' lists into the hash of what is being accepted: at once, or as soon as there is
//! something.
//!
//! One script takes (`lua/take.lua`). A look waits for an element by moving the last one onto itself,
//! which can lose nothing, and has the script follow in the same breath: Redis begins it when the look is
//! over, so that a job meets an idle executor one round trip sooner. Writes nothing down.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Script};

use super::noted::Noted;
use crate::link::Perform;
use crate::payload::MAX_PAYLOAD_BYTES;

/// Most jobs, and most bytes, taken in one go.
pub(super) const BATCH: usize = 64;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a look blocks; its connection waits a little longer for the answer.
const LOOK: Duration = Duration::from_secs(2);
pub(super) const LOOK_ANSWER: Duration = Duration::from_secs(4);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/take.lua")));

/// Where jobs are taken from, and where they are noted.
#[derive(Debug)]
pub(super) struct Place {
    /// The hash of what is being accepted.
    pub(super) accepting: String,
    /// Redis' own list of the executors that serve the queue.
    pub(super) members: String,
    /// In the order in which they are taken from.
    pub(super) lists: Vec<String>,
}

/// How many jobs to take at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// While nobody else serves the queue.
    pub(super) alone: usize,
    /// While others do. Redis knows which.
    pub(super) together: usize,
}

/// What was taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// How many serve the queue.
    pub(super) peers: u32,
    /// Oldest first.
    pub(super) noted: Vec<Noted>,
}

/// How the script answers.
type Answer = (u32, Vec<(String, Vec<u8>)>);

impl From<Answer> for Taken {
    fn from((peers, taken): Answer) -> Self {
        let noted = taken.into_iter().map(|(receipt, value)| Noted { receipt, value });
        Self { peers, noted: noted.collect() }
    }
}

impl Place {
    fn keys(&self) -> Vec<&str> {
        let names = [&self.accepting, &self.members].into_iter().chain(&self.lists);
        names.map(String::as_str).collect()
    }

    /// Takes what is there, and forgets notes of what has been `written_down`.
    pub(super) async fn take(
        &self,
        connection: &mut MultiplexedConnection,
        most: Most,
        written_down: &[String],
    ) -> Result<Taken, RedisError> {
        failpoint!("take.before", crate::failpoint::broken().into());
        let mut call = TAKE.prepare_invoke();
        call.key(self.keys()).arg(arguments(most)).arg(written_down);
        let answer: Answer = call.perform(connection).await?;
        failpoint!("take.after", crate::failpoint::broken().into());
        Ok(answer.into())
    }
}

/// What the script is told, but for the receipts at the end.
fn arguments(most: Most) -> Vec<String> {
    let receipts = uuid::Uuid::now_v7().to_string();
    let numbers = [BATCH_BYTES, MAX_PAYLOAD_BYTES + 1, most.alone, most.together];
    numbers.iter().map(usize::to_string).chain([receipts]).collect()
}

/// A look at one list. It has its connection to itself, and gives it back with its answer, so that there
/// is never more than one on its way. Dropped, it closes the connection: what it might have taken then is
/// noted, as with any reply that is lost.
pub(super) struct Look {
    pub(super) connection: MultiplexedConnection,
    pub(super) place: Arc<Place>,
    /// Its number among the lists.
    pub(super) list: usize,
}

/// What a look found.
pub(super) struct Looked {
    pub(super) found: Result<Found, RedisError>,
    pub(super) look: Look,
}

/// Something, perhaps.
pub(super) struct Found {
    /// There is, or was, an element in the list.
    pub(super) there: bool,
    /// What the take that followed brought; nothing while others serve the queue, or if it was refused.
    pub(super) taken: Taken,
    /// Whose notes the take has forgotten.
    pub(super) forgotten: Vec<String>,
}

impl Look {
    /// Waits for an element; then takes up to `most` if nobody else serves the queue, and forgets notes of
    /// what has been `written_down`.
    pub(super) async fn begin(mut self, most: usize, written_down: Vec<String>) -> Looked {
        let found = self.ask(most, written_down).await;
        Looked { found, look: self }
    }

    async fn ask(&mut self, most: usize, written_down: Vec<String>) -> Result<Found, RedisError> {
        failpoint!("take.before", crate::failpoint::broken().into());
        let (list, keys) = (&self.place.lists[self.list], self.place.keys());
        let mut both = redis::pipe();
        both.ignore_errors();
        both.cmd("BLMOVE").arg(list).arg(list).arg("RIGHT").arg("RIGHT").arg(LOOK.as_secs());
        both.cmd("EVALSHA").arg(TAKE.get_hash()).arg(keys.len()).arg(keys);
        both.arg(arguments(Most { alone: most, together: 0 })).arg(&written_down);
        let (there, answer): (RedisResult<Option<Vec<u8>>>, RedisResult<Answer>) =
            both.query_async(&mut self.connection).await?;
        let there = there?.is_some();
        // Refused, as by a Redis that has forgotten the script, it is done, or told, by the next take.
        let Ok(answer) = answer else {
            return Ok(Found { there, taken: Taken::default(), forgotten: Vec::new() });
        };
        let taken = Taken::from(answer);
        if !taken.noted.is_empty() {
            failpoint!("take.after", crate::failpoint::broken().into());
        }
        Ok(Found { there, taken, forgotten: written_down })
    }
}
