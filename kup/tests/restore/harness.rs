// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Starts a supervisor and a CRIU, kills the daemon now and then, and looks at what came of it.

use std::fs::{read_to_string, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use kup::foam::restore::Outcome;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::random::Random;
use crate::role::{command, Play, Scenario};

/// Far more than anything takes.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Run {
    pub outcome: Result<Outcome, String>,
    pub apps_ok: bool,
}

/// Starts a supervisor; returns when it listens.
pub fn supervisor(scenario: &Scenario) -> Child {
    let mut child = command("supervisor", scenario).spawn().unwrap();
    let start = Instant::now();
    while !scenario.dir.join("listens").exists() {
        assert!(
            start.elapsed() < LIMIT && child.try_wait().unwrap().is_none(),
            "no socket"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

pub fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Plays a scenario, in which the daemon is killed up to `kills` times.
pub fn run(scenario: &Scenario, kills: u32) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let scenario = &Scenario {
        dir: dir.path().to_owned(),
        ..scenario.clone()
    };
    let mut supervisor = supervisor(scenario);
    let mut criu = command("criu", scenario).spawn().unwrap();

    let mut random = Random(scenario.seed);
    let start = Instant::now();
    let mut left = kills;
    let status = loop {
        if let Some(status) = supervisor.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            let _ = (supervisor.kill(), criu.kill());
            panic!("seed {}: the supervisor hangs", scenario.seed);
        }
        std::thread::sleep(Duration::from_micros(100 + random.below(3000)));
        let pid = supervisor.id();
        let children =
            read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if left > 0 {
            for daemon in children.split_ascii_whitespace() {
                let _ = kill(Pid::from_raw(daemon.parse().unwrap()), Signal::SIGKILL);
                left -= 1;
            }
        }
        // At any moment from the first on in which somebody else has the descriptors, too.
        let has_daemon = !children.trim().is_empty();
        if scenario.play == Play::Orphans && has_daemon && random.below(3) == 0 {
            let _ = supervisor.kill();
        }
    };
    File::create(scenario.dir.join("drained")).unwrap();
    let apps_ok = wait(&mut criu, LIMIT).success();
    let outcome = match read_to_string(scenario.dir.join("outcome")) {
        Ok(text) if status.success() => Ok(serde_json::from_str(&text).unwrap()),
        _ => Err(match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => read_to_string(scenario.dir.join("error")).unwrap_or_default(),
        }),
    };
    Run { outcome, apps_ok }
}
