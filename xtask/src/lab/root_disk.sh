# SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
# Makes a fresh Debian tree, $1, a guest of the lab. Packages are as installed; only what costs time at every
# boot, or does things nobody asked for, is taken out.
set -eu
root=$1

# One machine, also after a kexec; without it every boot would be a first one.
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
echo lab > "$root/etc/hostname"
printf '127.0.0.1 localhost lab\n::1 localhost\n' > "$root/etc/hosts"
: > "$root/etc/fstab"
: > "$root/etc/resolv.conf"
chroot "$root" passwd -q -d root

# Installed, but started only when asked.
chroot "$root" systemctl -q disable mariadb memcached nginx nftables redis-server

# Unlike graphical.target it waits for nothing more.
chroot "$root" systemctl -q set-default multi-user.target

mask() {
    for unit in "$@"; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
}

# Nobody sits at the console, which is a log.
mask getty.target serial-getty@ttyS0.service getty-static.service systemd-ask-password.socket \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-mute-console.socket \
    systemd-user-sessions.service
# Work in the background spoils measurements.
mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-tmpfiles-clean.timer
# For hardware, images and credentials that a guest does not have.
mask imports.target modprobe@configfs.service modprobe@drm.service proc-sys-fs-binfmt_misc.automount \
    sys-kernel-config.mount systemd-binfmt.service systemd-creds.socket systemd-factory-reset.socket \
    systemd-hibernate-clear.service systemd-pstore.service systemd-sysext.socket systemd-sysinstall.socket \
    systemd-udev-load-credentials.service
# A guest does without, and each costs a process or two at every boot.
mask dev-hugepages.mount sys-fs-fuse-connections.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-hostnamed.socket systemd-journal-flush.service systemd-journalctl.socket \
    systemd-random-seed.service systemd-remount-fs.service
# Done already, in the tree.
mask ldconfig.service systemd-firstboot.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service systemd-machine-id-commit.service systemd-sysusers.service \
    systemd-update-done.service
# Generators run at every boot before anything else does; of these none would make a unit.
mkdir -p "$root/etc/systemd/system-generators"
for generator in debug factory-reset getty gpt-auto hibernate-resume run ssh system-update; do
    ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done

# The log is for whoever asks this guest, not for the next.
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' > "$root/etc/systemd/journald.conf.d/lab.conf"

rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
