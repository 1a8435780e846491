//! Births: the launcher that turns the executor's own binary into a slot, and what protects the
//! executor itself. With `tree.rs` the only place that touches processes.
//!
//! The launcher exists because anything that takes [`Command`] off its `posix_spawn` path copies the
//! executor's page tables at every birth. It runs single-threaded, before any runtime.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Tier, guard};

/// The hidden first argument that makes the executor's binary a launcher.
pub const LAUNCH: &str = "__launch";

/// Rlimits that are the same for every run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant {
    pub(super) open_files: Option<u64>,
    pub(super) file_size: Option<u64>,
}

/// Becomes what `args` (all that follow [`LAUNCH`]) say: `OPEN_FILES FILE_SIZE PROGRAM ARGS…`, with `-` for
/// no limit; or the guard, if they say `guard`. On success it does not return.
#[expect(clippy::exit, reason = "the guard is a process of its own that never comes to main")]
pub fn launch(args: impl IntoIterator<Item = OsString>) -> io::Error {
    let mut args = args.into_iter().peekable();
    if args.peek().is_some_and(|word| word == guard::GUARD) {
        close_inherited(AT_ONCE);
        return match leave_alone().and_then(|()| guard::watch()) {
            Ok(()) => std::process::exit(0),
            Err(error) => error,
        };
    }
    match prepare(args) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    }
}

fn prepare(mut args: impl Iterator<Item = OsString>) -> io::Result<Command> {
    let bad = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut limit = || {
        let text = args.next().ok_or_else(bad)?;
        let text = text.to_str().ok_or_else(bad)?;
        if text == "-" { Ok(None) } else { text.parse::<u64>().map(Some).map_err(|_| bad()) }
    };
    let (open_files, file_size) = (limit()?, limit()?);
    let program = args.next().ok_or_else(bad)?;
    leave_alone()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    for (resource, limit) in
        [(Resource::RLIMIT_NOFILE, open_files), (Resource::RLIMIT_FSIZE, file_size)]
    {
        if let Some(limit) = limit {
            let hard = nix::sys::resource::getrlimit(resource)?.1;
            setrlimit(resource, limit.min(hard), limit.min(hard))?;
        }
    }
    // Raising is free for anyone; where it is refused the run merely is no preferred victim.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_no_new_privs()?;
    // A slot that its run has stopped is to see that the executor is gone.
    nix::sys::prctl::set_pdeathsig(Signal::SIGCONT)?;
    let scope = if restrict()? { SCOPED } else { UNSCOPED };
    close_inherited(libc::CLOSE_RANGE_CLOEXEC);
    let mut command = Command::new(program);
    command.args(args).arg(scope);
    Ok(command)
}

/// A session of its own, and no signal that is meant for the executor.
fn leave_alone() -> io::Result<()> {
    let _ = nix::unistd::setsid();
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        #[expect(unsafe_code, reason = "ignoring a signal runs no code of ours")]
        // SAFETY: SigIgn installs no handler.
        unsafe {
            signal(number, SigHandler::SigIgn)?
        };
    }
    Ok(())
}

/// Starts the guard.
pub(super) fn guard(launcher: &Path) -> io::Result<Child> {
    let mut command = Command::new(launcher);
    command.arg(LAUNCH).arg(guard::GUARD).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut known = known();
    let child = command.spawn()?;
    known.insert(pid_of(&child));
    Ok(child)
}

/// Descriptors are closed now, not at the next `exec`.
const AT_ONCE: libc::c_uint = 0;

/// What the launcher tells the slot: whether its signals reach nobody but its own runs.
const SCOPED: &str = "scoped";
const UNSCOPED: &str = "unscoped";

/// Signals of this process and its descendants reach nobody outside, where the kernel can do that. True if
/// it does.
fn restrict() -> io::Result<bool> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::Signal)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.set_compatibility(CompatLevel::BestEffort).restrict_self())
        .map(|status| status.ruleset == RulesetStatus::FullyEnforced)
        .map_err(io::Error::other)
}

#[expect(unsafe_code, reason = "no safe wrapper for close_range")]
fn close_inherited(how: libc::c_uint) {
    // SAFETY: called before anything here has opened a descriptor; nothing uses one above 2 afterwards.
    unsafe { libc::close_range(3, libc::c_uint::MAX, how.cast_signed()) };
}

/// What keeps runs apart on this machine.
pub(super) fn tier() -> Tier {
    let scoped = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
        .and_then(Ruleset::create)
        .is_ok();
    if scoped {
        Tier { name: "landlock-scope", advice: None }
    } else {
        Tier {
            name: "subreaper",
            advice: Some(
                "signals of a run can reach other processes of the same user; Linux 6.12 or newer with Landlock stops that"
                    .to_owned(),
            ),
        }
    }
}

/// Hides the executor from its runs: to be called once at the start of `main`, after the
/// configuration was read and before any other thread exists. What was in the environment is
/// overwritten in memory, `/proc/self/environ` included; a few harmless variables are set anew.
///
/// # Errors
/// If the kernel refuses `PR_SET_DUMPABLE`.
pub fn harden() -> io::Result<()> {
    let kept: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            matches!(
                &*name,
                "PATH"
                    | "HOME"
                    | "TZ"
                    | "LANG"
                    | "TERM"
                    | "NO_COLOR"
                    | "RUST_BACKTRACE"
                    | "NOTIFY_SOCKET"
                    | "SSL_CERT_FILE"
                    | "SSL_CERT_DIR"
            ) || name.starts_with("LC_")
        })
        .collect();
    wipe_environment();
    for (name, value) in kept {
        #[expect(unsafe_code, reason = "the environment is process-wide")]
        // SAFETY: no other thread exists yet.
        unsafe {
            std::env::set_var(name, value)
        };
    }
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

#[expect(unsafe_code, reason = "only the C array reaches the memory that /proc/self/environ shows")]
fn wipe_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: single-threaded (see `harden`); every entry is a NUL-terminated string in writable
    // memory, either the initial stack or the C library's heap, and the array ends with NULL.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            std::ptr::write_bytes(*entry, 0, libc::strlen(*entry));
            entry = entry.add(1);
        }
        libc::clearenv();
    }
}

/// Processes that are children of this one and known: all births go through its lock, so a child
/// found here that is not in it has escaped from a dead slot.
static KNOWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// The table of known children, held while children are made or judged.
pub(super) fn known() -> MutexGuard<'static, BTreeSet<i32>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A newly started slot: its process and our ends of its three channels.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) child: Child,
    pub(super) go: OwnedFd,
    pub(super) ctl: OwnedFd,
    pub(super) log: OwnedFd,
}

/// Starts a slot through the launcher. `command` has the launcher as program and the small environment.
pub(super) fn slot(mut command: Command) -> io::Result<Born> {
    let pair =
        || socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let ((go, go_theirs), (ctl, ctl_theirs)) = (pair()?, pair()?);
    let (log, log_theirs) = io::pipe()?;
    command.stdin(Stdio::from(go_theirs)).stdout(Stdio::from(ctl_theirs)).stderr(log_theirs);
    let mut known = known();
    let child = command.spawn()?;
    known.insert(pid_of(&child));
    drop(known);
    let log = OwnedFd::from(log);
    for fd in [go.as_fd(), ctl.as_fd(), log.as_fd()] {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    Ok(Born { child, go, ctl, log })
}

/// The pid as the kernel's own type.
#[expect(clippy::cast_possible_wrap, reason = "pids fit")]
pub(super) fn pid_of(child: &Child) -> i32 {
    child.id() as i32
}

/// The arguments for the launcher.
pub(super) fn launcher(path: &Path, constant: Constant) -> Command {
    let word = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut command = Command::new(path);
    command.arg(LAUNCH).arg(word(constant.open_files)).arg(word(constant.file_size));
    command
}

/// A pipe: our end does not block.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours.into(), theirs.into()))
}

/// A descriptor whose readiness the runtime tells.
#[expect(unsafe_code, reason = "tokio's only constructor asks for I/O safety")]
pub(super) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always answers with the one descriptor that it owns.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// A piece of memory with a descriptor, holding `bytes`, sealed against changes if there are any.
pub(super) fn memory(name: &std::ffi::CStr, bytes: Option<&[u8]>) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    if let Some(bytes) = bytes {
        let mut file = std::fs::File::from(fd);
        io::Write::write_all(&mut file, bytes)?;
        io::Seek::rewind(&mut file)?;
        let fd = OwnedFd::from(file);
        use rustix::fs::SealFlags;
        rustix::fs::fcntl_add_seals(
            &fd,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
        return Ok(fd);
    }
    Ok(fd)
}

/// Sends a message with descriptors on a packet socket.
pub(super) fn send(socket: &OwnedFd, message: &[u8], fds: &[&OwnedFd]) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let numbers: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[io::IoSlice::new(message)],
        control,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        None,
    )?;
    Ok(())
}
