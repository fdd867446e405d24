# Second stage of the test VM, in the host's root: runs the command lines that
# xtask sends. Standard output, standard error and commands have a virtio port
# each; a marker in both outputs tells the end of a command and its status.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=${TERM:-dumb} LANG=C.UTF-8
cd /

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
echo overlay-vm > /proc/sys/kernel/hostname

port() {
    local name
    for name in /sys/class/virtio-ports/*/name; do
        if [ "$(< "$name")" = "$1" ]; then
            name=${name%/name}
            echo "/dev/${name##*/}"
            return
        fi
    done
    echo "xtask: no virtio port $1" >&2
}
exec 7< "$(port xtask.commands)" 8> "$(port xtask.out)" 9> "$(port xtask.err)"
marker=$(sed -n 's/.*xtask\.marker=\([0-9a-f]*\).*/\1/p' /proc/cmdline)
ended() {
    printf '\036%s:%d\n' "$marker" "$1" >&8
    printf '\036%s:%d\n' "$marker" "$1" >&9
}

ended 0
while IFS= read -r line <&7; do
    ( eval "$line" ) < /dev/null >&8 2>&9 7<&- 8>&- 9>&-
    ended $?
done
echo o > /proc/sysrq-trigger
sleep 9
