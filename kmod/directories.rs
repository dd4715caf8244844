// SPDX-License-Identifier: GPL-2.0
//! Directories read from one end to the other.

use crate::errno::Result;
use crate::vfs::file::Stream;

/// "." is at position 0, ".." at 1.
const DOTS: u64 = 2;

/// Emits entries from the stream's position on. A position behind the dots is the cookie of the entry
/// before it.
pub(crate) fn read(stream: &mut Stream<'_>) -> Result {
    let dir = stream.dir();
    if stream.position() < DOTS && !stream.emit_dots() {
        return Ok(());
    }
    let cookie = match stream.position() {
        DOTS => 0,
        cookie => cookie,
    };
    // What the caller's memory is mapped from may be a file here, but no directory: a page fault takes
    // other locks than this.
    let _meta = dir.meta_shared();
    dir.mount().fs().readdir(dir.ino(), cookie, &mut |entry| {
        let room = stream.emit(entry.name, entry.ino, entry.kind);
        if room {
            stream.set_position(entry.cookie);
        }
        room
    })?;
    Ok(())
}
