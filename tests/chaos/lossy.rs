//! Stands between an executor and its Redis and loses replies: a request is carried out, its answer
//! never comes back, and the connection breaks.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::resp;

/// Between two losses there is time for some work.
const QUIET: Duration = Duration::from_millis(100);

struct Chance {
    random: Random,
    /// So many are still to be lost.
    left: u64,
    last: Instant,
    lost: BTreeMap<String, u64>,
}

pub(crate) struct Lossy {
    port: u16,
    chance: Arc<Mutex<Chance>>,
}

/// What is under way on one connection.
#[derive(Default)]
struct Talk {
    /// Requests that are not answered yet.
    asked: VecDeque<String>,
    /// So many more replies get through; then the connection breaks.
    doomed: Option<usize>,
    /// Messages come unasked: nothing is counted any more.
    subscribed: bool,
}

impl Lossy {
    pub(crate) fn before(redis_port: u16, seed: u64, left: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (random, lost) = (Random::new(seed), BTreeMap::new());
        let chance = Arc::new(Mutex::new(Chance { random, left, last: Instant::now(), lost }));
        let shared = Arc::clone(&chance);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", redis_port)) else { continue };
                join(client.unwrap(), server, &shared);
            }
        });
        Self { port, chance }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many are still to be lost.
    pub(crate) fn left(&self) -> u64 {
        self.chance.lock().unwrap().left
    }

    /// How many replies of each kind were lost.
    pub(crate) fn lost(&self) -> BTreeMap<String, u64> {
        self.chance.lock().unwrap().lost.clone()
    }
}

impl Chance {
    /// Whether the reply of this request is to be lost. Rare requests get their share.
    fn dooms(&mut self, name: &str) -> bool {
        let (command, key) = name.split_once(' ').unwrap_or((name, ""));
        let often = match (command, key) {
            ("CLIENT" | "PING" | "SELECT" | "SCRIPT", _) => 0,
            // What is on its way from a list into the ledger.
            ("EVALSHA" | "HDEL" | "HGETALL", "executor:accepting") => 40,
            ("BLMOVE", _) => 20,
            ("EVALSHA", key) if key.starts_with("executor:") => 10,
            _ => 3,
        };
        self.left > 0 && self.last.elapsed() > QUIET && self.random.percent(often)
    }
}

/// A request in a word or two: scripts are told by their first key.
fn name(words: &[String]) -> String {
    let command = words.first().map(|word| word.to_uppercase()).unwrap_or_default();
    let key = match command.as_str() {
        "EVALSHA" => words.get(3),
        _ => words.get(1),
    };
    // Without ids, so that they can be counted.
    let parts: Vec<_> = key.map_or("", String::as_str).splitn(3, ':').take(2).collect();
    format!("{command} {}", parts.join(":"))
}

fn join(client: TcpStream, server: TcpStream, chance: &Arc<Mutex<Chance>>) {
    let talk = Arc::new(Mutex::new(Talk::default()));
    let (up, down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
    let (asking, chance_up) = (Arc::clone(&talk), Arc::clone(chance));
    std::thread::spawn(move || {
        copy(up, |request| {
            let name = name(&resp::words(request));
            let mut talk = asking.lock().unwrap();
            talk.subscribed |= name.contains("SUBSCRIBE");
            if talk.doomed.is_none() && !talk.subscribed && chance_up.lock().unwrap().dooms(&name) {
                talk.doomed = Some(talk.asked.len());
            }
            talk.asked.push_back(name);
            true
        });
    });
    let chance = Arc::clone(chance);
    std::thread::spawn(move || {
        copy(down, |_| {
            let mut talk = talk.lock().unwrap();
            let answered = talk.asked.pop_front();
            match &mut talk.doomed {
                Some(0) => {
                    let mut chance = chance.lock().unwrap();
                    *chance.lost.entry(answered.unwrap_or_default()).or_default() += 1;
                    chance.left = chance.left.saturating_sub(1);
                    chance.last = Instant::now();
                    return false;
                }
                Some(more) => *more -= 1,
                None => {}
            }
            true
        });
    });
}

/// Passes whole messages on; the first that `pass` refuses, or the end of either side, ends both.
fn copy((mut from, mut to): (TcpStream, TcpStream), mut pass: impl FnMut(&[u8]) -> bool) {
    let (mut held, mut buffer) = (Vec::new(), [0; 65536]);
    'both: while let Ok(read @ 1..) = from.read(&mut buffer) {
        held.extend_from_slice(&buffer[..read]);
        while let Some(length) = resp::length(&held) {
            if !pass(&held[..length]) || to.write_all(&held[..length]).is_err() {
                break 'both;
            }
            held.drain(..length);
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
