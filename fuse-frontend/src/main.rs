// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! mount.rpramfs(8), as mount(8) calls it or a person.

use fs_core::Region as _;
use fuse_frontend::module::{self, Choice};
use fuse_frontend::options::{Command, Options};
use fuse_frontend::{daemon, logging, mountpoint, options, session};
use host::{Access, Error, Kind, Program, Result, UserHost};
use std::process::ExitCode;

const HELP: &str = include_str!("help.txt");

fn main() -> ExitCode {
    logging::start(false);
    let result = options::parse(std::env::args_os().skip(1)).and_then(|command| match command {
        Command::Help => {
            print!("{HELP}");
            Ok(0)
        }
        Command::Version => {
            println!("mount.rpramfs {}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
        Command::Mount(mut options) => {
            logging::start(options.verbose);
            mount(&mut options)
        }
    });
    match result {
        Ok(code) => code.into(),
        Err(e) => {
            log::error!("{e}");
            e.exit_code(Program::Mount).into()
        }
    }
}

fn mount(options: &mut Options) -> Result<u8> {
    if options.remount {
        mountpoint::require_ours(&options.dir)?;
        if !options.fake {
            mountpoint::remount(&options.dir, options.flags)?;
        }
        return Ok(0);
    }
    let shown = options.dir.display().to_string();
    options.dir = options
        .dir
        .canonicalize()
        .map_err(|e| Error::io(format!("mount point {shown}"), &e))?;
    if !options.dir.is_dir() {
        return Err(Error::new(
            Kind::NotFound,
            format!("mount point {shown}: is not a directory"),
        ));
    }
    if options.fake {
        return pretend(options);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(Kind::Permission, "only root may mount")
            .hint("sudo mount -t rpramfs SPEC DIR, or a \"user\" entry in /etc/fstab"));
    }
    if daemon::is_daemon() {
        return Ok(daemon::run(options));
    }
    let why = match module::choose(options)? {
        Choice::Module(range) => return module::mount(options, range).map(|()| 0),
        Choice::Device(device) => return module::mount_device(options, device).map(|()| 0),
        Choice::Nobody => {
            let (spec, dir) = (&options.spec, options.dir.display());
            log::warn!("{spec}: its memory is mounted on {dir} already");
            return Ok(0);
        }
        Choice::Fuse(why) => why,
    };
    let mounted = || log::info!("mounted through FUSE: {why}");
    if options.foreground {
        return match session::run(options, mounted) {
            Err(e) => Err(e),
            Ok(never) => match never {},
        };
    }
    let code = daemon::start()?;
    if code == 0 {
        mounted();
    }
    Ok(code)
}

/// `-f`: everything but the mount.
fn pretend(options: &Options) -> Result<u8> {
    let by = match module::choose(options)? {
        Choice::Module(_) => "by the kernel module".to_owned(),
        Choice::Nobody => "anew, as it is mounted there already".to_owned(),
        Choice::Device(device) => {
            format!("by the kernel module, taken from {}", device.driver())
        }
        Choice::Fuse(why) => format!("through FUSE: {why}"),
    };
    let spec = host::resolve::resolve(&options.region()?)?;
    let region = host::open(&spec, Access::Inspect)?;
    let info = fs_core::probe(&region, &UserHost::new())
        .map_err(|e| Error::core(format!("cannot mount {spec}"), e))?;
    log::info!(
        "{spec}: {}, label \"{}\", UUID {}, would be mounted on {} {by}",
        host::size::human(region.len()),
        host::resolve::label(&info),
        host::uuid::format(&info.uuid),
        options.dir.display()
    );
    Ok(0)
}
