//! What the ledger that ours was copied from had only noted in Redis: taken over, once its executor is
//! dead, so that a restored backup loses nothing that was on its way.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};

use super::scan;
use crate::link::Perform;

/// Moves notes; one that is there already stays. KEYS: from, to. Answers how many.
const MOVE: &str = "
local notes = redis.call('HGETALL', KEYS[1])
for i = 1, #notes, 2 do
  redis.call('HSETNX', KEYS[2], notes[i], notes[i + 1])
end
redis.call('DEL', KEYS[1])
return #notes / 2";

/// What became of the notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakeOver {
    /// So many are ours now.
    Done(u64),
    /// The executor of the other ledger lives: they are its own.
    Lives,
}

/// Takes over the notes of the ledger `origin`, unless its executor lives.
pub(super) async fn take_over(
    connection: &mut MultiplexedConnection,
    origin: &str,
    ours: &str,
) -> Result<TakeOver, RedisError> {
    for key in scan(connection, "executor:heartbeat:*").await? {
        let ledger: Result<Option<String>, RedisError> =
            redis::cmd("HGET").arg(&key).arg("ledger_id").query_async(connection).await;
        if ledger?.as_deref() == Some(origin) {
            return Ok(TakeOver::Lives);
        }
    }
    let moved = Script::new(MOVE)
        .key(super::noted::accepting(origin))
        .key(super::noted::accepting(ours))
        .perform(connection)
        .await?;
    Ok(TakeOver::Done(moved))
}
