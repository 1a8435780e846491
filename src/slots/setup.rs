//! What every slot and every run of this executor is made with; prepared once, before the first slot.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::preload::Preload;
use super::tmpdir::TmpDirs;
use super::{Interpreter, Options, SlotsError, guard, interpreter, past, shim, spawn, system};

/// What every birth needs.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) options: Options,
    pub(super) executable: PathBuf,
    /// Of a slot, but for what it loads ahead.
    pub(super) config: serde_json::Value,
    pub(super) preload: Preload,
    pub(super) shim: PathBuf,
    pub(super) tmpdirs: TmpDirs,
    pub(super) constant: spawn::Constant,
    pub(super) guard: guard::Guard,
    /// No slot is wanted any more.
    pub(super) closing: AtomicBool,
    /// One clock tick of `/proc`.
    pub(super) tick: Duration,
}

impl Setup {
    pub(super) fn make(options: Options) -> Result<(Self, Interpreter), SlotsError> {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|error| system("become a sub-reaper")(error.into()))?;
        let dir = &options.runtime_dir;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| past::wait(dir))
            .map_err(system("prepare the runtime directory"))?;
        let tmpdirs = TmpDirs::reset(dir).map_err(system("prepare the runtime directory"))?;
        let shim = shim::write(dir).map_err(system("write the shim"))?;
        let probe = interpreter::Probe::ask(&options, &shim)?;
        probe.compile(&options, &shim);
        let ticks =
            nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let learned = dir.join("learned-modules");
        let guard = guard::Guard::start(&options.launcher).map_err(system("start the guard"))?;
        let setup = Self {
            guard,
            closing: AtomicBool::new(false),
            executable: probe.executable.clone(),
            config: probe.config(&options, &shim),
            preload: Preload::new(&options.preload, options.start_method, learned),
            constant: spawn::Constant {
                open_files: options.limits.open_files,
                file_size: options.limits.file_size_bytes,
            },
            tick: Duration::from_secs(1) / u32::try_from(ticks.max(1)).unwrap_or(100),
            shim,
            tmpdirs,
            options,
        };
        setup.preload.begin(&setup);
        Ok((setup, probe.describe()))
    }

    /// The configuration of a slot that loads these modules ahead (frames.md section 1).
    pub(super) fn config(&self, names: &[String]) -> String {
        let mut config = self.config.clone();
        config["preload"] = self.preload.config(names);
        config.to_string()
    }
}
