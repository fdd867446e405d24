# Second stage of the test VM, in the host's root: runs the command lines that
# xtask sends. Standard output, standard error and commands have a virtio port
# each; a marker in both outputs tells the end of a command and its status.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LANG=C.UTF-8
echo overlay-vm > /proc/sys/kernel/hostname

for name in /sys/class/virtio-ports/*/name; do
    device=${name%/name}
    device=/dev/${device##*/}
    case $(< "$name") in
    xtask.commands) exec 10< "$device" ;;
    xtask.out) exec 11> "$device" ;;
    xtask.err) exec 12> "$device" ;;
    esac
done
read -r marker < /proc/cmdline
marker=${marker##*xtask.marker=}
marker=${marker%% *}
ended() {
    printf '\036%s:%d\n' "$marker" "$1" >&11
    printf '\036%s:%d\n' "$marker" "$1" >&12
}

ended 0
while IFS= read -r line <&10; do
    ( eval "$line" ) < /dev/null >&11 2>&12 9<&- 10<&- 11>&- 12>&-
    ended $?
done
echo o > /proc/sysrq-trigger
sleep 9
