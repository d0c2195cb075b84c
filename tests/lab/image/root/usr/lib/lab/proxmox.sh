# shellcheck shell=sh
# What the stand-ins for pct and vzdump share. Shell, because Perl and Python are slow in an emulated machine.

lab=/usr/lib/lab
newline='
'

die() {
    printf '%s\n' "$*" >&2
    exit 255
}

config_of() { echo "/etc/pve/lxc/$1.conf"; }

need_config() {
    case $1 in
        '' | *[!0-9]*) die "400 Parameter verification failed.${newline}vmid: type check ('integer') failed - got '$1'" ;;
    esac
    [ -e "$(config_of "$1")" ] || die "Configuration file 'nodes/$(uname -n)/lxc/$1.conf' does not exist"
}

# get VMID KEY: of the configuration itself.
get() { sed -n "/^\[/q; s/^$2: *//p" "$(config_of "$1")"; }

# section VMID [SNAPSHOT]
section() { awk -v want="${2-}" '/^\[/ { now = substr($0, 2, index($0, "]") - 2); next } now == want && NF' "$(config_of "$1")"; }

# edit VMID EDIT...: see config.awk; replaces the file at once, as a write to /etc/pve does.
edit() {
    file=$(config_of "$1")
    shift
    edits=
    for one; do edits=$edits$newline$one; done
    EDITS=$edits awk -f $lab/config.awk "$file" >"$file.tmp.$$" && mv "$file.tmp.$$" "$file"
}

# locked VMID COMMAND...: under the file lock of the container. Within such a command it is held already.
locked() {
    lock=/run/lock/lxc/pve-config-$1.lock
    shift
    if [ -n "${held-}" ]; then
        "$@"
        return
    fi
    mkdir -p /run/lock/lxc
    (
        if ! flock -n 9; then
            echo 'trying to acquire lock...' >&2
            flock -w 10 9 || die "can't lock file '$lock' - got timeout"
            echo ' OK' >&2
        fi
        held=1
        "$@"
    ) 9>>"$lock"
}

check_lock() {
    has=$(get "$1" lock)
    [ -z "$has" ] || die "CT is locked ($has)"
}

set_lock() {
    check_lock "$1"
    edit "$1" "set lock $2"
}

remove_lock() {
    has=$(get "$1" lock)
    [ -n "$has" ] || die "no lock found trying to remove ${2:-any} lock"
    case $has in "${2:-$has}") ;; *) die "found lock '$has' trying to remove '$2' lock" ;; esac
    edit "$1" "unset lock"
}

# As Proxmox sees it: LXC's command socket is there.
running() { grep -q "@/var/lib/lxc/$1/command\$" /proc/net/unix; }

# The volumes of a configuration, one "KEY VOLUME MOUNTPOINT" a line, the root first. Binds are none.
volumes() {
    section "$1" "${2-}" | awk '
        /^(rootfs|mp[0-9]+): / {
            key = substr($1, 1, length($1) - 1)
            n = split($2, part, ",")
            sub(/^volume=/, "", part[1])
            at = key == "rootfs" ? "/" : "?"
            for (i = 2; i <= n; i++) if (part[i] ~ /^mp=/) at = substr(part[i], 4)
            if (part[1] ~ /^[a-z][a-zA-Z0-9_.-]*:/)
                print (key == "rootfs" ? -1 : substr(key, 3)), key, part[1], at
        }' | sort -n | cut -d ' ' -f 2-
}

# The dataset of a volume.
dataset() {
    pool=$(awk -v id="${1%%:*}" '/^zfspool: / { on = $2 == id; next } /^[a-z]/ { on = 0 } on && $1 == "pool" { print $2 }' \
        /etc/pve/storage.cfg)
    [ -n "$pool" ] || die "storage '${1%%:*}' does not exist"
    echo "$pool/${1#*:}"
}

# Whether a volume belongs to the backup: the root always, a mount point only with backup=1.
in_backup() { [ "$2" = rootfs ] || section "$1" "${3-}" | grep -q "^$2: .*backup=1"; }

zfs_or_die() {
    message=$(zfs "$@" 2>&1) || die "zfs error: $message"
}

# What is mounted, by its dataset.
mount_volumes() {
    volumes "$1" | while read -r _ volume _; do
        name=$(dataset "$volume") || exit
        [ "$(zfs get -H -o value mounted "$name")" = yes ] || zfs_or_die mount "$name"
    done
}

start_container() {
    mount_volumes "$1" || exit
    $lab/write-lxc-config "$1" || exit
    [ -z "${skiplock-}" ] || { mkdir -p /run/lxc && : >"/run/lxc/skiplock-$1"; }
    mkdir -p /run/pve
    # Not with the lock, which would be held as long as the container runs.
    if ! lxc-start -n "$1" -l ERROR -o "/run/pve/ct-$1.log" 9>&-; then
        rm -f "/run/lxc/skiplock-$1"
        cat "/run/pve/ct-$1.log" >&2
        die "startup for container '$1' failed"
    fi
}

stop_container() {
    id=$1
    shift
    lxc-stop -n "$id" "$@" >/dev/null 9>&- || true
    tries=100
    while running "$id"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || die "container did not stop"
        sleep 0.1
    done
}

# ------------------------------------------------------------------------------------------------------- snapshots

# snapshot_create VMID NAME [DESCRIPTION]
snapshot_create() {
    locked "$1" snapshot_prepare "$@" || exit
    frozen=
    if running "$1"; then
        # Proxmox asks the kernel to freeze, and writes out what the container has in its caches.
        lxc-freeze -n "$1" || die "freezing failed"
        frozen=1
        sync
    fi
    failed=
    volumes "$1" "$2" | while read -r key volume _; do
        [ "$2" != vzdump ] || in_backup "$1" "$key" "$2" || continue
        name=$(dataset "$volume") || exit
        message=$(zfs snapshot "$name@$2" 2>&1) || { echo "zfs error: $message" >&2 && exit 1; }
        # ZFS does not roll the quota back.
        zfs set "pve-storage:refquota=$(zfs get -Hp -o value refquota "$name")" "$name@$2" || exit
    done || failed=1
    [ -z "$frozen" ] || lxc-unfreeze -n "$1"
    if [ -n "$failed" ]; then
        echo 'snapshot create failed: starting cleanup' >&2
        snapshot_delete "$1" "$2" force created
        exit 255
    fi
    locked "$1" edit "$1" "unset-in $2 snapstate" "unset lock" "set parent $2"
}

snapshot_prepare() {
    case $2 in
        [a-zA-Z]*[!a-zA-Z0-9_-]* | [!a-zA-Z]* | '' | current) die "400 Parameter verification failed.${newline}snapname: invalid format - invalid configuration ID '$2'" ;;
    esac
    check_lock "$1"
    ! grep -q "^\[$2\]" "$(config_of "$1")" || die "snapshot name '$2' already used"
    edit "$1" "save $2" "set-in $2 snapstate prepare" "set-in $2 snaptime $(date +%s)" "set lock snapshot" \
        ${3:+"set-in $2 description $3"}
}

# snapshot_delete VMID NAME [force [created]]: without force a volume's missing snapshot leaves everything locked;
# "created" is the cleanup of a snapshot that failed, which has the lock already.
snapshot_delete() {
    grep -q "^\[$2\]" "$(config_of "$1")" || die "snapshot '$2' does not exist"
    [ -n "${4-}" ] || locked "$1" set_lock "$1" snapshot-delete || exit
    locked "$1" edit "$1" "set-in $2 snapstate delete"
    list=$(volumes "$1" "$2")
    echo "$list" | while read -r key volume _; do
        [ "$2" != vzdump ] || in_backup "$1" "$key" "$2" || continue
        name=$(dataset "$volume") || exit
        if ! message=$(zfs destroy "$name@$2" 2>&1); then
            [ -n "${4-}" ] || echo "zfs error: $message" >&2
            [ -n "${3-}" ] || exit 1
        fi
        [ -n "${3-}" ] || locked "$1" edit "$1" "unset-in $2 $key"
    done || exit 255
    locked "$1" edit "$1" "drop $2" "unset lock"
    echo "$list" | while read -r _ volume _; do locked "$1" add_unused "$1" "$volume"; done
}

# Unless the configuration has it.
add_unused() {
    ! section "$1" | grep -qE "^(rootfs|mp[0-9]+|unused[0-9]+): $2(,|\$)" || return 0
    i=0
    while [ -n "$(get "$1" "unused$i")" ]; do i=$((i + 1)); done
    edit "$1" "set unused$i $2"
}

# rollback VMID NAME
rollback() {
    locked "$1" rollback_prepare "$@" || exit
    volumes "$1" "$2" | while read -r _ volume _; do
        name=$(dataset "$volume") || exit
        zfs_or_die rollback "$name@$2"
        quota=$(zfs get -Hp -o value pve-storage:refquota "$name@$2")
        case $quota in
            0) zfs set refquota=none "$name" ;;
            *[!0-9]*) ;;
            *) zfs set "refquota=$quota" "$name" ;;
        esac
        if ! message=$(zfs unmount "$name" 2>&1); then
            case $message in *'not currently mounted') ;; *) die "zfs error: $message" ;; esac
        fi
    done || exit 255
    before=$(volumes "$1")
    locked "$1" edit "$1" "apply $2" "set parent $2"
    echo "$before" | while read -r _ volume _; do locked "$1" add_unused "$1" "$volume"; done
}

rollback_prepare() {
    grep -q "^\[$2\]" "$(config_of "$1")" || die "snapshot '$2' does not exist"
    volumes "$1" "$2" | while read -r _ volume _; do
        name=$(dataset "$volume") || exit
        newest=$(zfs list -H -d 1 -t snapshot -o name -s creation "$name" | sed "1,/@$2\$/s/.*@$2\$/found/" | tail -n 1)
        zfs list -H "$name@$2" >/dev/null 2>&1 || die "can't rollback, snapshot '$2' does not exist on '$volume'"
        [ "$newest" = found ] || die "can't rollback, '$2' is not most recent snapshot on '$volume'"
    done || exit 255
    state=$(section "$1" "$2" | sed -n 's/^snapstate: //p')
    [ -z "$state" ] || die "unable to rollback to incomplete snapshot (snapstate = $state)"
    check_lock "$1"
    ! running "$1" || stop_container "$1" -k
    edit "$1" "set lock rollback"
}
