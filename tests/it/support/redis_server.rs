//! A private Redis on a free port, ended by its pid.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use tempfile::TempDir;

use super::eventually;

pub(crate) struct RedisServer {
    child: Option<Child>,
    port: u16,
    pub(crate) dir: TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { child: None, port, dir: tempfile::tempdir().unwrap() };
        server.resume();
        server
    }

    /// Starts it again on the same port with what it kept.
    pub(crate) fn resume(&mut self) {
        self.resume_slowly(&["--appendonly", "yes", "--appendfsync", "always"]);
        eventually("redis to answer", || {
            let mut connection = self.try_connect()?;
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
    }

    /// Starts it again with these options in place of an append-only file, and does not wait for it.
    pub(crate) fn resume_slowly(&mut self, options: &[&str]) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(options)
            .arg("--dir")
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `make setup`");
        self.child = Some(child);
    }

    /// Starts it again on the same port with nothing.
    pub(crate) fn resume_empty(&mut self) {
        for file in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = file.unwrap().path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(path).unwrap(),
                false => std::fs::remove_file(path).unwrap(),
            }
        }
        self.resume();
    }

    /// Ends it; what it acknowledged is on disk.
    pub(crate) fn pause(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it without closing anything: it neither answers nor refuses.
    pub(crate) fn freeze(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn try_connect(&self) -> Option<redis::Connection> {
        redis::Client::open(self.url()).unwrap().get_connection().ok()
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        eventually("a connection to redis", || self.try_connect())
    }

    /// Runs one command.
    pub(crate) fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut self.connect()).unwrap()
    }

    /// Pushes a job to the default queue.
    pub(crate) fn push(&self, payload: &serde_json::Value) {
        self.push_bytes(payload.to_string().as_bytes());
    }

    pub(crate) fn push_bytes(&self, payload: &[u8]) {
        redis::cmd("LPUSH")
            .arg("executor:jobs")
            .arg(payload)
            .query::<i64>(&mut self.connect())
            .unwrap();
    }
}

impl RedisServer {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Pushes many payloads at once.
    pub(crate) fn push_all<'a>(&self, payloads: impl IntoIterator<Item = &'a [u8]>) {
        let mut pipeline = redis::pipe();
        for payload in payloads {
            pipeline.cmd("LPUSH").arg("executor:jobs").arg(payload).ignore();
        }
        pipeline.query::<()>(&mut self.connect()).unwrap();
    }

    /// A hash by field.
    pub(crate) fn hash(&self, key: &str) -> BTreeMap<String, String> {
        self.run(&["HGETALL", key])
    }

    /// Messages on a channel from now on, as JSON; ends with this Redis.
    pub(crate) fn subscribe(&self, channel: &'static str) -> Receiver<serde_json::Value> {
        let ((told, messages), (ready_in, ready)) = (channel_of(), channel_of());
        let mut connection = self.connect();
        std::thread::spawn(move || {
            let mut subscribed = connection.as_pubsub();
            subscribed.subscribe(channel).unwrap();
            ready_in.send(()).unwrap();
            while let Ok(message) = subscribed.get_message() {
                let body = serde_json::from_slice(message.get_payload_bytes()).unwrap();
                if told.send(body).is_err() {
                    break;
                }
            }
        });
        ready.recv().unwrap();
        messages
    }
}

fn channel_of<T>() -> (std::sync::mpsc::Sender<T>, Receiver<T>) {
    std::sync::mpsc::channel()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.pause();
    }
}
