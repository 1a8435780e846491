//! `executor doctor`: what keeps `serve` from working, and what would be better.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::DoctorArgs;
use super::local::{self, Scratch};
use super::{CliError, exit, out, runtime};
use crate::config::{Loaded, Settings};
use crate::control::{Reply, Request};
use crate::ledger::Reader;
use crate::link;
use crate::log::OutputSink;
use crate::serve::options_in;
use crate::slots::Slots;

/// How long a health check may take.
const HEALTH: Duration = Duration::from_secs(3);
/// Fewer open files than this are few.
const FEW_FILES: u64 = 1024;

/// One line of the examination.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    detail: String,
    advice: Option<String>,
}

impl Check {
    fn fine(check: &'static str, detail: String) -> Self {
        Self { check, ok: true, detail, advice: None }
    }

    fn advised(check: &'static str, detail: String, advice: &str) -> Self {
        Self { check, ok: true, detail, advice: Some(advice.to_owned()) }
    }

    fn bad(check: &'static str, detail: String, advice: &str) -> Self {
        Self { check, ok: false, detail, advice: Some(advice.to_owned()) }
    }
}

pub(super) fn doctor(args: &DoctorArgs, loaded: &Loaded) -> Result<u8, CliError> {
    if args.settings {
        return show_settings(loaded);
    }
    if args.health {
        return Ok(health(&loaded.settings));
    }
    let settings = &loaded.settings;
    let mut checks = runtime()?.block_on(async {
        let mut checks = python(settings).await;
        checks.push(redis(settings).await);
        checks
    });
    checks.insert(1, ledger(settings));
    checks.push(directory("tasks", &settings.python.tasks_path, "TASKS_PATH"));
    checks.push(directory("tools", &settings.python.tools_path, "TOOLS_PATH"));
    checks.push(open_files());
    if args.json {
        out::json(&serde_json::to_value(&checks).unwrap_or_default());
    } else {
        for check in &checks {
            let mark = if check.ok { "ok" } else { "!!" };
            let advice =
                check.advice.as_ref().map_or_else(String::new, |advice| format!(" — {advice}"));
            out::line(&format!("{mark}  {:10} {}{advice}", check.check, check.detail));
        }
    }
    Ok(if checks.iter().all(|check| check.ok) { exit::OK } else { exit::FAILED })
}

fn show_settings(loaded: &Loaded) -> Result<u8, CliError> {
    let running = match local::client(&loaded.settings) {
        Some(client) => match client.ask(&Request::Settings)? {
            Reply::Settings(lines) => Some(lines),
            _ => None,
        },
        None => None,
    };
    let lines = running.as_ref().unwrap_or(&loaded.report);
    out::json(&serde_json::to_value(lines).unwrap_or_default());
    Ok(exit::OK)
}

/// Starts a slot as `serve` does, which tells all about python and isolation.
async fn python(settings: &Settings) -> Vec<Check> {
    let begun = Instant::now();
    let started = async {
        let scratch = Scratch::new()?;
        let launcher = std::env::current_exe().map_err(|source| CliError::System {
            what: "our own program cannot be found",
            source,
        })?;
        let mut options = options_in(settings, launcher, scratch.path().to_owned());
        options.slots = 1;
        let (sink, _lines) = OutputSink::channel(64);
        let slots = Slots::start(options, sink).await?;
        let (python, tier) = (slots.interpreter().clone(), slots.tier().clone());
        slots.close().await;
        Ok::<_, CliError>((python, tier))
    };
    match started.await {
        Ok((python, tier)) => {
            let took = begun.elapsed().as_millis();
            let detail = format!(
                "{} at {}, a slot is ready in {took} ms ({})",
                python.version,
                python.executable.display(),
                settings.python.start_method
            );
            let isolation = format!("tier {}", tier.name);
            vec![
                Check::fine("python", detail),
                match tier.advice {
                    None => Check::fine("isolation", isolation),
                    Some(advice) => Check::advised("isolation", isolation, &advice),
                },
            ]
        }
        Err(error) => {
            let detail = crate::flow::chain(&error);
            vec![Check::bad("python", detail, "PYTHON names the interpreter: 3.11 or newer")]
        }
    }
}

fn ledger(settings: &Settings) -> Check {
    let path = &settings.ledger_path;
    let shown = path.display();
    if path.exists() {
        let counted = Reader::open(path).and_then(|reader| {
            reader.whole()?;
            reader.counts()
        });
        return match counted {
            Ok(counts) => {
                let jobs: u64 = counts.values().sum();
                let served = if local::client(settings).is_some() {
                    ", served by a running executor"
                } else {
                    ""
                };
                Check::fine("ledger", format!("{shown}, {jobs} jobs{served}"))
            }
            Err(error) => Check::bad(
                "ledger",
                format!("{shown}: {}", crate::flow::chain(&error)),
                "DB_URL names another",
            ),
        };
    }
    let dir = path.ancestors().skip(1).find(|dir| dir.exists());
    let writable =
        dir.is_some_and(|dir| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok());
    if writable {
        Check::fine("ledger", format!("{shown} will be made by serve"))
    } else {
        Check::bad(
            "ledger",
            format!("{shown} cannot be made: its directory is not writable"),
            "DB_URL names another place",
        )
    }
}

async fn redis(settings: &Settings) -> Check {
    let Some(url) = &settings.redis else {
        return Check::fine("redis", "none is configured".to_owned());
    };
    match link::examine(url).await {
        Err(error) => Check::advised(
            "redis",
            format!("does not answer: {}", crate::flow::chain(&error)),
            "serve starts without it and takes jobs once it answers; REDIS_URL names another, none works without",
        ),
        Ok(found) => {
            let mut advice = Vec::new();
            if !found.append_only && !found.snapshots {
                advice.push("it keeps nothing over a restart: jobs that wait in it would be lost; set appendonly yes");
            } else if !found.append_only {
                advice.push("only snapshots: a crash loses the last minutes; set appendonly yes");
            }
            if !["", "noeviction"].contains(&found.eviction.as_str()) {
                advice.push(
                    "it may evict keys when memory is short; set maxmemory-policy noeviction",
                );
            }
            let detail = format!("version {}", found.version);
            match advice.is_empty() {
                true => Check::fine("redis", detail),
                false => Check::advised("redis", detail, &advice.join("; ")),
            }
        }
    }
}

fn directory(check: &'static str, path: &std::path::Path, variable: &str) -> Check {
    if path.is_dir() {
        return Check::fine(check, path.display().to_string());
    }
    let advice = format!("make it, or set {variable}; until then nothing in it is found");
    Check::advised(check, format!("{} is no directory", path.display()), &advice)
}

fn open_files() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.maximum {
        Some(most) if most < FEW_FILES => Check::advised(
            "limits",
            format!("{most} open files at most"),
            "raise the hard limit (LimitNOFILE, ulimit -Hn)",
        ),
        most => {
            let most = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
            Check::fine("limits", format!("{most} open files at most"))
        }
    }
}

/// Asks `/healthz` of the configured address.
fn health(settings: &Settings) -> u8 {
    let Some(addr) = settings.http_addr else {
        out::note("HTTP_ADDR is none: there is no health to ask for");
        return exit::FAILED;
    };
    let host =
        if addr.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { addr.ip() };
    match get(SocketAddr::new(host, addr.port())) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => exit::OK,
        Ok(answer) => {
            out::note(answer.lines().last().unwrap_or("no answer"));
            exit::FAILED
        }
        Err(error) => {
            out::note(&format!("{addr} does not answer: {error}"));
            exit::FAILED
        }
    }
}

fn get(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, HEALTH)?;
    stream.set_read_timeout(Some(HEALTH))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
