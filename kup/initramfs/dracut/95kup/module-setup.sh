#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
# For dracut.modules(7): to be /usr/lib/dracut/modules.d/95kup/, with hold.sh beside it.

# The region is the one that the system mounts.
region() {
    awk '$1 !~ /^#/ && $3 == "rpramfs" { print $1; exit }' /etc/fstab
}

check() {
    require_binaries kup mount.rpramfs nft || return 1
    [[ $(region) ]] || return 255
}

installkernel() {
    # Where there is no module, FUSE will do.
    instmods nf_tables rpramfs fuse
}

install() {
    region > "${initdir:?}/etc/kup-region"
    inst_multiple mkdir modprobe umount
    inst_multiple /usr/sbin/kup /usr/sbin/mount.rpramfs /usr/sbin/nft /usr/lib/kup/initramfs-hold
    # Before udev tells anyone of the network.
    inst_hook pre-trigger 05 "${moddir:?}/hold.sh"
}
