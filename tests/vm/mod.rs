// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What happens to RP-RAMFS under real kernels: one scenario, one file.
//!
//! `cargo xtask vm list` names them, `cargo xtask vm run NAME` runs one.

mod boot;
mod crash_keeps_region;
pub mod demo;
mod devdax;
mod from_6_1;
mod fstab_and_switch_root;
mod kexec_keeps_region;
mod kup_faults;
mod kup_initramfs;
mod kup_memory;
mod kup_panic;
mod kup_restore;
mod kup_units;
pub mod kup_workloads;
mod lab_notices;
mod misuse;
mod module;
mod module_debug;
mod module_failure;
mod module_files;
mod module_hostile;
mod module_mount;
mod module_posix;
mod redis_guest;
pub mod services;
mod sparse;
pub mod sudden_end;
mod systemd_and_root_disk;

use crate::lab::Lab;
use anyhow::Result;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Lab) -> Result<()>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "every kernel boots with a region and runs commands",
        run: boot::run,
    },
    Scenario {
        name: "kexec_keeps_region",
        about: "not a word of the region changes over kexec -s from 6.12 to 7.x",
        run: kexec_keeps_region::run,
    },
    Scenario {
        name: "crash_keeps_region",
        about: "nor when 6.12 panics and 7.x is the crash kernel",
        run: crash_keeps_region::run,
    },
    Scenario {
        name: "lab_notices",
        about: "a guest that panics or hangs is an error at once, with its last words",
        run: lab_notices::run,
    },
    Scenario {
        name: "kup_workloads",
        about: "redis, memcached, nginx, mariadb and a compilation through five updates in a row",
        run: kup_workloads::run,
    },
    Scenario {
        name: "kup_panic",
        about: "a panic between the last round and the switch: the rescue kernel restores the application",
        run: kup_panic::run,
    },
    Scenario {
        name: "kup_units",
        about: "services of systemd come back as those services: status, control group, mounts, restart",
        run: kup_units::run,
    },
    Scenario {
        name: "kup_initramfs",
        about: "an initramfs by initramfs-tools or dracut keeps the place of applications before the root begins",
        run: kup_initramfs::run,
    },
    Scenario {
        name: "kup_memory",
        about: "memory of every kind over a checkpoint: equal byte for byte, and right while it drains",
        run: kup_memory::run,
    },
    Scenario {
        name: "kup_memory_native",
        about: "the same on this machine itself, with sixty programs; no guest",
        run: |_| kup_memory::native(),
    },
    Scenario {
        name: "kup_restore",
        about: "kup checkpoints processes and restores them: what they hold is the same",
        run: kup_restore::run,
    },
    Scenario {
        name: "kup_faults",
        about: "whatever goes wrong with kup update, the application runs on or can be restored",
        run: kup_faults::run,
    },
    Scenario {
        name: "misuse",
        about: "what must not be touched is refused with a reason, and not one byte is written",
        run: misuse::run,
    },
    Scenario {
        name: "fstab_and_switch_root",
        about: "a mount from /etc/fstab or an initramfs, and every way it can end",
        run: fstab_and_switch_root::run,
    },
    Scenario {
        name: "sparse",
        about: "a file of 128 TiB costs its three pages, in the next kernel too",
        run: sparse::run,
    },
    Scenario {
        name: "from_6_1",
        about: "all that was written under 6.1 is there in 7.x",
        run: from_6_1::run,
    },
    Scenario {
        name: "module_failure",
        about: "memory fails under the kernel module: an error for who had it, and for nobody else",
        run: module_failure::run,
    },
    Scenario {
        name: "module_files",
        about: "what the kernel module writes is clean, and FUSE shows the same",
        run: module_files::run,
    },
    Scenario {
        name: "module_hostile",
        about: "damaged regions mounted by the kernel module: no oops, the right error, neighbours whole",
        run: module_hostile::run,
    },
    Scenario {
        name: "module_mount",
        about: "mount takes the kernel module where it can, and nobody touches what another has",
        run: module_mount::run,
    },
    Scenario {
        name: "devdax",
        about: "a region in a device-dax device, by FUSE and the module, and in the next kernel",
        run: devdax::run,
    },
    Scenario {
        name: "module_posix",
        about: "the judges of POSIX are content with the kernel module",
        run: module_posix::run,
    },
    Scenario {
        name: "module_posix_older",
        about: "the same under the series before the newest",
        run: module_posix::run_older,
    },
    Scenario {
        name: "module",
        about: "the kernel module is loaded into every 7.x kernel, and unloaded",
        run: module::run,
    },
    Scenario {
        name: "module_debug",
        about: "the module under KASAN, lockdep and kmemleak: judges, mounts, damaged regions (hours)",
        run: module_debug::run,
    },
    Scenario {
        name: "module_kexec",
        about: "the module's mount under load, left by kexec -e: clean, and nothing is lost",
        run: sudden_end::kexec,
    },
    Scenario {
        name: "module_reset",
        about: "the same, left by reboot -f on a machine that keeps its memory",
        run: sudden_end::reset,
    },
    Scenario {
        name: "systemd_and_root_disk",
        about: "systemd on a root disk: it mounts the region, services run, and all is there after a kexec",
        run: systemd_and_root_disk::run,
    },
    Scenario {
        name: "demo",
        about:
            "kup update: redis and memcached with open connections, from 6.12 (FUSE) to 7.x (module)",
        run: demo::run,
    },
    Scenario {
        name: "demo_by_hand",
        about: "the same by the commands of CRIU and kexec, with CRIU's own images",
        run: demo::run_by_hand,
    },
    Scenario {
        name: "update_7_2_to_7_3",
        about: "the same between the two newest 7.x, both with the kernel module",
        run: demo::run_module_to_module,
    },
];
