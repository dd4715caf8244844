// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A region in a file, mounted by the program under test.

use fs_core::FormatOptions;
use host::{Access, Spec, UserHost};
use nix::errno::Errno;
use nix::mount::{umount2, MntFlags};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mount-rpramfs");

/// Long enough for a loaded machine, short enough to see a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says so and returns true where these tests cannot run.
pub fn unable() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "needs root"
    } else if !Path::new("/dev/fuse").exists() {
        "needs /dev/fuse"
    } else {
        return false;
    };
    println!("SKIPPED: {missing}");
    true
}

/// Unmounts. A test in another thread may just have forked: until its child executes a program,
/// that child has our closed files open too.
pub fn umount(dir: &Path) {
    let limit = Instant::now() + PATIENCE;
    loop {
        match umount2(dir, MntFlags::empty()) {
            Err(Errno::EBUSY) if Instant::now() < limit => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => break result.expect("umount"),
        }
    }
}

pub struct Mount {
    dir: TempDir,
    mounted: bool,
}

impl Mount {
    /// A fresh region of `size` bytes, formatted and mounted.
    pub fn new(size: u64) -> Self {
        Mount::with(size, "")
    }

    pub fn with(size: u64, options: &str) -> Self {
        let mut mount = Mount::unmounted(size);
        mount.mount(options);
        mount
    }

    /// A fresh region, formatted.
    pub fn unmounted(size: u64) -> Self {
        // Memory, as regions are, where there is some.
        let shm = Path::new("/dev/shm");
        if shm.is_dir() {
            Mount::unmounted_in(shm, size)
        } else {
            Mount::unmounted_in(&std::env::temp_dir(), size)
        }
    }

    /// A fresh region below `place`, formatted.
    pub fn unmounted_in(place: &Path, size: u64) -> Self {
        let dir = TempDir::new_in(place).expect("a directory");
        fs::create_dir(dir.path().join("mnt")).expect("mount point");
        let image = dir.path().join("region");
        File::create(&image)
            .and_then(|f| f.set_len(size))
            .expect("a sparse file");
        let spec = Spec::parse(&image).expect("a path");
        let region = host::open(&spec, Access::ReadWrite).expect("a region");
        let options = FormatOptions {
            uuid: [7; 16],
            label: [0; 32],
            uid: 0,
            gid: 0,
            mode: 0o755,
            struct_pages: false,
        };
        fs_core::format(&region, &UserHost::new(), &options).expect("format");
        Mount {
            dir,
            mounted: false,
        }
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path().join("region")
    }

    /// The mount point, or what is below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    /// Runs the program with the region and the mount point.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM)
            .arg(self.image())
            .arg(self.path(""))
            .args(args)
            .output()
            .expect("the program runs")
    }

    pub fn mount(&mut self, options: &str) {
        let output = if options.is_empty() {
            self.run(&[])
        } else {
            self.run(&["-o", options])
        };
        assert!(
            output.status.success(),
            "mount: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        self.mounted = true;
    }

    /// The daemon's process id.
    pub fn daemon(&self) -> Pid {
        self.find_daemon().expect("a daemon")
    }

    fn find_daemon(&self) -> Option<Pid> {
        let image = self.image();
        let image = image.to_str().expect("UTF-8");
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .find(|pid: &i32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.starts_with("@mount.rpramfs\0") && line.split('\0').any(|a| a == image)
            })
            .map(Pid::from_raw)
    }

    pub fn wait_for_end(&self) {
        let limit = Instant::now() + PATIENCE;
        while self.find_daemon().is_some() {
            assert!(Instant::now() < limit, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Unmounts, and waits for the daemon's end.
    pub fn unmount(&mut self) {
        umount(&self.path(""));
        self.mounted = false;
        self.wait_for_end();
    }

    /// SIGKILL, as a crash would, and the dead mount taken away.
    pub fn kill(&mut self) {
        kill(self.daemon(), Signal::SIGKILL).expect("kill");
        self.wait_for_end();
        self.detach();
    }

    /// Takes a dead mount away.
    pub fn detach(&mut self) {
        umount2(&self.path(""), MntFlags::MNT_DETACH).expect("umount");
        self.mounted = false;
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.daemon(), signal).expect("kill");
    }

    /// The mount went away by other means.
    pub fn gone(&mut self) {
        self.mounted = false;
    }

    /// Free blocks, when the last unlinked files have been given back.
    pub fn free(&self) -> u64 {
        let now = || {
            let s = nix::sys::statvfs::statvfs(&self.path("")).expect("statvfs");
            s.blocks_free()
        };
        let mut last = now();
        let mut quiet = 0;
        while quiet < 10 {
            std::thread::sleep(Duration::from_millis(10));
            let next = now();
            quiet = if next == last { quiet + 1 } else { 0 };
            last = next;
        }
        last
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Best effort: the test has passed or failed already.
            let _ = umount2(&self.path(""), MntFlags::MNT_DETACH);
        }
    }
}
