// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The error of a tool: what, where, why, and what to do next.

use std::fmt;
use std::io;

/// Result of anything a tool does around the core.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of trouble it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line makes no sense.
    Usage,
    /// The caller may not do this (not root, lockdown).
    Permission,
    /// No such file, device, label or UUID.
    NotFound,
    /// Mounted, locked or claimed by somebody else.
    Busy,
    /// Refused because it would destroy something or is no place for a region.
    Refused,
    /// It can only be read: a file on a read-only filesystem, a write-protected device.
    WriteProtected,
    /// The operating system said no.
    System,
    /// The filesystem in the region said no.
    Filesystem(fs_core::Error),
}

/// Whose exit codes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// mkfs(8): 8 operational error, 16 usage.
    Mkfs,
    /// fsck(8): 8 operational error, 16 usage.
    Fsck,
    /// mount(8): 1 usage or permission, 2 system, 32 mount failure.
    Mount,
}

/// An error with everything a person needs to go on.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error that says what, where and why in `message`.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// A usage error.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(Kind::Usage, message)
    }

    /// An operating system error met while doing `what`.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Permission,
            _ if error.raw_os_error() == Some(libc::EBUSY) => Kind::Busy,
            _ if error.raw_os_error() == Some(libc::EROFS) => Kind::WriteProtected,
            _ => Kind::System,
        };
        // Without std's "(os error 2)", which tells people nothing.
        match error.raw_os_error().map(nix::errno::Errno::from_raw) {
            Some(errno) => Error::new(kind, format!("{what}: {}", errno.desc())),
            None => Error::new(kind, format!("{what}: {error}")),
        }
    }

    /// An error of the core, met while doing `what`.
    #[must_use]
    pub fn core(what: impl fmt::Display, error: fs_core::Error) -> Self {
        let kind = match error {
            fs_core::Error::Busy => Kind::Busy,
            e => Kind::Filesystem(e),
        };
        Error::new(kind, format!("{what}: {error}"))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What sort of trouble it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do next, if there is something to say.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit status that `program` has for this error; the numbers are those of mkfs(8),
    /// fsck(8) and mount(8).
    #[must_use]
    pub const fn exit_code(&self, program: Program) -> u8 {
        match (program, self.kind) {
            (Program::Mkfs | Program::Fsck, Kind::Usage) => 16,
            (Program::Mkfs | Program::Fsck, _) => 8,
            (Program::Mount, Kind::Usage | Kind::Permission) => 1,
            (Program::Mount, Kind::System) => 2,
            (Program::Mount, _) => 32,
        }
    }
}

impl fmt::Display for Error {
    /// The message, and on lines of its own what to do next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            for line in hint.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_manual_pages() {
        let usage = Error::usage("x");
        assert_eq!(usage.exit_code(Program::Mkfs), 16);
        assert_eq!(usage.exit_code(Program::Fsck), 16);
        assert_eq!(usage.exit_code(Program::Mount), 1);
        let busy = Error::core("mount", fs_core::Error::Busy);
        assert_eq!(busy.kind(), Kind::Busy);
        assert_eq!(busy.exit_code(Program::Mkfs), 8);
        assert_eq!(busy.exit_code(Program::Mount), 32);
        let io = Error::io("open x", &io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(io.exit_code(Program::Mount), 2);
    }

    #[test]
    fn hints_stand_on_lines_of_their_own() {
        let e = Error::usage("no").hint("try this\nor that");
        assert_eq!(e.to_string(), "no\n  try this\n  or that");
    }
}
