// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! fio as a judge: it tells what was acknowledged, the daemon is killed, and fio compares.

use crate::fixture::Mount;
use crate::{clean, seed};
use rpramfs_load::Rng;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One request at a time: of several, the state that fio saves takes some for done that were under way; its
/// own log of completions (`--write_lat_log`) does not have them.
const ENGINES: &[(&str, &str)] = &[("psync", "0"), ("psync", "1"), ("pvsync2", "1")];

pub fn run(kills: u64) {
    if Command::new("fio").arg("--version").output().is_err() {
        println!("SKIPPED: no fio");
        return;
    }
    let seed = seed();
    let mut random = Rng(seed);
    println!("kill: fio: seed {seed}, {kills} kills");
    let mut blocks = 0;
    for round in 0..kills {
        let mut mount = Mount::new(512 << 20);
        // fio keeps what it knows where it runs.
        let place = tempfile::tempdir().expect("a directory");
        let (engine, direct) = *random.pick(ENGINES);
        let pattern = *random.pick(&["randwrite", "write"]);
        let trigger = place.path().join("trigger");
        // Each block once: what is under way at the kill is no block that was acknowledged before.
        let fio = |directory: &std::path::Path| {
            let mut fio = Command::new("fio");
            fio.current_dir(place.path())
                .args([
                    "--name=kill",
                    "--size=256M",
                    "--bs=4k",
                    "--numjobs=2",
                    "--thread",
                ])
                .args(["--verify=crc32c", "--verify_fatal=1"])
                .arg(format!("--randseed={}", seed * 1000 + round))
                .arg(format!("--rw={pattern}"))
                .arg(format!("--ioengine={engine}"))
                .arg(format!("--direct={direct}"))
                .arg(format!("--directory={}", directory.display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            fio
        };
        // Files of their size: none of them is laid out first.
        let files = ["kill.0.0", "kill.1.0"].map(|name| mount.path(name));
        for file in &files {
            let made = fs::File::create(file).and_then(|f| f.set_len(256 << 20));
            made.expect("a sparse file");
        }
        let child = fio(&mount.path(""))
            .args(["--do_verify=0", "--verify_state_save=1"])
            .arg(format!("--trigger-file={}", trigger.display()))
            .arg(format!("--trigger=kill -KILL {}", mount.daemon()))
            .spawn()
            .expect("fio runs");
        let limit = Instant::now() + Duration::from_secs(30);
        for file in &files {
            while fs::metadata(file).expect("stat").blocks() < 64 {
                assert!(Instant::now() < limit, "fio does not begin");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(400)));
        fs::write(&trigger, "").expect("pull it");
        // It fails: its files are gone. What it knows it has written before.
        let written = child.wait_with_output().expect("wait");
        mount.wait_for_end();
        mount.detach();
        let failed = |what: &str, detail: String| -> ! {
            panic!(
                "fio: seed {seed}, round {round}, {engine}, direct {direct}, {pattern}: {what}: \
                 {detail}; writing: {}",
                String::from_utf8_lossy(&written.stdout)
            )
        };
        clean(&mount).unwrap_or_else(|e| failed("after the kill", e));
        mount.mount("");
        let output = fio(&mount.path(""))
            .args(["--verify_only=1", "--verify_state_load=1"])
            .args(["--output-format=terse", "--terse-version=3"])
            .output()
            .expect("fio runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            failed("verify", text + &String::from_utf8_lossy(&output.stderr));
        }
        // Field 6 of a terse line: KiB that were read.
        let read: u64 = text
            .lines()
            .filter_map(|line| line.split(';').nth(5)?.parse::<u64>().ok())
            .sum();
        if read == 0 {
            failed("verify", format!("nothing was compared: {text}"));
        }
        blocks += read / 4;
        mount.unmount();
        clean(&mount).unwrap_or_else(|e| failed("in the end", e));
    }
    println!("kill: fio: {kills} kills, {blocks} acknowledged blocks compared");
}
