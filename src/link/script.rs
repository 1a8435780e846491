//! Asking Redis to run a script, whatever it has forgotten.

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, ScriptInvocation};

/// How often a script is told anew that is forgotten before it can run: more often than anybody forgets it in a row.
const TRIES: usize = 50;

/// Runs scripts.
pub trait Perform {
    /// Runs it. The crate loads a script that Redis does not know and tries once more; a restart or a
    /// `SCRIPT FLUSH` in that very moment would be an error, and is none here.
    fn perform<T: FromRedisValue + Send + Sync>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<T, RedisError>> + Send;
}

impl Perform for ScriptInvocation<'_> {
    async fn perform<T: FromRedisValue + Send + Sync>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        for _ in 1..TRIES {
            match self.invoke_async(connection).await {
                Err(error) if error.code() == Some("NOSCRIPT") => {}
                answer => return answer,
            }
        }
        self.invoke_async(connection).await
    }
}
