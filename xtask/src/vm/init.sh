#!/bin/dash
# First process of the test VM: mounts the host's root below a tmpfs and goes on
# there. Emulated, every process started here costs up to 0.1 s, hence tables of
# mounts instead of one `mount` for each.
export PATH=/bin
fail() { echo "xtask: $*"; echo o > /proc/sysrq-trigger; sleep 9; }

mount -a -T /first.fstab
read -r cmdline < /proc/cmdline
case " $cmdline " in
*" xtask.probe "*) echo "xtask: probe ok"; fail "probe done" ;;
esac
modprobe -a virtio_pci virtio_console virtiofs overlay || fail "cannot load the VM's own modules"
mount -a -T /host.fstab || fail "cannot mount the host's root"
mkdir /above/upper /above/work
mount -a -T /new.fstab || fail "cannot put a tmpfs over the host's root"
cp -P /links/* /dev
# The script is read by its descriptor: the initramfs goes away.
exec 9< /guest.sh
exec switch_root /new /bin/bash /proc/self/fd/9 9
