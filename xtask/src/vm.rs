// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `cargo xtask vm`.

use crate::lab::{Boot, Lab, Region, Size};
use crate::scenarios::SCENARIOS;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Subcommand)]
pub enum Task {
    /// A prompt in a guest that has a region and the tools of RP-RAMFS
    Shell(Shell),
    /// Run scenarios by their names
    Run {
        #[arg(required = true)]
        scenarios: Vec<String>,
    },
    /// List the scenarios and the kernels there are
    List,
}

#[derive(Args)]
pub struct Shell {
    /// Newest that fits: 6.1, 6.12, 7.2, 7.x, or a whole release name; or a directory with
    /// `vmlinuz`, its modules, and its name in a file `release`
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// The kernel that `kexec -e` starts
    #[arg(long)]
    next: Option<String>,
    /// Size of the region, which lies at 4 GiB
    #[arg(long, default_value = "1G")]
    region: Size,
    /// Memory of the guest besides the region: 2G, or 3G with a root disk
    #[arg(long)]
    memory: Option<Size>,
    /// Debian with systemd on a root disk
    #[arg(long)]
    root_disk: bool,
    /// Reserve the region with `memmap=…!…`, so that the kernel makes /dev/pmem0 of it
    #[arg(long)]
    pmem: bool,
    /// Leave out mkfs.rpramfs and the others
    #[arg(long)]
    no_tools: bool,
    /// Another word for the kernel's command line
    #[arg(long)]
    arg: Vec<String>,
    /// Another kernel module
    #[arg(long)]
    module: Vec<String>,
    /// A kernel module of your own, for modprobe on the root disk
    #[arg(long, requires = "root_disk")]
    external_module: Vec<PathBuf>,
    /// Another program, from a package of Debian forky, as PACKAGE=PROGRAM
    #[arg(long)]
    program: Vec<String>,
    /// A file of the host's, as PATH_IN_GUEST=FILE
    #[arg(long)]
    file: Vec<String>,
}

pub fn run(task: Task) -> Result<()> {
    match task {
        Task::Shell(shell) => shell.run(),
        Task::Run { scenarios } => scenarios.iter().try_for_each(|name| scenario(name)),
        Task::List => list(),
    }
}

/// Runs one scenario by its name.
pub fn scenario(name: &str) -> Result<()> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario =
        scenario.with_context(|| format!("no scenario {name}; see `cargo xtask vm list`"))?;
    println!("── {name}: {}", scenario.about);
    let start = Instant::now();
    let lab = Lab::open(name)?;
    (scenario.run)(&lab).with_context(|| format!("scenario {name}"))?;
    println!(
        "── {name}: passed in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn list() -> Result<()> {
    println!("Scenarios (cargo xtask vm run NAME):");
    for scenario in SCENARIOS {
        println!("  {:24} {}", scenario.name, scenario.about);
    }
    let lab = Lab::open("list")?;
    println!("\nKernels (cargo xtask vm shell --kernel …):");
    for release in lab.kernels()?.releases() {
        println!("  {release}");
    }
    Ok(())
}

impl Shell {
    fn run(&self) -> Result<()> {
        let lab = Lab::open("shell")?;
        let region = if self.pmem {
            Region::pmem(self.region)
        } else {
            Region::reserved(self.region)
        };
        let mut boot = Boot::new(&self.kernel).region(region).network().terminal();
        if self.root_disk {
            boot = boot.root_disk();
        }
        if let Some(memory) = self.memory {
            boot = boot.memory(memory);
        }
        if self.no_tools {
            boot = boot.without_tools();
        }
        boot = self.arg.iter().fold(boot, |boot, word| boot.argument(word));
        boot = self
            .module
            .iter()
            .fold(boot, |boot, name| boot.module(name));
        for module in &self.external_module {
            boot = boot.external_module(module);
        }
        for program in &self.program {
            let (package, program) = program.split_once('=').context("--program PACKAGE=NAME")?;
            boot = boot.program(package, program);
        }
        for file in &self.file {
            let (place, from) = file.split_once('=').context("--file PATH_IN_GUEST=FILE")?;
            boot = boot.file(place, &PathBuf::from(from));
        }
        println!("lab: booting {} ({})", self.kernel, lab.accel()?.name());
        let next = self
            .next
            .as_ref()
            .map(|kernel| (kernel, boot.with_kernel(kernel)));
        if let Some((_, next)) = &next {
            lab.prepare(next)?;
        }
        let guest = lab.boot(&boot)?;
        guest.console().tolerate();
        guest.shell(|guest| {
            // The terminal is in raw mode while QEMU has it.
            guest.network_up()?;
            println!(
                "lab: {} is up, at {} for this host\r",
                guest.release(),
                guest.address()?
            );
            println!("lab: the region: {}; leave with `exit`\r", region.spec());
            if let Some((kernel, next)) = &next {
                lab.kexec_load(guest, next)?;
                println!("lab: {kernel} is loaded: start it with `kexec -e`\r");
            }
            println!("lab: console log: {}\r", guest.console().path().display());
            Ok(())
        })
    }
}
