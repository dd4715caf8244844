// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The command line: what mount(8) hands to a helper, and `-o` options.

use host::{Error, Result, Spec};
use nix::mount::MsFlags;
use std::ffi::OsString;
use std::path::PathBuf;

/// Data path of opened files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// Past the page cache where the kernel can still map such files shared, except for small
    /// files opened for reading only.
    #[default]
    Auto,
    /// Always past the page cache.
    Direct,
    /// Always through the page cache (writes are still passed on at once).
    Cached,
}

/// When reading moves a file's access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// Never.
    Never,
    /// If it is not later than the last change, or older than a day.
    #[default]
    Relative,
    /// Always.
    Strict,
}

/// Which implementation shall serve the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frontend {
    /// The kernel module where it is there and can, otherwise FUSE.
    #[default]
    Any,
    /// FUSE, whatever there is.
    Fuse,
    /// The kernel module or nothing.
    Kernel,
}

/// Everything the command line can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The region, as it was named.
    pub spec: String,
    /// Where to mount.
    pub dir: PathBuf,
    /// Do everything but the mount (`-f`).
    pub fake: bool,
    /// Ignore options nobody knows (`-s`).
    pub sloppy: bool,
    /// Say what is done (`-v`).
    pub verbose: bool,
    /// Mount in this mount namespace (`-N`): a path or a process id.
    pub namespace: Option<OsString>,
    /// Flags for mount(2).
    pub flags: MsFlags,
    /// Change the flags of a live mount instead of mounting.
    pub remount: bool,
    /// Let other users in.
    pub allow_other: Option<bool>,
    /// Owner the root directory shall have.
    pub uid: Option<u32>,
    /// Group the root directory shall have.
    pub gid: Option<u32>,
    /// Permissions the root directory shall have.
    pub mode: Option<u32>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Threads that serve requests.
    pub threads: Option<usize>,
    /// FUSE or kernel.
    pub frontend: Frontend,
    /// Data path.
    pub io: IoMode,
    /// Access times.
    pub atime: Atime,
    /// Access times of directories are left alone.
    pub nodiratime: bool,
    /// Options handed to the kernel as they are (SELinux contexts).
    pub kernel_data: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            spec: String::new(),
            dir: PathBuf::new(),
            fake: false,
            sloppy: false,
            verbose: false,
            namespace: None,
            // Memory that strangers could have written is no source of SUID programs and device
            // nodes, unless somebody says so.
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            remount: false,
            allow_other: None,
            uid: None,
            gid: None,
            mode: None,
            foreground: false,
            threads: None,
            frontend: Frontend::Any,
            io: IoMode::Auto,
            atime: Atime::Relative,
            nodiratime: false,
            kernel_data: Vec::new(),
        }
    }
}

impl Options {
    /// The region, as the host understands it. `label=` and `uuid=` in small letters reach us
    /// through mount(8) and fstab; the capital ones it keeps for itself, and finds block devices
    /// only.
    pub fn region(&self) -> Result<Spec> {
        for (small, capital) in [("label=", "LABEL="), ("uuid=", "UUID=")] {
            if let Some(value) = self.spec.strip_prefix(small) {
                return Spec::parse(format!("{capital}{value}"));
            }
        }
        Spec::parse(&self.spec)
    }

    /// Is the mount to be read-only?
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.flags.contains(MsFlags::MS_RDONLY)
    }
}

/// What the command line amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Mount.
    Mount(Box<Options>),
    /// `--help`
    Help,
    /// `--version`
    Version,
}

/// Most threads that make sense to ask for.
const MOST_THREADS: usize = 256;

/// Reads the command line, program name left out.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut options = Options::default();
    let mut places: Vec<OsString> = Vec::new();
    let mut lists: Vec<String> = Vec::new();
    let mut args = args.into_iter();
    let mut only_places = false;

    while let Some(arg) = args.next() {
        let text = arg.to_str().map(str::to_owned);
        match text.as_deref() {
            _ if only_places => places.push(arg),
            Some("--") => only_places = true,
            Some("-h" | "--help") => return Ok(Command::Help),
            Some("-V" | "--version") => return Ok(Command::Version),
            Some("--options") => lists.push(value("--options", None, &mut args)?),
            Some(long) if long.starts_with("--options=") => {
                lists.push(long["--options=".len()..].to_owned());
            }
            Some(long) if long.starts_with("--") => {
                return Err(Error::usage(format!("unknown option {long}"))
                    .hint("mount.rpramfs --help lists what there is"));
            }
            Some(short) if short.len() > 1 && short.starts_with('-') => {
                for (at, letter) in short.char_indices().skip(1) {
                    let rest = &short[at + letter.len_utf8()..];
                    let rest = (!rest.is_empty()).then_some(rest);
                    match letter {
                        's' => options.sloppy = true,
                        'f' => options.fake = true,
                        // There is no /etc/mtab to keep.
                        'n' => {}
                        'v' => options.verbose = true,
                        'r' => options.flags |= MsFlags::MS_RDONLY,
                        'w' => options.flags -= MsFlags::MS_RDONLY,
                        'o' => {
                            lists.push(value("-o", rest, &mut args)?);
                            break;
                        }
                        'N' => {
                            options.namespace = Some(value("-N", rest, &mut args)?.into());
                            break;
                        }
                        't' => {
                            let kind = value("-t", rest, &mut args)?;
                            if kind.split('.').next() != Some("rpramfs") && kind != "fuse.rpramfs" {
                                return Err(Error::usage(format!(
                                    "this mounts rpramfs, not \"{kind}\""
                                )));
                            }
                            if kind == "fuse.rpramfs" {
                                options.frontend = Frontend::Fuse;
                            }
                            break;
                        }
                        other => {
                            return Err(Error::usage(format!("unknown option -{other}"))
                                .hint("mount.rpramfs --help lists what there is"));
                        }
                    }
                }
            }
            _ => places.push(arg),
        }
    }

    for list in &lists {
        for option in split(list) {
            apply(&mut options, &option)?;
        }
    }

    let mut places = places.into_iter();
    match (places.next(), places.next(), places.next()) {
        (Some(spec), Some(dir), None) => {
            options.spec = spec
                .into_string()
                .map_err(|_| Error::usage("the region's name is not valid UTF-8"))?;
            options.dir = dir.into();
            Ok(Command::Mount(Box::new(options)))
        }
        (None, ..) => Err(Error::usage("which region, and where?").hint(
            "mount.rpramfs SPEC DIR, for example: mount.rpramfs 0x100000000+4G /mnt\n\
             mount.rpramfs --help says more",
        )),
        (Some(spec), None, _) => Err(Error::usage(format!(
            "where shall {} be mounted?",
            spec.to_string_lossy()
        ))
        .hint("mount.rpramfs SPEC DIR")),
        (_, _, Some(extra)) => Err(Error::usage(format!(
            "one argument too many: {}",
            extra.to_string_lossy()
        ))
        .hint("mount.rpramfs SPEC DIR [-sfnv] [-N ns] [-o options] [-t type]")),
    }
}

/// The value of a short option: the rest of the word, or the next one.
fn value(
    name: &str,
    rest: Option<&str>,
    args: &mut impl Iterator<Item = OsString>,
) -> Result<String> {
    match rest {
        Some(rest) => Ok(rest.to_owned()),
        None => args
            .next()
            .ok_or_else(|| Error::usage(format!("{name} needs a value")))?
            .into_string()
            .map_err(|_| Error::usage(format!("the value of {name} is not valid UTF-8"))),
    }
}

/// Splits an `-o` list at commas outside of double quotes.
fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            _ => {}
        }
        if c != ',' || quoted {
            if let Some(part) = parts.last_mut() {
                part.push(c);
            }
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

/// Flags of mount(2) by name: what to set, what to clear.
fn flag(name: &str) -> Option<(MsFlags, MsFlags)> {
    let none = MsFlags::empty();
    let atime = MsFlags::MS_NOATIME | MsFlags::MS_RELATIME | MsFlags::MS_STRICTATIME;
    Some(match name {
        "ro" => (MsFlags::MS_RDONLY, none),
        "rw" => (none, MsFlags::MS_RDONLY),
        "suid" => (none, MsFlags::MS_NOSUID),
        "nosuid" => (MsFlags::MS_NOSUID, none),
        "dev" => (none, MsFlags::MS_NODEV),
        "nodev" => (MsFlags::MS_NODEV, none),
        "exec" => (none, MsFlags::MS_NOEXEC),
        "noexec" => (MsFlags::MS_NOEXEC, none),
        "sync" => (MsFlags::MS_SYNCHRONOUS, none),
        "async" => (none, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (MsFlags::MS_DIRSYNC, none),
        "atime" => (none, MsFlags::MS_NOATIME),
        "noatime" => (MsFlags::MS_NOATIME, atime),
        "relatime" => (MsFlags::MS_RELATIME, atime),
        "norelatime" => (none, MsFlags::MS_RELATIME),
        "strictatime" => (MsFlags::MS_STRICTATIME, atime),
        "nostrictatime" => (none, MsFlags::MS_STRICTATIME),
        "diratime" => (none, MsFlags::MS_NODIRATIME),
        "nodiratime" => (MsFlags::MS_NODIRATIME, none),
        "symfollow" => (none, MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW)),
        "nosymfollow" => (MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW), none),
        "silent" => (MsFlags::MS_SILENT, none),
        "loud" => (none, MsFlags::MS_SILENT),
        _ => return None,
    })
}

fn apply(options: &mut Options, option: &str) -> Result<()> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    if value.is_none() {
        if let Some((set, clear)) = flag(name) {
            options.flags = (options.flags - clear) | set;
            match name {
                "noatime" => options.atime = Atime::Never,
                "strictatime" | "norelatime" => options.atime = Atime::Strict,
                "relatime" | "atime" | "nostrictatime" => options.atime = Atime::Relative,
                "diratime" => options.nodiratime = false,
                "nodiratime" => options.nodiratime = true,
                _ => {}
            }
            return Ok(());
        }
    }
    match (name, value) {
        ("defaults", None) => {
            options.flags -= MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_SYNCHRONOUS;
        }
        ("remount", None) => options.remount = true,
        ("allow_other", None) => options.allow_other = Some(true),
        ("noallow_other", None) => options.allow_other = Some(false),
        // Always in force: without it there would be no permissions at all.
        ("default_permissions", None) => {}
        ("foreground", None) => options.foreground = true,
        ("fuse", None) => options.frontend = Frontend::Fuse,
        ("kernel", None) => options.frontend = Frontend::Kernel,
        ("uid", Some(v)) => options.uid = Some(number(name, v, 10)?),
        ("gid", Some(v)) => options.gid = Some(number(name, v, 10)?),
        ("mode", Some(v)) => {
            let mode = number(name, v, 8)?;
            if mode > 0o7777 {
                return Err(Error::usage(format!("mode={v}: permissions end at 7777")));
            }
            options.mode = Some(mode);
        }
        ("threads", Some(v)) => {
            let threads = number(name, v, 10)? as usize;
            if threads == 0 || threads > MOST_THREADS {
                return Err(Error::usage(format!(
                    "threads={v}: between 1 and {MOST_THREADS}"
                )));
            }
            options.threads = Some(threads);
        }
        ("io", Some("auto")) => options.io = IoMode::Auto,
        ("io", Some("direct")) => options.io = IoMode::Direct,
        ("io", Some("cached")) => options.io = IoMode::Cached,
        ("io", v) => {
            return Err(Error::usage(format!(
                "io={}: auto, direct or cached",
                v.unwrap_or("")
            )));
        }
        ("context" | "fscontext" | "defcontext" | "rootcontext", Some(_)) => {
            options.kernel_data.push(option.to_owned());
        }
        // For fstab, systemd and mount(8) itself, not for the filesystem.
        (
            "auto" | "noauto" | "user" | "nouser" | "users" | "nousers" | "owner" | "noowner"
            | "group" | "nogroup" | "nofail" | "_netdev" | "comment" | "mand" | "nomand"
            | "lazytime" | "nolazytime" | "iversion" | "noiversion",
            _,
        ) => {}
        // What the kernel lists of a FUSE mount, as mount(8) gives it back for a remount.
        ("user_id" | "group_id" | "max_read" | "blksize", Some(_)) => {}
        (x, _) if x.starts_with("x-") || x.starts_with("X-") => {}
        _ if options.sloppy => {}
        ("uid" | "gid" | "mode" | "threads", None) => {
            return Err(Error::usage(format!("{name} needs a value: {name}=N")));
        }
        _ => {
            return Err(Error::usage(format!("unknown mount option \"{option}\""))
                .hint("mount.rpramfs --help lists what there is; -s ignores what nobody knows"));
        }
    }
    Ok(())
}

fn number(name: &str, text: &str, radix: u32) -> Result<u32> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    match u32::from_str_radix(text, radix) {
        Ok(n) if digits => Ok(n),
        _ => Err(Error::usage(format!(
            "{name}={text}: not {} number",
            if radix == 8 { "an octal" } else { "a" }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options> {
        match parse(args.iter().map(OsString::from))? {
            Command::Mount(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_mount_calls_it() {
        let o = options(&["/dev/pmem0", "/mnt", "-n", "-v", "-o", "rw,noatime"]).expect("valid");
        assert_eq!(
            (o.spec.as_str(), o.dir.to_str()),
            ("/dev/pmem0", Some("/mnt"))
        );
        assert!(o.verbose && !o.fake && !o.read_only());
        assert_eq!(o.atime, Atime::Never);
        let o = options(&["-sfnv", "-oro", "-N", "/proc/1/ns/mnt", "a", "b"]).expect("bundled");
        assert!(o.sloppy && o.fake && o.verbose && o.read_only());
        assert_eq!(o.namespace, Some("/proc/1/ns/mnt".into()));
        options(&["a", "b", "-t", "rpramfs.x"]).expect("type with subtype");
        options(&["a", "b", "-t", "ext4"]).expect_err("another type");
        let frontend = |args: &[&str]| options(args).expect("valid").frontend;
        assert_eq!(frontend(&["a", "b", "-t", "rpramfs"]), Frontend::Any);
        assert_eq!(frontend(&["a", "b", "-t", "fuse.rpramfs"]), Frontend::Fuse);
        assert_eq!(frontend(&["a", "b", "-o", "kernel"]), Frontend::Kernel);
    }

    #[test]
    fn safe_unless_asked() {
        let o = options(&["a", "b"]).expect("valid");
        assert!(o.flags.contains(MsFlags::MS_NOSUID | MsFlags::MS_NODEV));
        let o = options(&["a", "b", "-o", "defaults"]).expect("valid");
        assert!(o.flags.contains(MsFlags::MS_NOSUID | MsFlags::MS_NODEV));
        let o = options(&["a", "b", "-o", "suid,dev"]).expect("valid");
        assert!(!o.flags.intersects(MsFlags::MS_NOSUID | MsFlags::MS_NODEV));
    }

    #[test]
    fn a_remount_brings_what_the_kernel_lists() {
        let list = "remount,ro,nosuid,user_id=0,group_id=0,default_permissions,allow_other";
        let options = options(&["a", "b", "-o", list, "-t", "fuse.rpramfs"]).expect("remount");
        assert!(options.remount && options.read_only());
    }

    #[test]
    fn what_is_unknown_is_refused_unless_sloppy() {
        options(&["a", "b", "-o", "frobnicate"]).expect_err("unknown");
        options(&["a", "b", "-o", "frobnicate", "-s"]).expect("sloppy, wherever -s stands");
        options(&[
            "a",
            "b",
            "-o",
            "x-systemd.automount,_netdev,,nofail,comment=z",
        ])
        .expect("fstab");
        options(&["a", "b", "--frobnicate"]).expect_err("unknown");
        options(&["a", "b", "-z"]).expect_err("unknown");
    }

    #[test]
    fn values_are_checked() {
        let o = options(&["a", "b", "-o", "uid=5,gid=6,mode=1777,threads=3,foreground"])
            .expect("valid");
        assert_eq!((o.uid, o.gid, o.mode), (Some(5), Some(6), Some(0o1777)));
        assert_eq!((o.threads, o.foreground), (Some(3), true));
        for bad in [
            "uid",
            "uid=",
            "uid=x",
            "uid=-1",
            "uid=+1",
            "mode=8",
            "mode=77777",
            "threads=0",
            "io",
            "io=x",
            "ro=1",
        ] {
            options(&["a", "b", "-o", bad]).expect_err(bad);
        }
    }

    #[test]
    fn places_are_counted() {
        options(&[]).expect_err("none");
        options(&["a"]).expect_err("one");
        options(&["a", "b", "c"]).expect_err("three");
        let o = options(&["--", "-a", "b"]).expect("after --");
        assert_eq!(o.spec, "-a");
    }

    #[test]
    fn small_letters_reach_us_through_mount() {
        let region = |spec: &str| options(&[spec, "b"]).and_then(|o| o.region()).expect(spec);
        assert_eq!(region("label=images"), Spec::Label("images".into()));
        assert_eq!(region("LABEL=images"), Spec::Label("images".into()));
        assert_eq!(
            region("uuid=123e4567-e89b-42d3-a456-426614174000"),
            region("UUID=123e4567e89b42d3a456426614174000")
        );
        assert_eq!(region("./label=x"), Spec::Path("./label=x".into()));
    }

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(
            split(r#"ro,context="a:b,c",,rw"#),
            ["ro", r#"context="a:b,c""#, "rw"]
        );
    }
}
