// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Mounting by the kernel module: whether it can be done, and how.

use crate::kmsg;
use crate::mountpoint;
use crate::options::{Frontend, IoMode, Options};
use host::driver::{Driven, Held};
use host::in_use::{KernelMount, Uses};
use host::iomem::PhysMap;
use host::{Error, Kind, PhysRange, Result, Spec};
use nix::errno::Errno;
use nix::mount::MntFlags;
use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// The type by which the kernel knows it.
pub const TYPE: &str = "rpramfs";
/// What the module asks of start and length of a region: so much gets struct pages at a time.
const ALIGN: u64 = 2 << 20;

/// Who is to serve a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernel module, this range.
    Module(PhysRange),
    /// The kernel module, the memory of this device.
    Device(Driven),
    /// Nobody: the device is gone since its memory was mounted there.
    Nobody,
    /// FUSE, for this reason.
    Fuse(String),
}

/// Chooses by what is asked for and what there is. `-o kernel` makes an error of every reason for
/// FUSE.
pub fn choose(options: &Options) -> Result<Choice> {
    let must = options.frontend == Frontend::Kernel;
    let fuse = |why: &str| Ok(Choice::Fuse(why.to_owned()));
    if options.frontend == Frontend::Fuse {
        return fuse("as it was asked for");
    }
    if let Some(option) = binding(options) {
        if must {
            return Err(
                Error::usage(format!("-o kernel: the kernel module knows no {option}"))
                    .hint("leave one of the two out"),
            );
        }
        return fuse(&format!("the kernel module knows no {option}"));
    }
    let spec = options.region()?;
    let named = match &spec {
        Spec::Path(_) if !must => return fuse("the source is a path"),
        Spec::Path(path)
            if !path.exists() && is_seen(options, Uses::system().kernel_mounts().iter()) =>
        {
            return Ok(Choice::Nobody)
        }
        Spec::Path(path) => Some(device(path)?),
        _ => None,
    };
    if !is_there() {
        if must {
            return Err(refused(
                "-o kernel: the kernel module of RP-RAMFS is not loaded".into(),
                "load it: modprobe rpramfs, or insmod its file (it is there for kernels with \
                 Rust only); or leave the option out to mount through FUSE",
            ));
        }
        return fuse("the kernel module is not there");
    }
    if let Some(device) = named {
        return Ok(device);
    }
    match host::resolve::resolve(&spec)? {
        Spec::Physical(range) if is_aligned(&range) => Ok(Choice::Module(range)),
        Spec::Physical(range) if must => Err(refused(
            format!(
                "-o kernel: {range}: start and length must be multiples of 2 MiB for the kernel \
                 module"
            ),
            "leave the option out to mount through FUSE",
        )),
        Spec::Physical(_) => fuse("start or length of the region is no multiple of 2 MiB"),
        Spec::Path(path) if must => device(&path),
        other if must => Err(refused(
            format!(
                "-o kernel: the region is {other}, and the kernel module mounts physical memory \
                 only"
            ),
            "leave the option out to mount through FUSE",
        )),
        other => fuse(&format!("the region is {other}")),
    }
}

/// Is one of these what is seen where this is to be mounted? Not one that is covered by another, and of other
/// mount namespaces nobody here can tell.
fn is_seen<'m>(options: &Options, mut mounts: impl Iterator<Item = &'m KernelMount>) -> bool {
    let device = options.dir.metadata().map(|meta| meta.dev()).ok();
    let seen = |m: &KernelMount| Path::new(&m.on) == options.dir && Some(m.device) == device;
    options.namespace.is_none() && mounts.any(seen)
}

fn refused(what: String, hint: &str) -> Error {
    Error::new(Kind::Refused, what).hint(hint)
}

/// A device whose memory the module can have: at once, or when its driver lets go.
fn device(path: &Path) -> Result<Choice> {
    let shown = path.display();
    let (range, choice) =
        match Driven::of(path)? {
            Held::By(driven) => (driven.range(), Choice::Device(driven)),
            Held::ByNobody(range) => (range, Choice::Module(range)),
            Held::Nowhere => return Err(refused(
                format!(
                    "-o kernel: {shown} is no physical memory, and the kernel module mounts \
                     nothing else"
                ),
                "name the memory (ADDR+SIZE, label=, uuid=, /dev/pmemN, /dev/daxX.Y), or leave \
                 the option out to mount through FUSE",
            )),
        };
    if is_aligned(&range) {
        return Ok(choice);
    }
    Err(refused(
        format!(
            "-o kernel: {shown} is {range}: start and length must be multiples of 2 MiB for the \
             kernel module"
        ),
        "leave the option out to mount through FUSE",
    ))
}

/// An option that only a daemon can do justice.
fn binding(options: &Options) -> Option<&'static str> {
    if options.foreground {
        Some("foreground")
    } else if options.allow_other == Some(false) {
        Some("noallow_other")
    } else if options.frontend != Frontend::Kernel {
        None
    } else {
        tuning(options)
    }
}

/// An option that makes no difference but in speed.
fn tuning(options: &Options) -> Option<&'static str> {
    if options.threads.is_some() {
        Some("threads=")
    } else if options.io != IoMode::Auto {
        Some("io=")
    } else {
        None
    }
}

fn is_aligned(range: &PhysRange) -> bool {
    range.start % ALIGN == 0 && range.size % ALIGN == 0
}

/// Does the kernel know the type, or can it learn it?
fn is_there() -> bool {
    let known = || {
        fs::read_to_string("/proc/filesystems")
            .is_ok_and(|list| list.lines().any(|line| name_of(line) == TYPE))
    };
    if known() {
        return true;
    }
    let places = ["/sbin/modprobe", "/usr/sbin/modprobe"];
    let Some(modprobe) = places.iter().find(|place| Path::new(place).exists()) else {
        return false;
    };
    // Whether it worked shows in the list.
    let _ = Command::new(modprobe)
        .args(["-q", TYPE])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    known()
}

/// Of a line of /proc/filesystems: `nodev\trpramfs`.
fn name_of(line: &str) -> &str {
    line.rsplit('\t').next().unwrap_or(line)
}

/// Mounts. Mounted at the same place already is as good: mount(8), which cannot tell that
/// `label=images` is what the kernel lists by its address, would else fail at a second `mount -a`.
pub fn mount(options: &Options, range: PhysRange) -> Result<()> {
    if is_mounted(options, &range)? {
        log::warn!("{range}: is mounted on {} already", options.dir.display());
        return Ok(());
    }
    if let Some(option) = tuning(options) {
        log::warn!("{option} is without effect: the kernel module serves this mount");
    }
    let kmsg = kmsg::Log::from_now();
    if let Some(namespace) = &options.namespace {
        mountpoint::enter_namespace(namespace)?;
    }
    let data = (!options.kernel_data.is_empty()).then(|| options.kernel_data.join(","));
    nix::mount::mount(
        Some(range.to_string().as_str()),
        &options.dir,
        Some(TYPE),
        options.flags,
        data.as_deref(),
    )
    .map_err(|e| explain(options, &range, e, kmsg.complaints()))?;
    if let Err(e) = dress_root(options) {
        if let Err(e) = nix::mount::umount2(&options.dir, MntFlags::MNT_DETACH) {
            log::warn!("{}: cannot unmount: {e}", options.dir.display());
        }
        return Err(e);
    }
    let is_read_only = nix::sys::statvfs::statvfs(&options.dir)
        .is_ok_and(|s| s.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    if is_read_only && !options.read_only() {
        log::warn!("{range}: mounted read-only because of damage or features unknown here");
    }
    log::info!("{range}: mounted by the kernel module");
    Ok(())
}

/// Takes the device from its driver, and mounts its memory. `-o kernel` asks for both.
pub fn mount_device(options: &Options, device: Driven) -> Result<()> {
    let (range, driver) = (device.range(), device.driver());
    let taken = device.take()?;
    mount(options, range)?;
    if let Some(device) = taken.keep() {
        log::info!(
            "{range}: taken from {driver}; once unmounted, {} gives it back",
            device.giving_back()
        );
    }
    Ok(())
}

/// Is it mounted there? An error if it is mounted elsewhere: one region, one mount, as with FUSE.
fn is_mounted(options: &Options, range: &PhysRange) -> Result<bool> {
    let mounts = Uses::system().kernel_mounts();
    let mut here = mounts.iter().filter(|m| m.range == *range);
    if is_seen(options, here.clone()) {
        return Ok(true);
    }
    match (PhysMap::system()?.require(range), here.next_back()) {
        (Err(e), Some(m)) if e.kind() == Kind::Busy => Err(e.hint(format!(
            "umount {0} first; or show it elsewhere too: mount --bind {0} {1}",
            m.on,
            options.dir.display()
        ))),
        (Err(e), None) if e.kind() == Kind::Busy => Err(e),
        // The module has words of its own for the rest.
        _ => Ok(false),
    }
}

/// Owner and permissions of the root directory, where they were asked for and differ.
fn dress_root(options: &Options) -> Result<()> {
    let failed = |e| Error::io("cannot set owner or mode of the root directory", &e);
    let dir = &options.dir;
    let root = dir.metadata().map_err(failed)?;
    let uid = options.uid.filter(|uid| *uid != root.uid());
    let gid = options.gid.filter(|gid| *gid != root.gid());
    if uid.is_some() || gid.is_some() {
        chown(dir, uid, gid).map_err(failed)?;
    }
    if let Some(mode) = options.mode.filter(|mode| *mode != root.mode() & 0o7777) {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

/// Why the kernel refused, in its own words where it has some.
fn explain(options: &Options, range: &PhysRange, e: Errno, words: Vec<String>) -> Error {
    let kind = match e {
        Errno::EPERM | Errno::EACCES => Kind::Permission,
        Errno::EBUSY => Kind::Busy,
        Errno::ENOMEM | Errno::ENODEV => Kind::System,
        _ => Kind::Refused,
    };
    let what = format!("cannot mount {range}");
    let mut words = words.into_iter();
    let Some(first) = words.next() else {
        let error = Error::new(
            kind,
            format!("{what} on {}: {}", options.dir.display(), e.desc()),
        );
        return match e {
            Errno::EPERM => error.hint("only root may mount"),
            Errno::ENODEV => error.hint("the kernel module has gone meanwhile"),
            _ => error.hint("through FUSE: -o fuse"),
        };
    };
    // The range is said once, if the kernel says it as the module does.
    let named = format!("{:#x}+{:#x}: ", range.start, range.size);
    let first = first.strip_prefix(&named).unwrap_or(&first).to_owned();
    let error = Error::new(kind, format!("{what}: {first}"));
    let rest: Vec<String> = words.collect();
    if rest.is_empty() {
        error
    } else {
        error.hint(rest.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(spec: &str, frontend: Frontend) -> Options {
        Options {
            spec: spec.into(),
            dir: "/mnt".into(),
            frontend,
            ..Options::default()
        }
    }

    fn why(options: &Options) -> String {
        match choose(options).expect("a choice") {
            Choice::Fuse(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fuse_for_a_reason() {
        assert!(why(&options("4G+1G", Frontend::Fuse)).contains("asked for"));
        assert!(why(&options("./image", Frontend::Any)).contains("path"));
        let mut o = options("4G+1G", Frontend::Any);
        o.foreground = true;
        assert!(why(&o).contains("foreground"));
        o.foreground = false;
        o.allow_other = Some(false);
        assert!(why(&o).contains("noallow_other"));
    }

    #[test]
    fn the_module_or_nothing() {
        let refusal = |o: &Options| choose(o).expect_err("refused").to_string();
        let e = refusal(&options("/proc/self/exe", Frontend::Kernel));
        assert!(e.contains("physical memory") && e.contains("FUSE"), "{e}");
        let mut o = options("4G+1G", Frontend::Kernel);
        o.threads = Some(3);
        assert!(refusal(&o).contains("threads="));
        o.threads = None;
        o.io = IoMode::Cached;
        assert!(refusal(&o).contains("io="));
        o.io = IoMode::Auto;
        o.foreground = true;
        assert_eq!(choose(&o).expect_err("refused").kind(), Kind::Usage);
    }

    #[test]
    fn ranges_are_aligned_at_both_ends() {
        let aligned = |start, size| is_aligned(&PhysRange::new(start, size).expect("range"));
        assert!(aligned(4 << 30, 2 << 20));
        assert!(!aligned((4 << 30) + 4096, 2 << 20));
        assert!(!aligned(4 << 30, (2 << 20) + 4096));
    }

    #[test]
    fn types_are_whole_words() {
        assert_eq!(name_of("nodev\trpramfs"), TYPE);
        assert_eq!(name_of("\text4"), "ext4");
        assert_ne!(name_of("nodev\tfuse.rpramfs"), TYPE);
    }

    #[test]
    fn the_kernels_words_are_the_reason() {
        let range = PhysRange::new(4 << 30, 1 << 30).expect("range");
        let o = options("4G+1G", Frontend::Any);
        let words = ["0x100000000+0x40000000: no RP-RAMFS here", "more"];
        let e = explain(&o, &range, Errno::EINVAL, words.map(String::from).into());
        assert_eq!(
            e.to_string(),
            "cannot mount 0x100000000+1G: no RP-RAMFS here\n  more"
        );
        assert_eq!(e.exit_code(host::Program::Mount), 32);
        let e = explain(&o, &range, Errno::EPERM, Vec::new());
        assert_eq!(e.exit_code(host::Program::Mount), 1);
        assert!(e.to_string().contains("on /mnt"), "{e}");
    }
}
