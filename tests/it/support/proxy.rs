//! Stands between an executor and its Redis, and loses a reply on order: the request has reached
//! Redis and been done, its answer never comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{RedisServer, eventually};

/// How far apart the two words of a request may be.
const NEAR: usize = 120;

/// A request told by two words near each other, such as `HDEL` and a key's prefix.
pub(crate) type Request = (&'static str, &'static str);

#[derive(Default)]
struct State {
    awaited: Option<Request>,
    /// The connection whose replies are being lost.
    caught: Option<[TcpStream; 2]>,
    /// Connections made before the last call of [`Proxy::half_open`] are older than this.
    age: u64,
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub(crate) fn before(redis: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), redis.port());
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, state) = (client.unwrap(), Arc::clone(&shared));
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                join(&client, &server, &state);
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Every connection there is now goes on, but nothing comes through any more, either way; new ones
    /// are as before.
    pub(crate) fn half_open(&self) {
        self.state.lock().unwrap().age += 1;
    }

    /// From the next such request on, nothing comes back on its connection.
    pub(crate) fn lose_reply(&self, request: Request) {
        self.state.lock().unwrap().awaited = Some(request);
    }

    /// Waits until a request was caught and `done` says that Redis has done it, then cuts its
    /// connection.
    pub(crate) fn cut_once(&self, what: &str, mut done: impl FnMut() -> bool) {
        eventually(&format!("a request to lose the reply of ({what})"), || {
            self.state.lock().unwrap().caught.is_some().then_some(())
        });
        eventually(what, || done().then_some(()));
        for stream in self.state.lock().unwrap().caught.take().unwrap() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Copies both ways.
fn join(client: &TcpStream, server: &TcpStream, state: &Arc<Mutex<State>>) {
    let lost = Arc::new(Mutex::new(false));
    let age = state.lock().unwrap().age;
    let deaf = Arc::clone(state);
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (shared, losing) = (Arc::clone(state), Arc::clone(&lost));
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        copy(&mut from, &mut to, |from, to, bytes| {
            seen.extend_from_slice(bytes);
            let mut state = shared.lock().unwrap();
            if state.age != age {
                return false;
            }
            if state.awaited.is_some_and(|request| holds(&seen, request)) {
                state.awaited = None;
                // Before the request goes on, so that no byte of its reply gets through.
                *losing.lock().unwrap() = true;
                state.caught = Some([from.try_clone().unwrap(), to.try_clone().unwrap()]);
            }
            let keep = seen.len().saturating_sub(NEAR);
            seen.drain(..keep);
            true
        });
    });
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        copy(&mut from, &mut to, |_, _, _| {
            !*lost.lock().unwrap() && deaf.lock().unwrap().age == age
        });
    });
}

/// Copies until either side ends; what `pass` refuses is dropped.
fn copy(
    from: &mut TcpStream,
    to: &mut TcpStream,
    mut pass: impl FnMut(&TcpStream, &TcpStream, &[u8]) -> bool,
) {
    let mut buffer = [0; 65536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if pass(from, to, &buffer[..read]) && to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn holds(bytes: &[u8], (first, then): Request) -> bool {
    let find = |bytes: &[u8], word: &str| {
        bytes.windows(word.len()).position(|window| window == word.as_bytes())
    };
    let mut rest = bytes;
    while let Some(at) = find(rest, first) {
        rest = &rest[at + first.len()..];
        if find(&rest[..rest.len().min(NEAR)], then).is_some() {
            return true;
        }
    }
    false
}
