//! An `executor serve` of the built binary in a directory of its own, its log lines, its ledger.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::user::User;
use super::{PATIENCE, RedisServer, eventually, within};

/// A row of the ledger by column name.
pub(crate) type Row = Map<String, Value>;

/// The built binary; another one, to measure a release build, if `EXECUTOR_BINARY` names it.
pub(super) fn binary() -> PathBuf {
    std::env::var_os("EXECUTOR_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_executor").into(), PathBuf::from)
}

/// The committed fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Settings and place of an executor; [`Executor::serve`] starts it.
pub(crate) struct Executor {
    pub(crate) dir: TempDir,
    environment: BTreeMap<String, String>,
    ledger: PathBuf,
    /// Begins with no right to let a file grow.
    limited: bool,
    user: Option<User>,
    own_session: bool,
    child: Option<Child>,
    lines: Arc<Mutex<Vec<Row>>>,
}

impl Executor {
    /// One that has not been started: fixtures as tasks, two slots, any HTTP port.
    pub(crate) fn new(redis: Option<&RedisServer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = fixtures().join("tasks_misbehaving");
        let mut executor = Self {
            environment: BTreeMap::new(),
            ledger: dir.path().join("ledger.db"),
            limited: false,
            user: None,
            own_session: false,
            child: None,
            lines: Arc::default(),
            dir,
        };
        let ledger = format!("sqlite://{}", executor.ledger.display());
        let path = std::env::var("PATH").unwrap();
        for (name, value) in [
            ("PATH", path.as_str()),
            ("HOME", "/nonexistent"),
            ("REDIS_URL", &redis.map_or("none".to_owned(), RedisServer::url)),
            ("DB_URL", &ledger),
            ("HTTP_ADDR", "127.0.0.1:0"),
            ("CONCURRENCY", "2"),
            ("TASKS_PATH", tasks.to_str().unwrap()),
            ("TOOLS_PATH", tasks.join("tools").to_str().unwrap()),
            ("RETRY_BACKOFF_MIN", "100ms"),
            ("RETRY_BACKOFF_MAX", "300ms"),
            ("KILL_GRACE", "500ms"),
            ("LOG_LEVEL", "debug"),
        ] {
            executor.set(name, value);
        }
        executor
    }

    /// Starts one with Redis and waits until it is ready.
    pub(crate) fn start(redis: &RedisServer) -> Self {
        let mut executor = Self::new(Some(redis));
        executor.serve();
        executor
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.ledger.clone()
    }

    /// Puts its ledger elsewhere.
    pub(crate) fn set_ledger(&mut self, path: PathBuf) -> &mut Self {
        self.set("DB_URL", &format!("sqlite://{}", path.display()));
        self.ledger = path;
        self
    }

    /// Whether it is to begin with no right to let a file grow.
    pub(crate) fn begin_limited(&mut self, limited: bool) {
        self.limited = limited;
    }

    /// How large the running one may let a file grow; `None`: without limit.
    pub(crate) fn limit_file_size(&self, size: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        let limit = Rlimit { current: size, maximum: None };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    }

    /// Makes it an ordinary user's, if the tests run as root: its own uid, its own directory, an
    /// interpreter and a copy of binary and fixtures that this user can reach.
    pub(crate) fn of_ordinary_user(&mut self) -> &mut Self {
        if !nix::unistd::geteuid().is_root() {
            return self;
        }
        let user = User::new(self.dir.path());
        let tasks = user.root.join("tasks_misbehaving");
        self.set("PYTHON", user.python.to_str().unwrap());
        self.set("TASKS_PATH", tasks.to_str().unwrap());
        self.set("TOOLS_PATH", tasks.join("tools").to_str().unwrap());
        self.user = Some(user);
        self
    }

    /// Serves in a session of its own, as services do: a kernel that shares out CPU time by session then
    /// does not count what the test itself uses.
    pub(crate) fn in_own_session(&mut self) -> &mut Self {
        self.own_session = true;
        self
    }

    /// A command of the binary with this executor's settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if self.own_session {
            words.push("setsid".into());
        }
        words.extend(self.user.iter().flat_map(User::prefix));
        words.push(
            self.user.as_ref().map_or_else(|| binary().into(), |user| user.binary.clone().into()),
        );
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(arguments).env_clear().envs(&self.environment).current_dir(self.dir.path());
        command
    }

    /// As [`Executor::command`], limited if that was asked for.
    fn limited_command(&self, arguments: &[&str]) -> Command {
        if !self.limited {
            return self.command(arguments);
        }
        let mut command = Command::new("prlimit");
        command.arg("--fsize=0:unlimited").arg(binary()).args(arguments).env_clear();
        command.envs(&self.environment).current_dir(self.dir.path());
        command
    }

    /// Runs a command to its end, limited if that was asked for.
    pub(crate) fn limited_output(&self, arguments: &[&str]) -> Output {
        self.limited_command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command to its end.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must end well and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Starts `serve` and waits for its `ready` line.
    pub(crate) fn serve(&mut self) {
        self.serve_unready();
        self.line("ready", |line| line["event"] == "ready");
    }

    /// Starts `serve` without waiting.
    pub(crate) fn serve_unready(&mut self) {
        let mut command = self.limited_command(&["serve"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        self.lines.lock().unwrap().clear();
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { break };
                let row = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("not a JSON line: {error}: {line}"));
                lines.lock().unwrap().push(row);
            }
        });
        self.child = Some(child);
    }

    pub(crate) fn pid(&self) -> i64 {
        i64::from(self.child.as_ref().unwrap().id())
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
    }

    /// Waits for the daemon's own end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = within(PATIENCE, "the executor to end", || self.exited());
        self.child = None;
        status
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        self.wait().code()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// All log lines so far.
    pub(crate) fn lines(&self) -> Vec<Row> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines of an event there have been.
    pub(crate) fn count(&self, event: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line["event"] == event).count()
    }

    /// Waits for a log line.
    pub(crate) fn line(&self, what: &str, matches: impl Fn(&Row) -> bool) -> Row {
        eventually(&format!("the log line {what}"), || {
            self.lines().into_iter().find(|line| matches(line))
        })
    }

    /// The address of the HTTP listener.
    pub(crate) fn http(&self) -> String {
        let line = self.line("http_listening", |line| line["event"] == "http_listening");
        line["addr"].as_str().unwrap().to_owned()
    }

    /// A GET: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path)
    }

    /// `/healthz`: status and the parsed body.
    pub(crate) fn healthz(&self) -> (u16, Value) {
        let (status, body) = self.get("/healthz");
        (status, serde_json::from_str(&body).unwrap())
    }

    /// A request: status and body.
    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let address = self.http();
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // One that is refused may be answered, and the connection closed, before all of it was sent.
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    /// Rows of the ledger.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Row> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(db) = rusqlite::Connection::open_with_flags(self.ledger_path(), flags) else {
            return Vec::new();
        };
        db.busy_timeout(PATIENCE).unwrap();
        let mut statement = match db.prepare(sql) {
            // Made, but not yet filled.
            Err(error) if error.to_string().contains("no such table") => return Vec::new(),
            other => other.unwrap(),
        };
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let rows = statement.query_map([], |row| {
            let mut map = Row::new();
            for (index, name) in names.iter().enumerate() {
                let value = match row.get_ref(index)? {
                    rusqlite::types::ValueRef::Null => Value::Null,
                    rusqlite::types::ValueRef::Integer(n) => n.into(),
                    rusqlite::types::ValueRef::Real(x) => x.into(),
                    rusqlite::types::ValueRef::Text(t) => String::from_utf8_lossy(t).into(),
                    rusqlite::types::ValueRef::Blob(b) => format!("blob:{}", b.len()).into(),
                };
                map.insert(name.clone(), value);
            }
            Ok(map)
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The row of a job, if it is there.
    pub(crate) fn job(&self, id: &str) -> Option<Row> {
        self.rows(&format!("SELECT * FROM jobs WHERE id = '{id}'")).pop()
    }

    /// The attempts of a job.
    pub(crate) fn attempts(&self, id: &str) -> Vec<Row> {
        self.rows(&format!("SELECT * FROM attempts WHERE job_id = '{id}' ORDER BY attempt"))
    }

    /// Waits until the job has this status.
    pub(crate) fn until(&self, id: &str, status: &str) -> Row {
        eventually(&format!("job {id} to be {status}; it is {:?}", self.job(id)), || {
            self.job(id).filter(|row| row["status"] == status)
        })
    }

    /// Waits until the job has ended, either way.
    pub(crate) fn ended(&self, id: &str) -> Row {
        eventually(&format!("job {id} to end"), || {
            self.job(id).filter(|row| row["status"] == "COMPLETED" || row["status"] == "FAILED")
        })
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.lines() {
                eprintln!("{}", Value::Object(line));
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
