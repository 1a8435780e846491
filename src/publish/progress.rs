//! Live progress of running jobs: a field of the job's hash, best effort.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::job::JobId;
use crate::link::{Link, Perform};

/// How many words may wait; more are dropped.
const ROOM: usize = 1024;
/// A job is heard at most so often.
const EVERY: Duration = Duration::from_millis(100);
/// Jobs remembered for that.
const REMEMBERED: usize = 4096;

/// The word may come before the job's start is told, or after its end: then the hash it makes goes by
/// itself, or it is too late.
const TELL: &str = "
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'COMPLETED' or status == 'FAILED' then
  return
end
redis.call('HSET', KEYS[1], 'progress', ARGV[1])
if not status then
  redis.call('PEXPIRE', KEYS[1], 60000)
end";

/// Where progress goes in. Never waits.
#[derive(Clone, Debug)]
pub struct Progress {
    words: mpsc::Sender<Word>,
}

#[derive(Debug)]
struct Word {
    id: JobId,
    done: f64,
    total: Option<f64>,
}

impl Progress {
    /// Begins to tell Redis.
    pub fn begin(link: Arc<Link>) -> Self {
        let (words, receiver) = mpsc::channel(ROOM);
        tokio::spawn(tell_all(link, receiver));
        Self { words }
    }

    /// A job has come so far.
    pub fn tell(&self, id: &JobId, done: f64, total: Option<f64>) {
        // Dropped when Redis is slow: the next word says more.
        let _ = self.words.try_send(Word { id: id.clone(), done, total });
    }
}

async fn tell_all(link: Arc<Link>, mut words: mpsc::Receiver<Word>) {
    let mut heard: HashMap<JobId, Instant> = HashMap::new();
    while let Some(word) = words.recv().await {
        let at_the_end = word.total == Some(word.done);
        let lately = heard.get(&word.id).is_some_and(|at| at.elapsed() < EVERY);
        if lately && !at_the_end || !*link.state().borrow() {
            continue;
        }
        if heard.len() >= REMEMBERED {
            heard.clear();
        }
        heard.insert(word.id.clone(), Instant::now());
        let body = serde_json::json!({"done": word.done, "total": word.total}).to_string();
        let Ok(mut connection) = link.connection().await else { continue };
        // Refused, it is just not told.
        let script = redis::Script::new(TELL);
        let key = format!("executor:job:{}", word.id);
        let _: Result<(), _> = script.key(key).arg(body).perform(&mut connection).await;
    }
}
