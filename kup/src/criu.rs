// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU, as it is installed: run, and understood when it fails.

use crate::checkpoint::make;
use crate::guard::Guard;
use crate::images::{magic, pb, Images};
use crate::rpc;
use anyhow::{bail, ensure, Context, Result};
use nix::sys::socket::{
    recv, send, setsockopt, socketpair, sockopt, AddressFamily, MsgFlags, SockFlag, SockType,
};
use prost::Message;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How connections and what else belongs to the machine are treated, in a dump and the restore alike.
pub const ALWAYS: [&str; 5] = [
    "--tcp-established",
    "--network-lock=nftables",
    "--file-locks",
    "--link-remap",
    "--ext-unix-sk",
];

/// One run.
pub struct Criu {
    command: Command,
    program: PathBuf,
    what: &'static str,
    /// As it sees them.
    images: PathBuf,
    log: PathBuf,
    log_level: i32,
}

/// The largest request, in bytes.
const REQUEST: usize = 4 << 20;
/// Of CRIU's log: warnings and errors.
const LOG_LEVEL: i32 = 2;

impl Criu {
    /// A run of `criu WHAT`, its log in `log`. If it is to be in the namespaces of process `within` (mounts, host
    /// name, IPC, network, control groups), it takes them for the system's, otherwise for a part of what it
    /// checkpoints or restores.
    ///
    /// # Errors
    /// There is no place for the log.
    pub fn new(what: &'static str, images: &Path, log: &Path, within: Option<u32>) -> Result<Criu> {
        if let Some(dir) = log.parent() {
            make(dir)?;
        }
        let (mut command, program) = match within {
            None => (Command::new("criu"), find("criu").unwrap_or_default()),
            Some(pid) => inside(pid)?,
        };
        let images = seen(images, within);
        command.arg("--images-dir").arg(&images);
        // What somebody set for other uses of CRIU is not meant for this one.
        command.arg("--no-default-config");
        // Its log is in its work directory unless it has a whole path.
        command.arg("--log-file").arg(seen(log, within));
        command.arg(format!("-v{LOG_LEVEL}"));
        command.stdin(Stdio::null());
        Ok(Criu {
            command,
            program,
            what,
            images,
            log: log.to_owned(),
            log_level: LOG_LEVEL,
        })
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Criu {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Criu {
        self.command.args(args);
        self
    }

    /// Options that a user has chosen.
    #[must_use]
    pub fn chosen(mut self, options: &[String]) -> Criu {
        self.log_level = options
            .iter()
            .fold(self.log_level, |level, option| verbosity(level, option));
        self.args(options)
    }

    /// Gives it a socket to a page server of ours: as its standard input, so that no other program which is
    /// started meanwhile gets it too.
    #[must_use]
    pub fn page_server(mut self, socket: OwnedFd) -> Criu {
        self.command.args(["--page-server", "--ps-socket", "0"]);
        self.command.stdin(Stdio::from(socket));
        self
    }

    /// Starts it, and it begins.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut self) -> Result<Running> {
        self.command.arg(self.what);
        self.spawn()
    }

    /// Starts it, and it waits until it is told to begin: to load it and its libraries takes as long as a restore.
    /// All but that is said by its command line.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn get_ready(mut self) -> Result<Worker> {
        let (socket, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("a pair of sockets")?;
        // A request is one message, and names each socket and file that is left out.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &REQUEST);
        // As its standard output, which it has no other use for: its log is a file.
        self.command.args(["swrk", "1"]).stdout(Stdio::from(theirs));
        let options = rpc::CriuOpts {
            images_dir_fd: -1,
            images_dir: Some(self.images.to_str().context("not UTF-8")?.to_owned()),
            log_level: Some(self.log_level),
            ..rpc::CriuOpts::default()
        };
        Ok(Worker {
            program: self.program.clone(),
            running: self.spawn()?,
            options,
            socket,
        })
    }

    fn spawn(mut self) -> Result<Running> {
        // A Ctrl-C is ours to answer: CRIU in the middle of a process must come to its end.
        self.command.process_group(0);
        let child = self.command.spawn().context(
            "cannot start criu: is it installed? (Debian 13 backports, or criu 4.2 or later from source)",
        )?;
        Ok(Running {
            child,
            what: self.what,
            log: self.log,
            socket: None,
            guard: None,
        })
    }
}

/// What becomes of a level by an option, as CRIU has it (`criu/config.c`).
fn verbosity(level: i32, option: &str) -> i32 {
    let more = match option.strip_prefix("--verbosity") {
        Some(more) => more.strip_prefix('=').unwrap_or(more),
        None => match option.strip_prefix("-v") {
            Some(more) => more,
            None => return level,
        },
    };
    let vs = more.chars().all(|c| c == 'v');
    match more.parse() {
        Ok(set) => set,
        Err(_) if vs => level + 1 + more.len() as i32,
        Err(_) => level,
    }
}

/// A run that is ready to begin. Dropped, it ends.
pub struct Worker {
    program: PathBuf,
    running: Running,
    options: rpc::CriuOpts,
    socket: OwnedFd,
}

impl Worker {
    /// The file that a process runs as long as it is CRIU: itself, or the loader that was told to run it.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.program.clone()
    }

    /// Restores.
    #[must_use]
    pub fn restore(self) -> Running {
        // If it has ended, its status and its log say why.
        let told = self.tell(rpc::CriuReqType::Restore);
        // It says how it ended, and must find somebody to say it to.
        Running {
            socket: told.is_ok().then_some(self.socket),
            ..self.running
        }
    }

    /// Waits until it is loaded, and puts a guard between it and us, which says how the processes of a dump go on.
    ///
    /// # Errors
    /// It has ended, or there can be no guard.
    pub fn guarded(self, checkpoint: &Path) -> Result<Guarded> {
        // Before there is a guard, which would hear the answer.
        if let Err(e) = self.wait() {
            drop(self.socket);
            return Err(with(e, self.running.finish()));
        }
        let (guard, child) = Guard::start(checkpoint, self.socket.try_clone()?)?;
        let running = Running {
            guard: Some(child),
            ..self.running
        };
        Ok(Guarded {
            worker: Worker { running, ..self },
            guard,
        })
    }

    /// Waits until it is loaded.
    fn wait(&self) -> Result<()> {
        self.tell(rpc::CriuReqType::Version)?;
        let said = rpc::receive(&self.socket)?.unwrap_or_default();
        let said = rpc::CriuResp::decode(&said[..]);
        let is_version = said.is_ok_and(|said| said.r#type() == rpc::CriuReqType::Version);
        ensure!(is_version, "CRIU does not say its version");
        Ok(())
    }

    fn tell(&self, what: rpc::CriuReqType) -> Result<()> {
        let mut request = rpc::CriuReq {
            opts: Some(self.options.clone()),
            // Another request follows: it allows that behind some of them.
            keep_open: Some(what == rpc::CriuReqType::Version),
            ..rpc::CriuReq::default()
        };
        request.set_type(what);
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = send(self.socket.as_raw_fd(), &request.encode_to_vec(), flags);
        sent.context("telling CRIU what to do").map(drop)
    }
}

/// A run that is ready to dump, and its guard. Dropped, both end.
pub struct Guarded {
    worker: Worker,
    guard: Guard,
}

impl Guarded {
    /// Ends it. It was asked for nothing.
    pub fn end(mut self) {
        // It would complain of that.
        let _ = self.worker.running.child.kill();
        drop(self.guard);
        drop(self.worker.socket);
        let _ = self.worker.running.finish();
    }

    /// Dumps a process and its children, without what is external (`--external`).
    ///
    /// # Errors
    /// It does not hear of it.
    pub fn dump(mut self, root_pid: u32, external: Vec<String>) -> Result<(Running, Guard)> {
        let options = &mut self.worker.options;
        options.pid = Some(i32::try_from(root_pid)?);
        options.notify_scripts = Some(true);
        options.external = external;
        if let Err(e) = self.worker.tell(rpc::CriuReqType::Dump) {
            return Err(match self.worker.running.is_alive() {
                true => {
                    self.end();
                    e
                }
                false => with(e, self.worker.running.finish()),
            });
        }
        Ok((self.worker.running, self.guard))
    }
}

/// CRIU in the namespaces of another process, but those of users and PIDs. Nothing there has to be executable for it, nor even visible, but /proc:
/// it is run by way of the root directory of init, by the loader that the kernel would have used. Returns what the
/// process runs then, too.
fn inside(pid: u32) -> Result<(Command, PathBuf)> {
    let criu = find("criu")?;
    // As ldd(1) does: the loader says what it would load, and from where.
    let output = Command::new(&criu)
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .output()
        .with_context(|| criu.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &pid.to_string()]);
    nsenter.args(["--mount", "--uts", "--ipc", "--net", "--cgroup", "--"]);
    let Some((loader, libraries)) = loaded(&said) else {
        // It needs none.
        nsenter.arg(outside(&criu)?);
        return Ok((nsenter, criu));
    };
    let mut directories: Vec<String> = Vec::new();
    for library in libraries {
        let library = outside(Path::new(library))?;
        let directory = library.parent().unwrap_or(&library).display().to_string();
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    nsenter.arg(outside(Path::new(loader))?);
    nsenter.args(["--library-path", &directories.join(":")]);
    nsenter.arg(outside(&criu)?);
    Ok((nsenter, PathBuf::from(loader)))
}

/// The loader, and the libraries.
fn loaded(said: &str) -> Option<(&str, Vec<&str>)> {
    let (mut loader, mut libraries) = (None, Vec::new());
    for line in said.lines() {
        let Some(start) = line.find('/') else {
            // The vdso.
            continue;
        };
        let file = line[start..].split(" (").next()?;
        match line.contains(" => ") {
            true => libraries.push(file),
            false => loader = Some(file),
        }
    }
    Some((loader?, libraries))
}

fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(program));
    let found = places.find(|place| place.is_file());
    found.with_context(|| format!("{program} is not installed"))
}

fn outside(path: &Path) -> Result<PathBuf> {
    let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    Ok(seen(&path, Some(1)))
}

/// A path by the name that it has for CRIU: in other namespaces, by way of the root directory of init, which outlives
/// us.
#[must_use]
pub fn seen(path: &Path, within: Option<u32>) -> PathBuf {
    match (within, path.strip_prefix("/")) {
        (Some(_), Ok(rest)) => Path::new("/proc/1/root").join(rest),
        _ => path.to_owned(),
    }
}

/// A run that has begun.
pub struct Running {
    child: Child,
    what: &'static str,
    log: PathBuf,
    socket: Option<OwnedFd>,
    guard: Option<Child>,
}

impl Running {
    /// Has it not ended yet?
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed; what its log says is told.
    pub fn finish(mut self) -> Result<()> {
        let status = self.child.wait().context("waiting for criu")?;
        let socket = self.socket.take();
        if let Some(mut guard) = self.guard.take() {
            // It has nobody to guard any more.
            let _ = guard.wait();
        }
        // It may have been killed when all was done, and said.
        if status.success() || socket.is_some_and(|socket| says_success(&socket)) {
            return Ok(());
        }
        let said = format!("criu {}: {status}\n{}", self.what, complaints(&self.log));
        match status.signal() {
            Some(_) => Err(Killed(said).into()),
            None => bail!(said),
        }
    }
}

/// CRIU was killed, and has cleared nothing away.
#[derive(Debug)]
struct Killed(String);

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Killed {}

/// Is it in an error that a CRIU was killed?
#[must_use]
pub fn was_killed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Killed>().is_some()
}

/// What went wrong here, and with CRIU.
pub(crate) fn with(ours: anyhow::Error, theirs: Result<()>) -> anyhow::Error {
    match theirs {
        Ok(()) => ours,
        Err(theirs) => theirs.context(format!("{ours:#}")),
    }
}

/// What CRIU said in the end.
fn says_success(socket: &OwnedFd) -> bool {
    let mut message = [0; rpc::MESSAGE];
    let got = recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT);
    let said = rpc::CriuResp::decode(&message[..got.unwrap_or(0)]);
    said.is_ok_and(|said| said.r#type() == rpc::CriuReqType::Restore && said.success)
}

/// What the log says of errors, and where all of it is.
fn complaints(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("Error ("))
        .collect();
    if lines.is_empty() {
        lines = text.lines().rev().take(5).collect();
        lines.reverse();
    }
    let mut said: Vec<String> = lines
        .iter()
        .take(8)
        .map(|line| format!("  {line}"))
        .collect();
    said.push(format!("all of its log: {}", log.display()));
    said.join("\n")
}

/// The version of the CRIU that is installed, such as 4.2.
///
/// # Errors
/// None is installed.
pub fn version() -> Result<String> {
    let output = Command::new("criu").arg("--version").output();
    let output = output.context("cannot run criu: is it installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(line
        .context("criu --version says nothing")?
        .trim()
        .to_owned())
}

/// Can the kernel tell which pages a process wrote since the last round?
#[must_use]
pub fn tracks_memory() -> bool {
    has_feature("mem_dirty_track")
}

/// # Errors
/// CRIU cannot be run.
pub fn require_feature(feature: &str) -> Result<()> {
    ensure!(has_feature(feature), "criu check --feature {feature} fails");
    Ok(())
}

fn has_feature(feature: &str) -> bool {
    let mut check = Command::new("criu");
    check.args(["check", "--feature", feature]);
    check.stdout(Stdio::null()).stderr(Stdio::null());
    check.status().is_ok_and(|status| status.success())
}

/// What a dump says of itself.
///
/// # Errors
/// It left no such image.
pub fn dump_stats(dir: &Path) -> Result<pb::DumpStatsEntry> {
    let stats: pb::StatsEntry = Images::new(dir).read_one("stats-dump", magic::STATS)?;
    stats.dump.context("stats-dump: not of a dump")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_log() {
        for (option, level) in [
            ("-v", 3),
            ("-vv", 4),
            ("-v4", 4),
            ("--verbosity", 3),
            ("--verbosity=1", 1),
            ("--version", 2),
        ] {
            assert_eq!(verbosity(2, option), level, "{option}");
        }
    }

    #[test]
    fn what_the_loader_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd2a5f2000)\n\
                    \tlibnet.so.9 => /lib/x86_64-linux-gnu/libnet.so.9 (0x00007f4f0b400000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f4f0b6cd000)\n";
        let expected = (
            "/lib64/ld-linux-x86-64.so.2",
            vec!["/lib/x86_64-linux-gnu/libnet.so.9"],
        );
        assert_eq!(loaded(said), Some(expected));
        assert_eq!(loaded("\tstatically linked\n"), None);
    }
}
