//! What a run writes: two pipes in, lines to the log, the last bytes kept.
//!
//! Must not delay the end of a run: waiting for the log happens here and only here, and what holds a
//! run up is its own full pipe. Memory is bounded by one chunk, one line and the tail.

use std::collections::VecDeque;
use std::io::{self, BufRead, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::log::{Origin, OutputLine, OutputSink, Stream};

/// The longest line; a longer one is split.
const LINE_MAX: usize = 16 << 10;
const CHUNK: usize = 16 << 10;

/// The last bytes of both streams in the order they were read, and how many there were.
#[derive(Debug, Default)]
pub(super) struct Tail {
    ring: VecDeque<u8>,
    room: usize,
    total: u64,
}

impl Tail {
    fn new(room: usize) -> Self {
        Self { ring: VecDeque::new(), room, total: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(self.room)..];
        let over = (self.ring.len() + kept.len()).saturating_sub(self.room);
        self.ring.drain(..over);
        self.ring.extend(kept);
    }

    /// The kept text, and the number of all bytes. A character cut at the front is left out.
    pub(super) fn finish(self) -> (String, u64) {
        let cut = self.total > self.ring.len() as u64;
        let mut bytes = Vec::from(self.ring);
        if cut {
            let start = bytes.iter().take(3).take_while(|b| (**b & 0xC0) == 0x80).count();
            bytes.drain(..start);
        }
        (String::from_utf8_lossy(&bytes).into_owned(), self.total)
    }
}

/// One way to read a pipe: replaces what the buffer holds, up to its capacity.
pub(super) type Reader = fn(&AsyncFd<OwnedFd>, &mut Vec<u8>) -> io::Result<usize>;

/// Reads if the runtime says there is something, and tells it when there was not.
pub(super) fn read_ready(pipe: &AsyncFd<OwnedFd>, into: &mut Vec<u8>) -> io::Result<usize> {
    into.clear();
    pipe.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, spare_capacity(into))?))
}

/// Reads whatever the runtime knows: for the last bytes of a tree that is gone.
pub(super) fn read_now(pipe: &AsyncFd<OwnedFd>, into: &mut Vec<u8>) -> io::Result<usize> {
    into.clear();
    Ok(rustix::io::read(pipe.get_ref(), spare_capacity(into))?)
}

/// Cuts one stream into lines.
#[derive(Debug, Default)]
struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while let Ok(1..) = bytes.read_until(b'\n', &mut self.partial) {
            let ended = self.partial.pop_if(|last| *last == b'\n').is_some();
            while self.partial.len() > LINE_MAX {
                let rest = self.partial.split_off(boundary(&self.partial));
                line(text_of(&std::mem::replace(&mut self.partial, rest)));
            }
            if ended {
                line(text_of(&std::mem::take(&mut self.partial)));
            }
        }
    }

    fn finish(&mut self, mut line: impl FnMut(String)) {
        if !self.partial.is_empty() {
            line(text_of(&std::mem::take(&mut self.partial)));
        }
    }
}

/// Where to split a long line so that no character is cut.
fn boundary(bytes: &[u8]) -> usize {
    (LINE_MAX - 3..=LINE_MAX).rev().find(|at| (bytes[*at] & 0xC0) != 0x80).unwrap_or(LINE_MAX)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned()
}

/// One pipe of a run.
struct Source {
    pipe: AsyncFd<OwnedFd>,
    stream: Stream,
    splitter: Splitter,
    open: bool,
}

impl Source {
    fn new(pipe: AsyncFd<OwnedFd>, stream: Stream) -> Self {
        Self { pipe, stream, splitter: Splitter::default(), open: true }
    }
}

/// Reads both pipes of one attempt.
pub(super) struct Output {
    sources: [Source; 2],
    tail: Tail,
    pending: VecDeque<OutputLine>,
    origin: Arc<Origin>,
    sink: OutputSink,
}

/// The other side of a running [`Output`].
pub(super) struct Handle {
    end: oneshot::Sender<()>,
    tail: oneshot::Receiver<Tail>,
    task: tokio::task::JoinHandle<()>,
}

impl Handle {
    /// To be called when the tree is gone: takes what is left in the pipes and gives the tail. The
    /// lines still to be logged get a moment to leave before the caller's own.
    pub(super) async fn finish(self) -> (String, u64) {
        let _ = self.end.send(());
        let tail = self.tail.await.unwrap_or_default();
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), self.task).await;
        tail.finish()
    }
}

impl Output {
    pub(super) fn start(
        stdout: AsyncFd<OwnedFd>,
        stderr: AsyncFd<OwnedFd>,
        room: usize,
        origin: Arc<Origin>,
        sink: OutputSink,
    ) -> Handle {
        let output = Self {
            sources: [Source::new(stdout, Stream::Stdout), Source::new(stderr, Stream::Stderr)],
            tail: Tail::new(room),
            pending: VecDeque::new(),
            origin,
            sink,
        };
        let (end, ended) = oneshot::channel();
        let (give, tail) = oneshot::channel();
        Handle { end, tail, task: tokio::spawn(output.work(ended, give)) }
    }

    async fn work(mut self, mut ended: oneshot::Receiver<()>, give: oneshot::Sender<Tail>) {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            let [out, err] = &mut self.sources;
            let which = if let Some(line) = self.pending.front() {
                tokio::select! {
                    () = self.sink.send(line.clone()) => { self.pending.pop_front(); continue }
                    _ = &mut ended => break,
                }
            } else {
                tokio::select! {
                    ready = out.pipe.readable(), if out.open => ready.map(|_| 0),
                    ready = err.pipe.readable(), if err.open => ready.map(|_| 1),
                    _ = &mut ended => break,
                }
            };
            let Ok(which) = which else { break };
            self.read(which, &mut chunk, read_ready);
        }
        for which in [0, 1] {
            while self.sources[which].open && self.read(which, &mut chunk, read_now) {}
            self.flush(which);
        }
        let _ = give.send(std::mem::take(&mut self.tail));
        for line in std::mem::take(&mut self.pending) {
            self.sink.send(line).await;
        }
    }

    /// Reads one chunk. True if there may be more at once.
    fn read(&mut self, which: usize, chunk: &mut Vec<u8>, read: Reader) -> bool {
        let source = &mut self.sources[which];
        match read(&source.pipe, chunk) {
            Ok(0) => {
                source.open = false;
                self.flush(which);
                false
            }
            Ok(_) => {
                self.tail.push(chunk);
                let (origin, stream, pending) = (&self.origin, source.stream, &mut self.pending);
                source.splitter.push(chunk, |line| {
                    pending.push_back(OutputLine { origin: Arc::clone(origin), stream, line });
                });
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => {
                source.open = false;
                false
            }
        }
    }

    fn flush(&mut self, which: usize) {
        let source = &mut self.sources[which];
        let (origin, stream, pending) = (&self.origin, source.stream, &mut self.pending);
        source.splitter.finish(|line| {
            pending.push_back(OutputLine { origin: Arc::clone(origin), stream, line });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_bytes_and_counts_all() {
        let mut tail = Tail::new(4);
        for piece in [b"ab".as_slice(), b"cdefgh", b"", b"i"] {
            tail.push(piece);
        }
        assert_eq!(tail.finish(), ("fghi".to_owned(), 9));
    }

    #[test]
    fn a_tail_without_room_keeps_nothing() {
        let mut tail = Tail::new(0);
        tail.push(b"abc");
        assert_eq!(tail.finish(), (String::new(), 3));
    }

    #[test]
    fn lines_are_split_and_the_last_one_needs_no_newline() {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        splitter.push(b"a\nb", |l| lines.push(l));
        splitter.push(b"c\r\n\nx\xff", |l| lines.push(l));
        splitter.finish(|l| lines.push(l));
        assert_eq!(lines, ["a", "bc", "", "x\u{fffd}"]);
    }

    #[test]
    fn a_long_line_is_split_between_characters() {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        let text = "ü".repeat(LINE_MAX);
        splitter.push(b"x", |l| lines.push(l));
        splitter.push(text.as_bytes(), |l| lines.push(l));
        splitter.finish(|l| lines.push(l));
        assert!(lines.iter().all(|l| l.len() <= LINE_MAX && !l.contains('\u{fffd}')));
        assert_eq!(lines.concat(), format!("x{text}"));
    }
}
