// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `cargo xtask demo`.

use crate::host;
use crate::lab::{Filesystem, Lab, Size};
use crate::scenarios::demo::{carry, served_by, Options, Report};
use crate::scenarios::{kup_workloads, services};
use anyhow::Result;
use clap::Args;
use std::fs;

#[derive(Args)]
pub struct Demo {
    /// Instead of redis and memcached by themselves: one application, in a system with systemd and a root disk. Of the
    /// other options only --from and --to are for it
    #[arg(long, value_enum)]
    app: Option<Name>,
    /// The kernel to begin with: 6.1, 6.12, 7.2, … (6.12; with --app the last series but one)
    #[arg(long)]
    from: Option<String>,
    /// The kernel to end with
    #[arg(long, default_value = "7.x")]
    to: String,
    /// What keeps the checkpoint over the update
    #[arg(long, value_enum, default_value_t = Filesystem::Rpramfs)]
    fs: Filesystem,
    /// Size of the region
    #[arg(long, default_value = "1G")]
    region: Size,
    /// Keys in redis
    #[arg(long, default_value_t = Options::default().keys)]
    keys: usize,
    /// Items in memcached
    #[arg(long, default_value_t = Options::default().items)]
    items: usize,
    /// By the commands of CRIU and kexec instead of `kup`, with CRIU's own images
    #[arg(long)]
    by_hand: bool,
    /// Mount through FUSE in both kernels; otherwise the kernel module does it where it can
    #[arg(long)]
    fuse: bool,
}

/// An application that is carried along.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    Redis,
    Memcached,
    Nginx,
    Mariadb,
    Compile,
}

impl Name {
    fn app(self) -> &'static services::App {
        match self {
            Name::Redis => &services::REDIS,
            Name::Memcached => &services::MEMCACHED,
            Name::Nginx => &services::NGINX,
            Name::Mariadb => &services::MARIADB,
            Name::Compile => &services::COMPILE,
        }
    }
}

/// The demo without any option.
pub fn as_by_default() -> Result<()> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        demo: Demo,
    }
    <Line as clap::Parser>::parse_from(["demo"]).demo.run()
}

impl Demo {
    pub fn run(self) -> Result<()> {
        if let Some(name) = self.app {
            let from = self.from.as_deref().unwrap_or("7.x-1");
            return kup_workloads::one(&Lab::open("demo")?, name.app(), from, &self.to);
        }
        let options = Options {
            from: self.from.unwrap_or(Options::default().from),
            to: self.to,
            filesystem: self.fs,
            region: self.region,
            keys: self.keys,
            items: self.items,
            // FOAM wants sparse files that ext4 does not have.
            by_hand: self.by_hand || self.fs == Filesystem::Ext4Dax,
            only_fuse: self.fuse,
        };
        let dir = host::target().join("demo");
        fs::create_dir_all(&dir)?;
        let path = dir.join("report.json");
        // An old one must not pass for the outcome of this run.
        let _ = fs::remove_file(&path);
        let report = carry(&Lab::open("demo")?, &options)?;
        fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
        summary(&report);
        println!("report: {}", path.display());
        Ok(())
    }
}

fn summary(report: &Report) {
    println!("\n{}  →  {}", report.kernel_from, report.kernel_to);
    println!(
        "  mounted as {}  →  {}",
        served_by(&report.mount_from),
        served_by(&report.mount_to)
    );
    for app in &report.apps {
        println!(
            "  {:10} {:7} items, every one the same",
            app.name, app.items
        );
    }
    println!("  the client's connection was never closed");
    let s = &report.seconds;
    println!(
        "  dump {:.2} s, kexec {:.2} s, mount {:.2} s, restore {:.2} s; the client waited {:.2} s",
        s.dump, s.kexec_to_init, s.mount, s.restore, s.client_gap
    );
}
