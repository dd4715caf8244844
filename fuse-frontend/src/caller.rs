// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Who asks: groups and capabilities of a request's process, where the protocol does not say.

use fuser::Request;

/// CAP_FSETID of linux/capability.h.
const CAP_FSETID: u32 = 4;

/// Is the caller in `gid`, or may it set the SGID bit of files of any group? As the kernel's
/// `in_group_or_capable()`.
#[must_use]
pub fn in_group_or_capable(request: &Request, gid: u32) -> bool {
    if request.gid() == gid {
        return true;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", request.pid()));
    match status {
        Ok(status) => in_group_or_capable_by(&status, gid),
        // A process that cannot be seen from here gets no more than it must.
        Err(_) => false,
    }
}

fn in_group_or_capable_by(status: &str, gid: u32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let groups = field("Groups:").unwrap_or("");
    let capabilities = field("CapEff:")
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .unwrap_or(0);
    capabilities >> CAP_FSETID & 1 == 1
        || groups
            .split_whitespace()
            .any(|g| g.parse::<u32>() == Ok(gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_status() {
        let user = "Name:\tsh\nGid:\t5\t5\t5\t5\nGroups:\t20 30 \nCapEff:\t0000000000000000\n";
        assert!(in_group_or_capable_by(user, 30));
        assert!(
            !in_group_or_capable_by(user, 5),
            "the caller looks at the request's own group"
        );
        assert!(!in_group_or_capable_by(user, 3));
        let root = "Groups:\t\nCapEff:\t0000000000000010\n";
        assert!(in_group_or_capable_by(root, 3));
        assert!(!in_group_or_capable_by("", 0));
    }
}
