// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Units of systemd. A service that is carried along comes back *as* that service: systemd starts the unit, makes
//! its control group, its mounts and directories as ever, and for the time of the restore (a drop-in in /run says
//! so) the program that it starts there is a placeholder. The processes are restored beside that, in its control
//! group and its mount namespace; systemd is told which of them is the main process, and the placeholder goes.

use crate::processes;
use anyhow::{bail, ensure, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const RUNTIME: &str = "/run/systemd/system";
/// The last by its name, so that nothing else has the last word: not the override.conf of `systemctl edit` either.
const DROP_IN: &str = "zz-kup.conf";

/// A service that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its full name, such as redis-server.service.
    pub id: String,
    pub main_pid: u32,
    /// Where it says so itself, and others look for it.
    pub pid_file: Option<PathBuf>,
}

/// # Errors
/// There is none of this name, it does not run, or its processes are not one tree.
pub fn find(name: &str) -> Result<Unit> {
    let shown = show(
        name,
        &[
            "Id",
            "LoadState",
            "ActiveState",
            "MainPID",
            "ControlGroup",
            "PIDFile",
            "RootDirectory",
            "RootImage",
            "Delegate",
            "TriggeredBy",
        ],
    )?;
    let get = |key: &str| shown.get(key).map_or("", String::as_str);
    ensure!(get("LoadState") == "loaded", "there is no unit {name}");
    let id = get("Id").to_owned();
    ensure!(
        get("ActiveState") == "active",
        "{id} does not run: it is {}",
        get("ActiveState")
    );
    can_be_restored(&id, &shown, &is_active)?;
    let main_pid: u32 = get("MainPID").parse().unwrap_or(0);
    ensure!(
        main_pid != 0,
        "systemd knows no main process of {id}: it cannot be restored as this service"
    );
    let root = processes::root_of_cgroup(get("ControlGroup"))?;
    ensure!(
        root == main_pid,
        "process {root} of {id} is not one of its main process {main_pid}: CRIU takes one tree of processes"
    );
    let pid_file = Some(get("PIDFile")).filter(|path| !path.is_empty());
    let pid_file = pid_file.map(PathBuf::from);
    Ok(Unit {
        id,
        main_pid,
        pid_file,
    })
}

/// Could systemd have it restored, with these properties?
fn can_be_restored(
    id: &str,
    properties: &BTreeMap<String, String>,
    listens: &dyn Fn(&str) -> bool,
) -> Result<()> {
    // An answer that was not asked for must not pass for a no.
    let get = |key: &str| -> Result<&str> {
        let value = properties.get(key);
        Ok(value.with_context(|| format!("systemd does not say {key}= of {id}"))?)
    };
    for property in ["RootDirectory", "RootImage"] {
        ensure!(
            get(property)?.is_empty(),
            "{id} has {property}=, in which kup is not found"
        );
    }
    ensure!(
        get("Delegate")? != "yes",
        "{id} has Delegate=yes: its own control groups would not come back"
    );
    let sockets = get("TriggeredBy")?.split(' ');
    for socket in sockets.filter(|unit| unit.ends_with(".socket")) {
        ensure!(
            !listens(socket),
            "{id} is started by {socket}, which would have its port in the next kernel before it is back: \
             `systemctl disable --now {socket}` and restart {id} before the first update"
        );
    }
    Ok(())
}

fn show(name: &str, properties: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut command = Command::new("systemctl");
    command
        .arg("show")
        .arg(format!("--property={}", properties.join(",")));
    let output = command.arg("--").arg(name).output();
    let output = output.context("cannot run systemctl: --unit needs systemd")?;
    ensure!(
        output.status.success(),
        "systemctl show {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// Is systemd in charge here? (`sd_booted(3)`)
#[must_use]
pub fn is_systemd() -> bool {
    sd_notify::booted().unwrap_or(false)
}

fn drop_in(id: &str) -> Result<PathBuf> {
    // It may come from a manifest.
    ensure!(
        id.ends_with(".service") && !id.contains('/'),
        "{id:?} is no name of a service"
    );
    Ok(Path::new(RUNTIME).join(format!("{id}.d")).join(DROP_IN))
}

/// From now on, whoever starts these units gets their checkpoints restored. Without systemd, as in an initramfs that
/// has none, nobody does; and its directory is not made, by which programs tell whether it runs.
///
/// # Errors
/// It could not be written, or systemd did not take it.
pub fn divert(units: &[(String, String)], dir: Option<&Path>) -> Result<()> {
    if !is_systemd() {
        return Ok(());
    }
    let mut changed = false;
    for (id, checkpoint) in units {
        let (path, text) = (drop_in(id)?, text(checkpoint, dir)?);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        let write = || -> Result<()> {
            fs::create_dir_all(path.parent().context("a directory")?)?;
            Ok(fs::write(&path, text)?)
        };
        write().with_context(|| path.display().to_string())?;
        changed = true;
    }
    reload(changed)
}

fn text(checkpoint: &str, dir: Option<&Path>) -> Result<String> {
    let kup = std::env::current_exe().context("the path of this program")?;
    let kup = kup.display();
    let dir = match dir {
        None => String::new(),
        Some(dir) => {
            let path = dir.to_str().context("--dir is not UTF-8")?;
            ensure!(
                !path.contains(['"', '\\', '\n']),
                "--dir {path}: quotes and backslashes have no place in a unit"
            );
            // systemd's own signs in a command line.
            format!("--dir \"{}\" ", path.replace('%', "%%").replace('$', "$$"))
        }
    };
    // Type=exec: CRIU joins the namespaces of the placeholder, and they are complete when that is executed, not
    // when it is forked.
    Ok(format!(
        "# Written by kup: this service is restored from a checkpoint instead of started anew.\n\
         [Unit]\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         [Service]\n\
         Type=exec\n\
         PIDFile=\n\
         Restart=no\n\
         NotifyAccess=all\n\
         WatchdogSec=0\n\
         TimeoutStartSec=infinity\n\
         ExecPaths={kup}\n\
         ExecCondition=\n\
         ExecStartPre=\n\
         ExecStart=\n\
         ExecStart={kup} placeholder\n\
         ExecStartPost=\n\
         ExecStartPost=+{kup} {dir}{}",
        last_line(checkpoint)
    ))
}

/// From now on these units are started as they always were, if it was for these checkpoints that they were not. What
/// runs of them runs on.
///
/// # Errors
/// The drop-in could not be removed, or systemd does not notice.
pub fn give_back(units: &[(String, String)]) -> Result<()> {
    let mut some = false;
    for (id, checkpoint) in units {
        let path = drop_in(id)?;
        let text = fs::read_to_string(&path).unwrap_or_default();
        if !text.ends_with(&last_line(checkpoint)) {
            continue;
        }
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        some = true;
        if let Some(dir) = path.parent() {
            // Others may have something there.
            let _ = fs::remove_dir(dir);
        }
    }
    reload(some)
}

fn last_line(checkpoint: &str) -> String {
    format!("restore --in-unit {checkpoint}\n")
}

/// Does it run, as far as systemd knows?
#[must_use]
pub fn is_active(id: &str) -> bool {
    is_systemd() && active_state(id).as_deref() == Some("active")
}

fn active_state(id: &str) -> Option<String> {
    show(id, &["ActiveState"]).ok()?.remove("ActiveState")
}

/// Waits for the end of a start that is under way.
///
/// # Errors
/// It came to nothing.
pub fn wait_for(id: &str) -> Result<()> {
    match is_systemd() && active_state(id).as_deref() == Some("activating") {
        true => start(id),
        false => Ok(()),
    }
}

/// In the midst of a start: have it started once more, by its own commands.
///
/// # Errors
/// Systemd does not take it.
pub fn start_anew(id: &str) -> Result<()> {
    systemctl(&["restart", "--no-block", id])
}

fn reload(needed: bool) -> Result<()> {
    match needed && is_systemd() {
        true => systemctl(&["daemon-reload"]),
        false => Ok(()),
    }
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.context("cannot run systemctl")?;
    ensure!(
        output.status.success(),
        "systemctl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Has systemd start a unit that is diverted, and waits for it.
///
/// # Errors
/// It failed; its journal says why.
pub fn start(id: &str) -> Result<()> {
    // It may have tried and failed before.
    let _ = systemctl(&["reset-failed", id]);
    systemctl(&["start", id]).with_context(|| format!("`journalctl -b -u {id}` says why"))
}

/// The process that systemd has started in the place of a service: the environment of ExecStartPost= says so.
///
/// # Errors
/// Systemd has not started us for this.
pub fn placeholder() -> Result<u32> {
    let pid = std::env::var("MAINPID")
        .ok()
        .and_then(|text| text.parse().ok());
    pid.context("--in-unit is for systemd, in the place of a unit's own commands")
}

/// Tells systemd which process is the main one now, and ends the placeholder when it knows.
///
/// # Errors
/// It does not take it.
pub fn hand_over(id: &str, main_pid: u32, placeholder: u32) -> Result<()> {
    sd_notify::notify(&[NotifyState::MainPid(main_pid)]).context("telling systemd")?;
    // It asks who told it, so that we must be there until it has heard, as busy as it may be at boot.
    for _ in 0..2400 {
        let shown = show(id, &["MainPID"]).unwrap_or_default();
        if shown.get("MainPID").map(String::as_str) == Some(&main_pid.to_string()) {
            let placeholder = i32::try_from(placeholder).context("no PID")?;
            return kill(Pid::from_raw(placeholder), Signal::SIGKILL)
                .context("ending the placeholder");
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    bail!("systemd does not take {main_pid} for the main process")
}

/// Writes a service's PID file, which was in /run and so is gone, unless somebody has.
///
/// # Errors
/// It cannot be written.
pub fn write_pid_file(path: &Path, main_pid: u32) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let mut options = fs::File::options();
    match options.write(true).create_new(true).open(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.and_then(|mut file| writeln!(file, "{main_pid}")),
    }
    .with_context(|| path.display().to_string())
}

/// Waits to be ended.
pub fn wait_for_the_end() -> ! {
    loop {
        nix::unistd::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused() {
        let good = [
            ("RootDirectory", ""),
            ("RootImage", ""),
            ("Delegate", "no"),
            ("TriggeredBy", "other.path quiet.socket"),
        ];
        let listens = |socket: &str| socket == "loud.socket";
        let refused = |change: (&str, &str)| {
            let mut properties = BTreeMap::new();
            for (key, value) in good.into_iter().chain([change]) {
                properties.insert(key.to_owned(), value.to_owned());
            }
            can_be_restored("a.service", &properties, &listens).is_err()
        };
        assert!(!refused(good[0]));
        assert!(refused(("RootDirectory", "/srv")));
        assert!(refused(("RootImage", "/a.raw")));
        assert!(refused(("Delegate", "yes")));
        assert!(refused(("TriggeredBy", "loud.socket")));
        assert!(can_be_restored("a.service", &BTreeMap::new(), &listens).is_err());
    }

    #[test]
    fn a_drop_in_stays_in_its_place() {
        assert!(drop_in("../../../etc/passwd.service").is_err());
        assert!(drop_in("redis.socket").is_err());
        let path = drop_in("redis@1.service").unwrap();
        assert_eq!(
            path,
            Path::new("/run/systemd/system/redis@1.service.d/zz-kup.conf")
        );
    }

    #[test]
    fn nothing_of_the_unit_itself_is_started() {
        let text = text("redis", Some(Path::new("/srv/a b"))).unwrap();
        for command in [
            "ExecCondition",
            "ExecStartPre",
            "ExecStart",
            "ExecStartPost",
        ] {
            assert!(text.contains(&format!("\n{command}=\n")), "{command}");
        }
        assert!(
            text.contains(" --dir \"/srv/a b\" restore --in-unit redis\n"),
            "{text}"
        );
    }
}
