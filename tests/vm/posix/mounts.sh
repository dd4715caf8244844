# SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
# Mounts, and what is best asked with programs: mounts.sh REGION HALF OTHER-HALF. Nothing is mounted.
# Each failed line is told; the exit status is 1 if one did.

region=$1 half=$2 other=$3
failed=0
is() { # what was expected, what there is
    [ "$1" = "$2" ] || { echo "FAIL $at: '$2', not '$1'"; failed=1; }
}
ok() { "$@" || { echo "FAIL $at: $*: $?"; failed=1; }; }
not() { ! "$@" 2>/dev/null || { echo "FAIL $at: $* succeeded"; failed=1; }; }
m() { mount -i -t rpramfs "$@"; }

at=acl
ok mkfs.rpramfs -q -f "$region"
ok m "$region" /mnt
cd /mnt
echo x >f
chmod 640 f
ok setfacl -m u:one:rw,g:two:r f
is "user::rw-,user:one:rw-,group::r--,group:two:r--,mask::rw-,other::---" "$(getfacl -cp f | grep . | paste -sd,)"
is 660 "$(stat -c %a f)"
ok chmod 600 f
is "user::rw-,user:one:rw-,group::r--,group:two:r--,mask::---,other::---" \
    "$(getfacl -cpE f | grep . | paste -sd,)"
is Permission "$(su one -c 'cat /mnt/f' 2>&1 | grep -o Permission)"
ok chmod 660 f
is x "$(su one -c 'cat /mnt/f')"
mkdir d
ok setfacl -d -m u:one:rwx,g::rx,o::- d
umask 077
echo y >d/f
mkdir d/d
mkfifo d/p
ln -s f d/l
is 660 "$(stat -c %a d/f)"
is 770 "$(stat -c %a d/d)"
is 660 "$(stat -c %a d/p)"
is "user::rwx,user:one:rwx,group::r-x,mask::rwx,other::---" "$(getfacl -cdp d/d | grep . | paste -sd,)"
is y "$(su one -c 'cat /mnt/d/f' 2>&1 | grep -o y)"
umask 022
is system.posix_acl_access "$(getfattr -m - d/f 2>/dev/null | grep posix)"
ok setfacl -b f
is "user::rw-,group::r--,other::---" "$(getfacl -cp f | grep . | paste -sd,)"
ok setfacl -k d
not setfacl -d -m u:one:rwx f
not su one -c 'setfacl -m u:one:rw /mnt/f'
ok setfacl -m u:one:rw f
cd /
ok umount /mnt
ok m "$region" /mnt
is "user:one:rw-" "$(getfacl -cp /mnt/f | grep one)"
is "user:one:rwx" "$(getfacl -cp /mnt/d/f | grep -o 'user:one:rwx')"

at=freeze
ok fsfreeze -f /mnt
(echo z >/mnt/z) &
sleep 0.3
not ls /mnt/z
ok fsfreeze -u /mnt
wait
is z "$(cat /mnt/z)"

at=remount
ok mount -i -o remount,ro /mnt
not touch /mnt/n
not rm /mnt/z
ok cat /mnt/z
ok mount -i -o remount,rw /mnt
ok touch /mnt/n
exec 3>>/mnt/n
not mount -i -o remount,ro /mnt
exec 3>&-
ok mount -i -o remount,ro /mnt
ok umount /mnt
ok m -o ro "$region" /mnt
not touch /mnt/z
ok cat /mnt/z
# The same place twice is one filesystem.
mkdir -p /tmp/two
ok m -o ro "$region" /tmp/two
ok umount /tmp/two
not m -w "$region" /tmp/two
ok mount -i -o remount,rw /mnt
ok m "$region" /tmp/two
echo 2 >/tmp/two/second
is 2 "$(cat /mnt/second)"
ok umount /tmp/two
ok umount /mnt
ok fsck.rpramfs -n "$region"

# A mount while the last user of the one before goes away: one of both, never an error.
at=again
ok m "$region" /mnt
touch /mnt/held
for n in $(seq 60); do
    sleep 0.0$((n % 10)) 3</mnt/held &
    ok umount -l /mnt
    ok m "$region" /mnt
    ok umount /mnt
    ok m "$region" /mnt
done
wait
ok umount /mnt
ok fsck.rpramfs -n "$region"

at=times
old=1000000000
for how in noatime relatime strictatime; do
    ok m -o $how "$region" /mnt
    touch -d @$old /mnt/z
    touch -m /mnt/z
    cat /mnt/z >/dev/null
    sleep 0.05
    new=$(stat -c %X /mnt/z)
    case $how in
        noatime) is $old "$new" ;;
        *) [ "$new" != $old ] || { echo "FAIL $how"; failed=1; } ;;
    esac
    if [ $how = relatime ]; then
        # Later than the last change, and not a day old.
        before=$(stat -c %x /mnt/z)
        sleep 0.05
        cat /mnt/z >/dev/null
        is "$before" "$(stat -c %x /mnt/z)"
    fi
    ok umount /mnt
done
# What lazytime held back is there after an unmount, a sync and a fsync.
at=lazytime
for how in umount sync fsync remount; do
    ok m -o lazytime,strictatime "$region" /mnt
    touch -d @$old /mnt/z
    cat /mnt/z >/dev/null
    new=$(stat -c %X /mnt/z)
    [ "$new" != $old ] || { echo "FAIL $at: the access is not seen"; failed=1; }
    case $how in
        sync) sync ;;
        fsync) sync /mnt/z ;;
        remount) ok mount -i -o remount,ro /mnt ;;
    esac
    at="lazytime, $how"
    ok umount /mnt
    ok m -o noatime "$region" /mnt
    is "$new" "$(stat -c %X /mnt/z)"
    ok umount /mnt
done

at=loop
ok m "$region" /mnt
truncate -s 64M /mnt/image
ok losetup /dev/loop3 /mnt/image
ok mkfs.ext4 -q /dev/loop3
ok mount -i -t ext4 /dev/loop3 /tmp/two
dd if=/dev/urandom of=/tmp/two/file bs=1M count=20 2>/dev/null
sum=$(md5sum </tmp/two/file)
rm -f /tmp/two/none
ok fstrim /tmp/two
ok umount /tmp/two
ok losetup -d /dev/loop3
ok losetup /dev/loop3 /mnt/image
ok mount -i -t ext4 /dev/loop3 /tmp/two
is "$sum" "$(md5sum </tmp/two/file)"
ok umount /tmp/two
ok losetup -d /dev/loop3
ok e2fsck -fn /mnt/image >/dev/null 2>&1

at=overlay
mkdir /mnt/lower /mnt/upper /mnt/work
echo low >/mnt/lower/a
echo low >/mnt/lower/b
ok mount -i -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work overlay /tmp/two
dmesg | grep overlayfs && failed=1
echo up >/tmp/two/a
rm /tmp/two/b
mkdir /tmp/two/b
mv /tmp/two/a /tmp/two/c
is up "$(cat /tmp/two/c)"
is low "$(cat /mnt/lower/a)"
ok umount /tmp/two
ok umount /mnt
ok fsck.rpramfs -n "$region"

at="two regions"
ok mkfs.rpramfs -q -f "$half"
ok mkfs.rpramfs -q -f "$other"
mkdir -p /tmp/one
ok m "$half" /tmp/one
ok m "$other" /tmp/two
not m "$region" /mnt
dd if=/dev/urandom of=/tmp/one/f bs=1M count=30 2>/dev/null
ok cp /tmp/one/f /tmp/two/f
ok cmp /tmp/one/f /tmp/two/f
ok mv /tmp/one/f /tmp/two/g
ok cmp /tmp/two/g /tmp/two/f
not ln /tmp/two/g /tmp/one/g
ok umount /tmp/one
ok cmp /tmp/two/g /tmp/two/f
ok umount /tmp/two
ok fsck.rpramfs -n "$half"
ok fsck.rpramfs -n "$other"
ok mkfs.rpramfs -q -f "$region"
exit $failed
