// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel ends under load with the region mounted by the kernel module: it panics, another one takes
//! over, the machine is reset. The next kernel finds the region clean and all that was acknowledged in it.
//!
//! The load is `tests/load`: what each thread does follows from a seed, and the number of operations that
//! have returned to it lies in memory of the host's, where it is counted with one store.

use crate::fio;
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SIZE: Size = Size::mib(512);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `echo c > /proc/sysrq-trigger`, with a crash kernel.
    Panic,
    /// `kexec -e`, with the region mounted.
    Kexec,
    /// `reboot -f`, on a machine that keeps its memory.
    Reset,
}

/// One end of a kernel.
#[derive(Clone, Debug)]
pub struct Course {
    pub seed: u64,
    /// The kernel that ends, and the one behind it.
    pub old: String,
    pub new: String,
    pub end: End,
    /// From the beginning of the work on.
    pub delay: Duration,
}

/// What was found behind it.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Operations that had returned.
    pub acknowledged: u64,
    /// What became of those under way.
    pub before: u64,
    pub part: u64,
    pub after: u64,
    /// What is wrong, where something is.
    pub lost: Option<String>,
    pub unmountable: Option<String>,
    pub dirty: Option<String>,
}

impl Findings {
    pub fn all_is_well(&self) -> Result<()> {
        for (name, what) in [
            ("lost", &self.lost),
            ("unmountable", &self.unmountable),
            ("dirty", &self.dirty),
        ] {
            if let Some(what) = what {
                anyhow::bail!("{name}: {what}");
            }
        }
        Ok(())
    }
}

pub fn kexec(lab: &Lab) -> Result<()> {
    scenario(lab, End::Kexec)
}

pub fn reset(lab: &Lab) -> Result<()> {
    scenario(lab, End::Reset)
}

fn scenario(lab: &Lab, end: End) -> Result<()> {
    let programs = Programs::new(lab)?;
    for seed in 1..=2 {
        let course = Course {
            seed,
            old: "7.x".to_owned(),
            new: if end == End::Reset { "7.x" } else { "7.x-1" }.to_owned(),
            end,
            delay: Duration::from_millis(1000 * seed),
        };
        let found = run(lab, &programs, &course)?;
        println!("{end:?}, seed {seed}: {found:?}");
        found.all_is_well()?;
    }
    Ok(())
}

/// Kernels to be mentioned in a course.
pub const KERNELS: [&str; 2] = ["7.x", "7.x-1"];

/// What a guest has that is built before any clock runs: the module for each of them, and fio.
pub struct Programs {
    modules: [PathBuf; 2],
    fio: Option<PathBuf>,
}

impl Programs {
    pub fn new(lab: &Lab) -> Result<Programs> {
        let kernels = lab.kernels()?;
        let module = |kernel| kmod::module(lab.cache(), kernels, kernels.release(kernel)?);
        let [new, old] = KERNELS;
        let fio = fio::program(lab.cache());
        if let Err(e) = &fio {
            println!("SKIPPED: the part of fio: {e:#}");
        }
        Ok(Programs {
            modules: [module(new)?, module(old)?],
            fio: fio.ok(),
        })
    }

    /// A guest with them.
    fn boot(&self, kernel: &str) -> Result<Boot> {
        let at = KERNELS.iter().position(|name| *name == kernel);
        let module = &self.modules[at.with_context(|| format!("no module for {kernel}"))?];
        let boot = Boot::new(kernel)
            .region(Region::reserved(SIZE))
            .small()
            .file("usr/lib/rpramfs.ko", module);
        Ok(match &self.fio {
            Some(fio) => boot.file("usr/bin/fio", fio),
            None => boot,
        })
    }
}

/// Ends a kernel as `course` says.
pub fn run(lab: &Lab, programs: &Programs, course: &Course) -> Result<Findings> {
    let old = programs.boot(&course.old)?.ledger();
    let mut old = old.cpus(2 + course.seed as u32 % 3);
    let mut new = programs.boot(&course.new)?;
    match course.end {
        // The kernel behind a panic may not be able to start other CPUs.
        End::Panic => {
            new = new.argument("nr_cpus=1");
            old = lab.carrying(old.argument("crashkernel=320M"), &new)?;
        }
        End::Kexec => old = lab.carrying(old, &new)?,
        End::Reset => old = old.resets(),
    }
    let spec = Region::reserved(SIZE).spec();
    let mount = format!("insmod /usr/lib/rpramfs.ko && mount -i -t rpramfs '{spec}' /mnt");

    let guest = lab.boot(&old)?;
    guest.run(format!("mkfs.rpramfs -q '{spec}' && {mount}"))?;
    match course.end {
        End::Panic => lab.crash_load(&guest, &new)?,
        End::Kexec => lab.kexec_load(&guest, &new)?,
        End::Reset => {}
    }
    work(&guest, course)?;
    guest.console().tolerate();
    match course.end {
        End::Panic => guest.panic()?,
        End::Kexec => lab.kexec(&guest)?.0,
        End::Reset => lab.reset(&guest)?,
    };
    guest.console().expect_again();
    let text = guest.console().text();
    if course.end == End::Panic {
        let panic = text.matches("sysrq: Trigger a crash").count();
        ensure!(panic == 1, "that was no panic");
    }
    ensure!(
        !text.contains("WARNING: ") && !text.contains("kernel BUG"),
        "the kernel complains: {}",
        guest.console().path().display()
    );
    find(&guest, course, &spec, &mount)
}

/// Has the guest work for the time that `course` says.
fn work(guest: &Guest, course: &Course) -> Result<()> {
    // Others look on, and have the kernel forget inodes that the next operation needs again.
    let _onlookers = match course.seed % 2 {
        0 => None,
        _ => Some(guest.background(
            "while :; do echo 2 > /proc/sys/vm/drop_caches; ls -lR /mnt > /dev/null 2>&1; done",
        )?),
    };
    let mut load = guest.background(&format!("exec /init load run {} /mnt", course.seed))?;
    let limit = Instant::now() + Duration::from_secs(60);
    while guest.ledger()?[0] == 0 {
        load.check()?;
        guest.check()?;
        ensure!(Instant::now() < limit, "the load does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(course.delay);
    load.check()?;
    guest.check()
}

fn find(guest: &Guest, course: &Course, spec: &str, mount: &str) -> Result<Findings> {
    let ledger = guest.ledger()?;
    // As many as there are: a thread that has not begun has done nothing.
    let threads = guest.run(format!("/init load threads {}", course.seed))?;
    let threads: usize = threads.trim().parse().context("a number of threads")?;
    let counts = &ledger[1..][..threads];
    let mut found = Findings {
        acknowledged: counts.iter().sum(),
        ..Findings::default()
    };
    let said = |script: String| -> Result<Option<String>> {
        let output = guest.command(script).timeout(180).output()?;
        let text = output.stdout() + &output.stderr();
        Ok((!output.success()).then_some(text))
    };
    let check = || said(format!("fsck.rpramfs -n '{spec}'"));
    found.dirty = check()?;
    if let Some(e) = said(format!("{mount} || {{ dmesg | tail -5; false; }}"))? {
        found.unmountable = Some(e);
        return Ok(found);
    }
    let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
    let check_load = format!("/init load check {} /mnt {}", course.seed, counts.join(" "));
    let output = guest.command(check_load).timeout(180).output()?;
    for line in output.stdout().lines() {
        match line {
            "before" => found.before += 1,
            "part" => found.part += 1,
            "after" => found.after += 1,
            _ => {}
        }
    }
    if !output.success() {
        found.lost = Some(output.stdout() + &output.stderr());
    }
    guest.run("umount /mnt && rmmod rpramfs")?;
    if found.dirty.is_none() {
        found.dirty = check()?;
    }
    Ok(found)
}
