// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The command line.

use clap::{ArgGroup, Args, Parser, Subcommand};
use kup::checkpoint::Memory;
use std::path::PathBuf;

const ABOUT: &str = "\
A first update, on a machine with memmap=4G$0x100000000 on its kernel's command line:

    mkfs.rpramfs -L state 0x100000000+4G     once
    mkdir -p /mnt/state                      once
    mount -t rpramfs label=state /mnt/state  at every boot
    kup hold                                 at every boot, before the applications start: they get PIDs
                                             that the next kernel's own processes do not use
    kup check                                what is missing, and what to do about it
    kup update --kernel /boot/vmlinuz-NEW --initrd /boot/initrd.img-NEW --pid PID

and in the new kernel, as early as possible:

    mount -t rpramfs label=state /mnt/state
    kup hold                                 before the network is up
    kup resume                               when it is

With systemd, the mount in /etc/fstab, kup-hold.service and kup-resume.service (from kup/systemd/ of the
sources) in /etc/systemd/system, and `systemctl enable kup-hold kup-resume` do this; give services by
--unit instead of --pid, and they come back as those services.

The applications stand still from the end of the copying to the end of the resume; their memory comes
on demand behind that. Whatever fails before the new kernel starts, short of a panic, they go on where
they stood. Whatever fails behind it, the checkpoint stays, and `kup resume` can be tried again there or
in the old kernel. What is not named ends when the kernel is switched, as by a reset: no service is
stopped and no filesystem unmounted.

Needs, under both kernels: criu (3.19 or later, 4.2 for Linux 7), kexec-tools, nftables 1.0, util-linux.

Exit status: 0 done, 1 failed (it says what, and what runs), 2 wrong usage.";

/// Updates the kernel under running applications: checkpoint, switch, restore.
#[derive(Debug, Parser)]
#[command(name = "kup", version, after_help = ABOUT)]
pub struct Line {
    /// Directory of checkpoints (usually found: kup/ on the RP-RAMFS that is mounted)
    #[arg(long, global = true, env = "KUP_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Is this machine ready? Each point with what to do about it
    Check {
        /// Also for an update into this kernel
        #[arg(long, value_name = "IMAGE")]
        kernel: Option<PathBuf>,
        /// Also for this service of systemd
        #[arg(long, value_name = "SERVICE")]
        unit: Vec<String>,
    },
    /// Take a checkpoint of an application
    Checkpoint(Checkpoint),
    /// Restore a checkpoint; the processes run when this returns
    Restore(Restore),
    /// List all checkpoints
    List,
    /// Show one checkpoint, with what it consists of
    Show {
        /// Its name
        name: String,
    },
    /// Remove a checkpoint
    Remove(Remove),
    /// Carry applications over into another kernel
    Update(Update),
    /// Restore what an update carried over; in the new kernel
    Resume,
    /// Hold the network and the PIDs for a resume that comes later; early in the new kernel
    Hold,
    /// Give up a resume that failed: let packets through, and services start anew
    Release,
    /// Show what the last update did, and when
    Report {
        /// Draw it into this file (SVG)
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// What a client saw meanwhile, to be drawn too: lines of seconds since 1970 and answers per second
        #[arg(long, value_name = "FILE", requires = "svg")]
        throughput: Option<PathBuf>,
    },
    /// In the next kernel, first of all: have CRIU find out what that kernel can do
    #[command(
        long_about = "CRIU's first run under a kernel tries what that can do, which takes several times as long as a \
restore. Run early at boot, in the background, this has it done before anybody waits. `hold` does it too, where there is \
a loopback interface already (`ip link set lo up`)."
    )]
    Prepare,
    /// Wait in the place of a service until it is restored; started by systemd
    #[command(hide = true)]
    Placeholder,
    /// Tell CRIU how the processes of a dump go on; started by checkpoint and update
    #[command(hide = true)]
    Guard {
        /// The directory of the checkpoint
        dir: PathBuf,
    },
    /// Give restored processes their memory; started by restore
    #[command(hide = true)]
    Drain {
        /// The directory of the checkpoint
        dir: PathBuf,
    },
}

/// How CRIU treats the processes.
#[derive(Debug, Args)]
pub struct Treatment {
    /// At most so many rounds of copying while the processes run
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub rounds: u32,

    /// Do not make checksums of the pages
    #[arg(long)]
    pub no_seal: bool,

    /// One more option for CRIU, in dump and restore alike (--criu-option=--shell-job)
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub criu_option: Vec<String>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct Checkpoint {
    /// A name for the checkpoint
    pub name: String,

    /// This process and all its descendants
    #[arg(long, group = "what")]
    pub pid: Option<u32>,

    /// The processes of this control group (below /sys/fs/cgroup)
    #[arg(long, group = "what")]
    pub cgroup: Option<String>,

    /// This service of systemd. Once it is checkpointed, to start it is to restore it, until the next boot
    #[arg(long, group = "what", value_name = "SERVICE")]
    pub unit: Option<String>,

    /// The processes go on after the checkpoint
    #[arg(long)]
    pub leave_running: bool,

    /// Where their memory goes
    #[arg(long, value_enum, default_value_t = Memory::Foam)]
    pub memory: Memory,

    #[command(flatten)]
    pub treatment: Treatment,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// Its name
    pub name: String,

    /// Return only when the processes have all their memory
    #[arg(long)]
    pub wait: bool,

    /// Though a restore of it was cut off. None of its processes must run
    #[arg(long)]
    pub again: bool,

    /// In the place of a service's own commands; started by systemd
    #[arg(long, hide = true)]
    pub in_unit: bool,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Its name
    pub name: String,

    /// Overwrite all of it first
    #[arg(long)]
    pub wipe: bool,

    /// Though it could still be restored
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Image of the next kernel
    #[arg(long, value_name = "IMAGE")]
    pub kernel: PathBuf,

    /// Its initramfs
    #[arg(long, value_name = "IMAGE")]
    pub initrd: Option<PathBuf>,

    /// Its command line, instead of the running kernel's
    #[arg(long, value_name = "TEXT")]
    pub command_line: Option<String>,

    /// More for its command line
    #[arg(long, value_name = "TEXT")]
    pub append: Option<String>,

    /// A process and its descendants, with a name for its checkpoint (otherwise pid-PID). Not for what systemd starts.
    /// This and the next two may be given several times; it is the order in which they are restored
    #[arg(long, value_name = "[NAME=]PID")]
    pub pid: Vec<String>,

    /// The processes of a control group (NAME: otherwise the last part of GROUP), behind those of --pid
    #[arg(long, value_name = "[NAME=]GROUP")]
    pub cgroup: Vec<String>,

    /// A service of systemd (NAME: otherwise its full name, such as nginx.service), behind those of --cgroup
    #[arg(long, value_name = "[NAME=]SERVICE")]
    pub unit: Vec<String>,

    #[command(flatten)]
    pub treatment: Treatment,
}
