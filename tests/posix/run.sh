#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
#
# Judges nobody here wrote, on a fresh FUSE mount each: tests/posix/run.sh SUITE...
# Needs root, /dev/fuse, and for the first run the network. What is missing is installed: programs
# of crates.io below target/tools, others from Debian. Ends with 0 if every suite passed; each
# prints one line "posix: NAME: ok|FAILED: counts (seconds)".
#
# RPRAMFS_OPTIONS   mount options for every suite ("io=cached", say)
# RPRAMFS_PLACE     directory for regions (default: /dev/shm if it is there, else target/)
# RPRAMFS_PROFILE   cargo profile of the programs under test (default: release)
# POSIX_TMPFS=1     judge a tmpfs instead, to tell our faults from the suite's

set -euo pipefail
# Files and directories that a suite finds must not depend on who runs it.
umask 022
export LC_ALL=C

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/tests/posix
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
profile=${RPRAMFS_PROFILE:-release}
place=${RPRAMFS_PLACE:-}

# Name, seconds it takes on 2 cores once everything is installed, what it is.
suites() {
    cat <<'LIST'
quick        60   pjdfstest, fsx with 3 seeds, fio, sparse, sqlite
all         500   everything below
pjdfstest    15   POSIX system calls, one by one
fsx         200   20 seeds of 20000 random operations on one file, twice
stress-ng    70   every stressor of class "filesystem", with --verify
fio          40   random writes read back by checksum: psync, direct, mmap, libaio
dbench       15   a file server's load
fs_mark       5   5000 files by 2 threads
git          10   clone, checkout and fsck of this repository
sqlite       20   integrity after the daemon was killed in mid-transaction
sparse        5   pages at 0, 16 TiB and 2^47-4096: what they cost, SEEK_DATA/HOLE, cp --sparse
churn        10   8 threads create, write, rename, link, unlink
mount         5   mount(8), umount(8), fstab, findmnt
LIST
}

usage() {
    echo "Usage: $0 SUITE..."
    suites | while read -r name seconds what; do
        printf '  %-10s %4s s  %s\n' "$name" "$seconds" "$what"
    done
}

die() {
    echo "posix: $*" >&2
    exit 2
}

# ---- what is needed --------------------------------------------------------------------------

# package for each command
debian() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} -eq 0 ] && return
    echo "posix: installing ${missing[*]}" >&2
    apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        { apt-get update >/dev/null && apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null; }
}

crate() { # name version
    if ! "$tools/bin/$1" --version 2>/dev/null | grep -q " $2"; then
        echo "posix: building $1 $2" >&2
        cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" "$1@$2"
    fi
    # Tests run as other users, who must be able to get at it.
    [ -x "$tools/bin/$1" ] || die "$1 was not built"
}

build() {
    (cd "$root" && cargo build --quiet --profile "$profile" -p mkfs -p fsck -p fuse-frontend)
    mkfs=$target/$profile/mkfs-rpramfs
    fsck=$target/$profile/fsck-rpramfs
    mounter=$target/$profile/mount-rpramfs
}

# ---- mounts ----------------------------------------------------------------------------------

work=
mnt=
image=

new_mount() { # size [options]
    work=$(mktemp -d "$place/rpramfs-posix.XXXXXX")
    chmod 755 "$work"
    mnt=$work/mnt
    image=$work/region
    mkdir "$mnt"
    if [ -n "${POSIX_TMPFS:-}" ]; then
        mount -t tmpfs -o "size=$1" tmpfs "$mnt"
        return
    fi
    truncate -s "$1" "$image"
    "$mkfs" -q "$image"
    options=${2:-}${2:+,}${RPRAMFS_OPTIONS:-}
    remount
}

remount() {
    "$mounter" "$image" "$mnt" ${options:+-o "$options"}
}

# Process id of the daemon that serves $image.
daemon() {
    local dir
    for dir in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$dir/cmdline" | { read -r name && [ "$name" = @mount.rpramfs ] && grep -qxF "$image"; }; then
            echo "${dir#/proc/}"
            return
        fi
    done
    return 1
}

no_daemon() {
    local n
    for n in $(seq 500); do
        daemon >/dev/null || return 0
        sleep 0.02
    done
    die "the daemon of $image does not end"
}

end_mount() {
    [ -n "$work" ] || return 0
    umount "$mnt" 2>/dev/null || umount -l "$mnt" 2>/dev/null || true
    if [ -z "${POSIX_TMPFS:-}" ]; then
        no_daemon
    fi
    rm -rf "$work"
    work=
}

# After every suite: the filesystem must be clean.
check() {
    [ -n "${POSIX_TMPFS:-}" ] && return 0
    umount "$mnt"
    no_daemon
    "$fsck" -n -f "$image" >"$work/fsck" 2>&1 || {
        cat "$work/fsck" >&2
        return 1
    }
}

# ---- suites: each leaves its counts in $counts ---------------------------------------------------

counts=

suite_pjdfstest() {
    debian setfacl acl
    crate pjdfstest 0.2.2
    # Other users must reach the program.
    install -D -m 755 "$tools/bin/pjdfstest" "$place/rpramfs-tools/pjdfstest"
    new_mount 256M suid,dev
    local second=$work/second result=0
    mkdir "$second"
    mount -t tmpfs -o size=16M tmpfs "$second"
    sed 's/^allow_remount = false/allow_remount = true/' "$here/pjdfstest.toml" >"$work/erofs.toml"
    local pjd=("$place/rpramfs-tools/pjdfstest" -p "$mnt" -s "$second")
    "${pjd[@]}" -c "$here/pjdfstest.toml" >"$work/log" 2>&1 || result=1
    "${pjd[@]}" -c "$work/erofs.toml" erofs >"$work/erofs" 2>&1 || result=1
    umount "$second"
    rm -r "$place/rpramfs-tools"
    counts="$(grep -h ^Summary "$work/log"); EROFS alone: $(grep -h ^Summary "$work/erofs")"
    if [ $result -ne 0 ]; then
        grep -ahE -A3 'FAILED|^Error' "$work/log" "$work/erofs" | head -60 >&2
        return 1
    fi
    check
}

fsx_once() { # config seed
    local more=()
    [ "$1" = full ] && more=(-f "$here/fsx.toml")
    "$tools/bin/fsx" -q -q -N 20000 -S "$2" -P "$work" "${more[@]}" "$mnt/$1-$2" >"$work/$1.log" 2>&1
}

suite_fsx() {
    crate fsx 0.3.2
    new_mount 256M
    local seed config jobs bad=0 n=0
    for seed in $(seq 1 "${1:-20}"); do
        # Its standard operations, and beside them all it knows.
        fsx_once default "$seed" &
        jobs=("default $!")
        fsx_once full "$seed" &
        jobs+=("full $!")
        for config in "${jobs[@]}"; do
            n=$((n + 1))
            if ! wait "${config#* }"; then
                bad=$((bad + 1))
                config=${config% *}
                echo "posix: fsx: seed $seed, $config operations:" >&2
                tail -20 "$work/$config.log" >&2
            fi
        done
        rm -f "$mnt"/*
    done
    counts="$n runs of 20000 operations, $bad failed"
    [ $bad -eq 0 ] && check
}

suite_stress-ng() {
    debian stress-ng stress-ng
    # Some stressors want a file of 1 GiB and skip themselves where there is less room.
    new_mount 4G
    local result=0
    stress-ng --class filesystem --sequential 1 -t 1 --verify --temp-path "$mnt" \
        --oomable --no-rand-seed >"$work/log" 2>&1 || result=$?
    local all skipped
    all=$(grep -o 'dispatching hogs: .*' "$work/log" | tr ',' '\n' | wc -l)
    skipped=$(sed -nE 's/.*(\] |\()([a-z-]+)(: .*skipping.*|\) aborted early.*)/\2/p' "$work/log" | sort -u | tr '\n' ' ')
    counts="$all stressors, status $result; not possible here: ${skipped:-none}"
    # 3 and 4: a stressor asks for something this machine does not have, and was left out.
    case $result in
        0 | 3 | 4) ;;
        *) result=failed ;;
    esac
    if [ $result = failed ] || grep -q 'stress-ng: fail' "$work/log"; then
        grep -E 'fail|error' "$work/log" | head -40 >&2
        return 1
    fi
    check
}

suite_fio() {
    debian fio fio
    new_mount 1G
    local engine n=0
    for engine in "psync 0" "psync 1" "mmap 0" "libaio 1" "libaio 0" "pvsync2 0"; do
        # shellcheck disable=SC2086
        set -- $engine
        local queue=1
        [ "$1" = libaio ] && queue=16
        # --serialize_overlap: two writes of one block in flight have no defined winner.
        fio --name=verify --directory="$mnt" --ioengine="$1" --direct="$2" --iodepth=$queue \
            --rw=randwrite --bs=4k --size=64M --numjobs=2 --verify=crc32c --verify_fatal=1 \
            --do_verify=1 --serialize_overlap=1 --group_reporting --output="$work/log" || {
            cat "$work/log" >&2
            counts="$1, direct=$2"
            return 1
        }
        n=$((n + 1))
        rm -f "$mnt"/verify.*
    done
    fio --name=mixed --directory="$mnt" --ioengine=psync --rw=randrw --bssplit=512/20:4k/40:7k/20:1m/20 \
        --bs_unaligned=1 --size=96M --numjobs=2 --verify=crc32c --verify_fatal=1 --group_reporting \
        --output="$work/log" || {
        cat "$work/log" >&2
        counts="mixed sizes"
        return 1
    }
    counts="$((n + 1)) jobs verified"
    check
}

suite_dbench() {
    debian dbench dbench
    new_mount 1G
    dbench -D "$mnt" -t 10 -c /usr/share/dbench/client.txt 4 >"$work/log" 2>&1 || {
        tail -20 "$work/log" >&2
        return 1
    }
    counts=$(grep Throughput "$work/log")
    check
}

suite_fs_mark() {
    debian fs_mark fsmark
    new_mount 512M
    (cd "$work" && fs_mark -d "$mnt" -n 5000 -s 4096 -S 0 -t 2 -L 1) >"$work/log" 2>&1 || {
        tail -20 "$work/log" >&2
        return 1
    }
    counts="$(tail -1 "$work/log" | awk '{print $4}') files/s"
    check
}

suite_git() {
    debian git git
    new_mount 1G
    local source=$root
    if ! git -C "$root" rev-parse HEAD >/dev/null 2>&1; then
        # A source archive: make a repository of it.
        source=$work/source
        mkdir "$source"
        (cd "$root" && tar cf - --exclude=./target --exclude=./.git .) | tar xf - -C "$source"
        git -C "$source" init -q
        git -C "$source" add -A
        git -C "$source" -c user.name=x -c user.email=x commit -qm x
    fi
    local git=(git -c safe.directory='*' -c gc.auto=0)
    "${git[@]}" clone -q --no-local --no-hardlinks "$source" "$mnt/a"
    "${git[@]}" clone -q "$mnt/a" "$mnt/b"
    "${git[@]}" -C "$mnt/b" fsck --full --strict >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        return 1
    }
    "${git[@]}" -C "$mnt/b" repack -qad
    "${git[@]}" -C "$mnt/b" gc -q --aggressive --prune=now
    "${git[@]}" -C "$mnt/b" fsck --full
    "${git[@]}" -C "$mnt/b" status --porcelain >"$work/status"
    [ ! -s "$work/status" ] || { cat "$work/status" >&2; return 1; }
    diff -r --exclude=.git "$mnt/a" "$mnt/b"
    counts="$("${git[@]}" -C "$mnt/b" count-objects -v | awk '/in-pack/ {print $2}') objects, $(find "$mnt/b" -type f | wc -l) files"
    check
}

suite_sqlite() {
    debian sqlite3 sqlite3
    local journal rounds=0 acknowledged=0
    for journal in delete truncate wal; do
        new_mount 256M
        sqlite3 "$mnt/db" "PRAGMA journal_mode=$journal; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB, s INTEGER);" >/dev/null
        local round
        for round in 1 2 3; do
            rounds=$((rounds + 1))
            # Each commit is told of outside the mount, so that what was promised is known.
            (
                n=$(sqlite3 "$mnt/db" "SELECT coalesce(max(id), 0) FROM t")
                while :; do
                    n=$((n + 1))
                    echo "BEGIN; INSERT INTO t VALUES($n, randomblob(3000), $n); UPDATE t SET s = s + 1 WHERE id % 7 = $n % 7; COMMIT; SELECT $n;"
                done | sqlite3 -bail "$mnt/db" >>"$work/committed" 2>/dev/null
            ) 2>/dev/null &
            local load=$!
            sleep 1
            kill -9 "$(daemon)"
            wait $load 2>/dev/null || true
            no_daemon
            umount -l "$mnt"
            remount
            local verdict last have
            verdict=$(sqlite3 "$mnt/db" "PRAGMA integrity_check")
            last=$(tail -1 "$work/committed")
            have=$(sqlite3 "$mnt/db" "SELECT max(id) FROM t")
            if [ "$verdict" != ok ] || [ "$have" -lt "${last:-0}" ]; then
                echo "posix: sqlite: $journal, round $round: $verdict; committed $last, found $have" >&2
                return 1
            fi
        done
        acknowledged=$((acknowledged + have))
        check
        end_mount
    done
    counts="$rounds kills, $acknowledged transactions, none lost"
}

cargo_tests() { # filter...
    (cd "$root" && cargo test --quiet -p fuse-frontend --test mount -- "$@") >"$place/rpramfs-log.$$" 2>&1 || {
        cat "$place/rpramfs-log.$$" >&2
        rm -f "$place/rpramfs-log.$$"
        return 1
    }
    counts=$(grep -oE '[0-9]+ passed; [0-9]+ failed' "$place/rpramfs-log.$$")
    rm -f "$place/rpramfs-log.$$"
}

suite_sparse() { cargo_tests sparse largest_offset fallocate; }
suite_churn() { cargo_tests load::; }

suite_mount() {
    new_mount 64M
    umount "$mnt"
    no_daemon
    # The helper appears in /sbin for this test's processes only.
    mkdir "$work/sbin"
    ln -s "$mounter" "$work/sbin/mount.rpramfs"
    sbin=$(readlink -f /sbin)
    printf '%s %s rpramfs noauto,noatime,x-test.x,_netdev,nofail 0 0\n' "$image" "$mnt" >"$work/fstab"
    export image mnt work sbin
    unshare -m bash -euo pipefail -c '
        mount --make-rprivate /
        mount -t overlay -o "lowerdir=$work/sbin:$sbin" overlay "$sbin"
        fail() { echo "posix: mount: $*" >&2; exit 1; }
        mount -t rpramfs "$image" "$mnt"
        [ "$(findmnt -no SOURCE,FSTYPE "$mnt" | tr -s " ")" = "$image fuse.rpramfs" ] || fail findmnt
        echo x >"$mnt/f"
        umount "$mnt"
        mount -t rpramfs -o ro,noexec "$image" "$mnt"
        ! echo y 2>/dev/null >"$mnt/f" || fail "ro"
        umount "$mnt"
        mount --fstab "$work/fstab" "$mnt"
        findmnt -no OPTIONS "$mnt" | grep -q noatime || fail fstab
        [ "$(cat "$mnt/f")" = x ] || fail "contents"
        mount -t rpramfs -o remount,ro "$image" "$mnt"
        ! echo y 2>/dev/null >"$mnt/f" || fail "remount"
        umount "$mnt"
        code=0
        mount -t rpramfs -o nonsense "$image" "$mnt" 2>/dev/null || code=$?
        [ $code = 1 ] || fail "exit code $code for an unknown option"
        mount -s -t rpramfs -o nonsense "$image" "$mnt"
        umount "$mnt"
        code=0
        mount -t rpramfs /no/such/region "$mnt" 2>/dev/null || code=$?
        [ $code = 32 ] || fail "exit code $code for no region"
        code=0
        mount -t rpramfs label=no-such-label "$mnt" 2>"$work/err" || code=$?
        [ $code = 32 ] && grep -q "mount.rpramfs.*no-such-label" "$work/err" || fail "label="
    '
    counts="mount, umount, fstab, remount, findmnt, exit codes"
}

# ---- all of them -----------------------------------------------------------------------------

[ $# -gt 0 ] || { usage; exit 2; }
case " $* " in
    *" -h "* | *" --help "*) usage; exit 0 ;;
    *" --list "*) suites; exit 0 ;;
esac
[ "$(id -u)" = 0 ] || die "needs root"
[ -c /dev/fuse ] || die "needs /dev/fuse (modprobe fuse)"
if [ -z "$place" ]; then
    if [ -d /dev/shm ]; then place=/dev/shm; else place=$target; fi
fi
build

wanted=()
for name in "$@"; do
    case $name in
        all) wanted+=(pjdfstest fsx stress-ng fio dbench fs_mark git sqlite sparse churn mount) ;;
        quick) wanted+=(pjdfstest "fsx 3" fio sparse sqlite) ;;
        *)
            declare -F "suite_${name%% *}" >/dev/null || die "no suite \"$name\"; $0 --help"
            wanted+=("$name")
            ;;
    esac
done

failed=0
for suite in "${wanted[@]}"; do
    counts=
    start=$(date +%s%N)
    log=$(mktemp "$place/rpramfs-posix-log.XXXXXX")
    # A subshell with its own errexit: "if suite" would switch it off inside.
    set +e
    (
        set -e
        trap 'echo "$counts" >"$log"; end_mount' EXIT
        # shellcheck disable=SC2086
        suite_$suite
    )
    status=$?
    set -e
    seconds=$(awk -v s="$start" -v e="$(date +%s%N)" 'BEGIN { printf "%.1f", (e - s) / 1e9 }')
    if [ $status -eq 0 ]; then
        echo "posix: $suite: ok: $(cat "$log") ($seconds s)"
    else
        echo "posix: $suite: FAILED: $(cat "$log") ($seconds s)"
        failed=$((failed + 1))
    fi
    rm -f "$log"
done
[ $failed -eq 0 ] || { echo "posix: $failed of ${#wanted[@]} suites failed"; exit 1; }
