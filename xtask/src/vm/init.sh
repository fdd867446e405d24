#!/bin/dash
# First process of the test VM: mounts the host's root below a tmpfs and goes on
# there. Whatever fails here is said on the console, and ends the VM.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
fail() { echo "xtask: $*"; echo o > /proc/sysrq-trigger; sleep 9; }

mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
mount -n -t devtmpfs devtmpfs /dev
read -r cmdline < /proc/cmdline
case " $cmdline " in
*" xtask.probe "*) echo "xtask: probe ok"; fail "probe done" ;;
esac

modprobe -a virtio_pci virtio_console virtiofs overlay || fail "cannot load the VM's own modules"
mount -n -t virtiofs -o ro root /host || fail "cannot mount the host's root"
mount -n -t tmpfs tmpfs /above
mkdir /above/upper /above/work
mount -n -t overlay -o lowerdir=/host,upperdir=/above/upper,workdir=/above/work overlay /new ||
    fail "cannot put a tmpfs over the host's root"

mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp
mount -n --move /proc /new/proc
mount -n --move /sys /new/sys
mount -n --move /dev /new/dev
mount -n -t tmpfs -o mode=755 tmpfs /new/run
mount -n -t tmpfs -o mode=1777 tmpfs /new/tmp
# Read-only, for bind mounts of what a tmpfs covers.
mkdir -p /new/run/host
mount -n --move /host /new/run/host
cp /guest.sh /new/run/guest.sh
exec switch_root /new /bin/bash /run/guest.sh
