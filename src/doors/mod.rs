//! Doors: where work comes in. They write it down, or put it where all executors take from; they never
//! run it.

pub mod cron;
mod firing;
pub mod intake;
pub mod leader;
pub mod noted;
mod origin;
pub mod queue;
pub mod rescue;
pub mod schedules;
pub mod speedrun;
mod take;
pub mod timetable;
pub mod trigger;

use redis::RedisError;
use redis::aio::MultiplexedConnection;

/// All keys of a pattern, found without blocking Redis; names that are not UTF-8 are left out.
async fn scan(
    connection: &mut MultiplexedConnection,
    pattern: &str,
) -> Result<Vec<String>, RedisError> {
    let mut keys = Vec::new();
    let mut cursor = 0u64;
    loop {
        let (next, found): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(1000)
            .query_async(connection)
            .await?;
        keys.extend(found.into_iter().filter_map(|key| String::from_utf8(key).ok()));
        cursor = next;
        if cursor == 0 {
            return Ok(keys);
        }
    }
}
