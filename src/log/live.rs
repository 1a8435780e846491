//! Following a job's output live: its last lines, and those to come.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::OutputLine;
use crate::job::JobId;

/// Last lines kept of each job, and jobs of which they are kept: for a follower who comes late.
const LINES: usize = 256;
const BYTES: usize = 64 * 1024;
const JOBS: usize = 64;

/// Followers, and the last lines of the jobs that wrote last.
#[derive(Debug, Default)]
pub(super) struct Live {
    followers: Vec<(JobId, mpsc::Sender<OutputLine>)>,
    /// The job that wrote last is the first.
    recent: VecDeque<Recent>,
}

#[derive(Debug)]
struct Recent {
    job: JobId,
    lines: VecDeque<OutputLine>,
    bytes: usize,
}

impl Live {
    /// Gives a follower what is still known, and all that comes.
    pub(super) fn add_follower(&mut self, job: JobId, sender: mpsc::Sender<OutputLine>) {
        if let Some(recent) = self.recent.iter().find(|recent| recent.job == job) {
            for line in &recent.lines {
                // There is room for far more lines than are kept.
                let _ = sender.try_send(line.clone());
            }
        }
        self.followers.push((job, sender));
    }

    /// A line was written.
    pub(super) fn take(&mut self, line: &OutputLine) {
        let job = &line.origin.job_id;
        self.followers.retain(|(followed, sender)| {
            if followed == job {
                // A follower that lags misses lines; the run does not wait for it.
                let _ = sender.try_send(line.clone());
            }
            !sender.is_closed()
        });
        match self.recent.iter().position(|recent| recent.job == *job) {
            Some(0) => {}
            Some(place) => {
                let found = self.recent.remove(place);
                self.recent.extend(found);
                self.recent.rotate_right(1);
            }
            None => {
                self.recent.truncate(JOBS - 1);
                self.recent.push_front(Recent::new(job.clone()));
            }
        }
        if let Some(recent) = self.recent.front_mut() {
            recent.push(line);
        }
    }
}

impl Recent {
    fn new(job: JobId) -> Self {
        Self { job, lines: VecDeque::new(), bytes: 0 }
    }

    fn push(&mut self, line: &OutputLine) {
        self.bytes += line.line.len();
        self.lines.push_back(line.clone());
        while self.lines.len() > LINES || self.bytes > BYTES && self.lines.len() > 1 {
            let gone = self.lines.pop_front();
            self.bytes -= gone.map_or(0, |line| line.line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::{Origin, Stream};

    fn line(job: &str, text: &str) -> OutputLine {
        let job_id = JobId::new(job).unwrap();
        let origin = Origin { job_id, attempt: 1, run_id: None, experiment_id: None };
        OutputLine { origin: Arc::new(origin), stream: Stream::Stdout, line: text.into() }
    }

    #[test]
    fn one_who_comes_late_gets_the_last_lines_of_its_job() {
        let mut live = Live::default();
        for n in 0..300 {
            live.take(&line("a", &n.to_string()));
            live.take(&line("b", "other"));
        }
        let (sender, mut receiver) = mpsc::channel(1000);
        live.add_follower(JobId::new("a").unwrap(), sender);
        live.take(&line("a", "new"));
        let mut found = Vec::new();
        while let Ok(line) = receiver.try_recv() {
            found.push(line.line);
        }
        assert_eq!((found.len(), found[0].as_str()), (LINES + 1, "44"));
        assert_eq!(found[LINES], "new");
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_jobs() {
        let mut live = Live::default();
        for n in 0..1000 {
            live.take(&line(&format!("j{n}"), &"x".repeat(16 * 1024)));
            live.take(&line("long", &"x".repeat(16 * 1024)));
        }
        assert_eq!(live.recent.len(), JOBS);
        assert!(live.recent.iter().all(|recent| recent.bytes <= BYTES));
    }
}
