// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `cargo xtask test`: everything that has to hold, as a table of named steps.
//!
//! A new suite is a function here and a line in [`STEPS`].

use crate::host::{self, cargo, show};
use crate::{figures, msrv, panics, setup, vm};
use anyhow::{bail, Result};
use clap::Args;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Instant;

/// Was `--full` asked for?
static ALL_OF_IT: AtomicBool = AtomicBool::new(false);

/// How many kernels panic, and what each of them does when, where it was said.
static PANICS: OnceLock<u64> = OnceLock::new();
static SEED: AtomicU64 = AtomicU64::new(1);

/// What runs, in this order: all but the `Full` ones, with `--quick` only the `Quick` ones, with
/// `--full` all. With names on the command line those steps run whose name or group (what stands before
/// the colon) is given.
const STEPS: &[Step] = &[
    step("style:format", Quick, format),
    step("style:clippy", Quick, clippy),
    step("unit:quick", Quick, unit_quick),
    step("core:no_std", Quick, no_std),
    step("core:msrv", Daily, core_msrv),
    step("unit:all", Daily, unit),
    step("unit:full", Full, unit_full),
    step("crash", Full, crash),
    step("corruption", Full, corruption),
    step("posix:quick", Daily, || posix("quick")),
    step("posix:all", Full, || posix("all")),
    step("tools:static", Daily, static_tools),
    step("vm:boot", Daily, || vm::scenario("boot")),
    step("vm:kexec", Daily, || vm::scenario("kexec_keeps_region")),
    step("vm:notices", Daily, || vm::scenario("lab_notices")),
    step("vm:crash", Daily, || vm::scenario("crash_keeps_region")),
    step("vm:misuse", Daily, || vm::scenario("misuse")),
    step("vm:mounts", Daily, || vm::scenario("fstab_and_switch_root")),
    step("vm:sparse", Daily, || vm::scenario("sparse")),
    step("vm:from_6_1", Daily, || vm::scenario("from_6_1")),
    step("vm:module", Daily, || vm::scenario("module")),
    step("vm:module_files", Daily, || vm::scenario("module_files")),
    step("vm:module_kexec", Daily, || vm::scenario("module_kexec")),
    step("vm:module_reset", Daily, || vm::scenario("module_reset")),
    step("panic", Daily, panic),
    step("vm:module_mount", Daily, || vm::scenario("module_mount")),
    step("vm:devdax", Daily, || vm::scenario("devdax")),
    step("vm:module_failure", Daily, || {
        vm::scenario("module_failure")
    }),
    step("vm:module_hostile", Daily, || {
        vm::scenario("module_hostile")
    }),
    step("vm:module_posix", Full, || vm::scenario("module_posix")),
    step("vm:module_posix_older", Full, || {
        vm::scenario("module_posix_older")
    }),
    step("vm:demo", Daily, vm_demo),
    step("vm:demo_by_hand", Full, || vm::scenario("demo_by_hand")),
    step("vm:kup_restore", Daily, || vm::scenario("kup_restore")),
    step("vm:kup_units", Daily, || vm::scenario("kup_units")),
    step("vm:kup_faults", Daily, || vm::scenario("kup_faults")),
    step("vm:update_7_2_to_7_3", Full, || {
        vm::scenario("update_7_2_to_7_3")
    }),
    step("vm:kup_memory", Full, || vm::scenario("kup_memory")),
    step("vm:kup_memory_native", Full, || {
        vm::scenario("kup_memory_native")
    }),
    step("vm:kup_panic", Full, || vm::scenario("kup_panic")),
    step("vm:kup_initramfs", Full, || vm::scenario("kup_initramfs")),
    step("vm:kup_workloads", Full, || vm::scenario("kup_workloads")),
    step("vm:systemd", Full, || vm::scenario("systemd_and_root_disk")),
    step("vm:module_debug", Full, || vm::scenario("module_debug")),
];

/// When a step is run without being named.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum When {
    Quick,
    Daily,
    Full,
}
use When::{Daily, Full, Quick};

struct Step {
    name: &'static str,
    when: When,
    run: fn() -> Result<()>,
}

const fn step(name: &'static str, when: When, run: fn() -> Result<()>) -> Step {
    Step { name, when, run }
}

#[derive(Args)]
pub struct Test {
    /// Only what takes seconds: for daily work
    #[arg(long)]
    quick: bool,
    /// Everything, the searches that take hours too
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// How many kernels the step `panic` lets panic (a dozen; with --full a hundred)
    #[arg(long)]
    count: Option<u64>,
    /// What the kernels of the step `panic` do, and when they panic
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these steps or groups of steps, such as `unit`, `style`, `vm`, `vm:demo`
    names: Vec<String>,
    /// List the steps and do nothing
    #[arg(long)]
    list: bool,
}

impl Test {
    pub fn run(&self) -> Result<()> {
        for name in &self.names {
            if !STEPS.iter().any(|step| step.is(name)) {
                bail!("no step {name}; see `cargo xtask test --list`");
            }
        }
        let most = match (self.quick, self.full) {
            (true, _) => Quick,
            (_, true) => Full,
            _ => Daily,
        };
        let chosen = |step: &&Step| match &self.names[..] {
            [] => step.when <= most,
            names => names
                .iter()
                .any(|name| step.name == name || (step.is(name) && step.when <= most)),
        };
        let steps: Vec<&Step> = STEPS.iter().filter(chosen).collect();
        if self.list {
            for step in steps {
                let note = match step.when {
                    Quick => " (quick)",
                    Daily => "",
                    Full => " (full)",
                };
                println!("{}{note}", step.name);
            }
            return Ok(());
        }
        if let Some(count) = self.count {
            let _ = PANICS.set(count);
        }
        SEED.store(self.seed, Ordering::Relaxed);
        ALL_OF_IT.store(self.full, Ordering::Relaxed);
        setup::build()?;
        let mut results = Vec::new();
        for step in steps {
            println!("\n━━ {}", step.name);
            let start = Instant::now();
            let result = (step.run)();
            let seconds = start.elapsed().as_secs_f64();
            if let Err(error) = &result {
                println!("━━ {} FAILED: {error:#}", step.name);
            }
            results.push((step.name, result.is_ok(), seconds));
        }
        println!();
        for (name, passed, seconds) in &results {
            println!(
                "{:6} {name:26} {seconds:7.1} s",
                if *passed { "ok" } else { "FAILED" }
            );
        }
        let failed = results.iter().filter(|(_, passed, _)| !passed).count();
        println!("\n{} passed, {failed} failed", results.len() - failed);
        if failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

impl Step {
    fn is(&self, name: &str) -> bool {
        self.name == name
            || self
                .name
                .split_once(':')
                .is_some_and(|(group, _)| group == name)
    }
}

fn format() -> Result<()> {
    show(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    show(cargo().args([
        "clippy",
        "-q",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

/// What answers within seconds: the tests inside the crates, the core's and the model's.
fn unit_quick() -> Result<()> {
    show(cargo().args(["test", "-q", "--workspace", "--lib", "--bins"]))?;
    show(cargo().args(["test", "-q", "-p", "fs-core", "--test", "*"]))?;
    show(cargo().args(["test", "-q", "-p", "rpramfs-tests", "--test", "model"]))
}

/// The tests of every crate: optimised, with overflow checks.
fn unit() -> Result<()> {
    show(cargo().args(["test", "-q", "--workspace", "--no-fail-fast"]))
}

/// The core as the kernel module takes it: without std and without alloc.
fn no_std() -> Result<()> {
    show(cargo().args(["check", "-q", "-p", "fs-core", "--no-default-features"]))
}

fn core_msrv() -> Result<()> {
    msrv::check_core()
}

/// The same, at full length; crash and corruption are steps of their own.
fn unit_full() -> Result<()> {
    let mut test = cargo();
    test.args(["test", "-q", "--workspace", "--exclude", "rpramfs-tests"]);
    show(test.arg("--no-fail-fast").env("RPRAMFS_FULL", "1"))?;
    for suite in ["model", "concurrency"] {
        let mut test = cargo();
        test.args(["test", "-q", "-p", "rpramfs-tests", "--test", suite]);
        show(test.env("RPRAMFS_FULL", "1"))?;
    }
    Ok(())
}

/// Crash replay, at full length with `--full`; figures in `target/test/crash.json`.
fn crash() -> Result<()> {
    figures::collect("crash", ALL_OF_IT.load(Ordering::Relaxed))
}

/// Damaged regions, likewise; figures in `target/test/corruption.json`.
fn corruption() -> Result<()> {
    figures::collect("corruption", ALL_OF_IT.load(Ordering::Relaxed))
}

/// Kernels that panic with a region mounted; figures in `target/test/panic.json`.
fn panic() -> Result<()> {
    let usual = if ALL_OF_IT.load(Ordering::Relaxed) {
        100
    } else {
        8
    };
    let count = *PANICS.get_or_init(|| usual);
    panics::run(count, SEED.load(Ordering::Relaxed))
}

/// Judges nobody here wrote, on FUSE mounts of this machine.
fn posix(suites: &str) -> Result<()> {
    let script = host::root().join("tests/posix/run.sh");
    show(
        std::process::Command::new(script)
            .arg(suites)
            .current_dir(host::root()),
    )
}

fn static_tools() -> Result<()> {
    crate::lab::check_static()
}

/// The demo is a scenario, run as a person would run it.
fn vm_demo() -> Result<()> {
    crate::demo::as_by_default()
}
