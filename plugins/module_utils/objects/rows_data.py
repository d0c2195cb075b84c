# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the table: where data is, its copies, and high availability.

The rules are those of ``options()`` of PVE/Storage/*Plugin.pm, PVE/API2/Backup.pm, PVE/ReplicationConfig.pm,
PVE/HA/Resources.pm and PVE/HA/Rules/*.pm.
"""

from __future__ import annotations

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import (
    CREATE,
    UPDATE,
    Grant,
    Implied,
    Kind,
    Scope,
)

BOOL = Field("bool", default=False)
LINE = Field(format="line")
PATH = Field(format="pve-storage-path")
COUNT = Field("int", minimum=0, default=0)
KIB = Field("number", minimum=0)
PRUNE = Field(
    "map",
    subs={
        "keep-all": Field("bool", default=False),
        "keep-last": COUNT,
        "keep-hourly": COUNT,
        "keep-daily": COUNT,
        "keep-weekly": COUNT,
        "keep-monthly": COUNT,
        "keep-yearly": COUNT,
    },
)
FINGERPRINT = Field(pattern="([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}", folded=True)
CONTENT = ("images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none")

_OF_FILES = (
    "content-dirs nodes disable prune-backups max-protected-backups content format mkdir create-base-path "
    "create-subdirs bwlimit preallocation"
)

# What each type of storage can hold (``plugindata`` of the plugins); Proxmox drops what it cannot.
_FILES = ("images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import")
_CONTENT = {
    "btrfs": (*_FILES, "none"),
    "cephfs": ("vztmpl", "iso", "backup", "snippets", "import"),
    "cifs": _FILES,
    "dir": (*_FILES, "none"),
    "esxi": ("import",),
    "iscsi": ("images", "none"),
    "iscsidirect": ("images", "none"),
    "lvm": ("images", "rootdir"),
    "lvmthin": ("images", "rootdir"),
    "nfs": _FILES,
    "pbs": ("backup", "none"),
    "rbd": ("images", "rootdir"),
    "zfs": ("images",),
    "zfspool": ("images", "rootdir"),
}

_DIRECTORY = {"format": "pve-storage-directory"}

STORAGE = Kind(
    name="storage",
    identity=("storage",),
    names={"storage": Field(format="pve-storage-id", shortest=2)},
    fields={
        "base": Field(format="pve-volume-id"),
        "blocksize": Field(format="pve-storage-zfs-blocksize"),
        "bwlimit": Field("map", subs={"clone": KIB, "default": KIB, "migration": KIB, "move": KIB, "restore": KIB}),
        "comstar_hg": LINE,
        "comstar_tg": LINE,
        "content": Field("words", choices=CONTENT, kept=True),
        "content-dirs": Field(
            "map", subs={name: Field(format="pve-dir-override") for name in CONTENT if name != "none"}
        ),
        "create-base-path": Field("bool", default=True),
        "create-subdirs": Field("bool", default=True),
        "data-pool": LINE,
        "datastore": LINE,
        "disable": BOOL,
        "domain": Field(format="line", longest=256),
        "encryption-key": Field(format="pve-backup-key", secret=True, lasting="/etc/pve/priv/storage/{storage}.enc"),
        "export": PATH,
        "fingerprint": FINGERPRINT,
        "format": Field(choices=("raw", "qcow2", "subvol", "vmdk")),
        "fs-name": Field(format="pve-configid"),
        "fuse": BOOL,
        "is_mountpoint": Field(format="line", default="no", same={"0": "no", "1": "yes", "false": "no", "true": "yes"}),
        "iscsiprovider": LINE,
        "keyring": Field(secret=True),
        "krbd": Field("bool", default=False),
        "lio_tpg": LINE,
        "master-pubkey": Field(secret=True, needs=("encryption-key",)),
        "max-protected-backups": Field("int", minimum=-1),
        "mkdir": Field("bool", default=True),
        "monhost": Field("words", format="pve-storage-portal-dns", ordered=True),
        # Proxmox looks where the pool is mounted (on_add_hook of PVE/Storage/ZFSPoolPlugin.pm and ZFSPlugin.pm).
        "mountpoint": Field(format="pve-storage-path", kept=True),
        "namespace": LINE,
        "nocow": Field("bool", default=False),
        "nodes": Field("words", format="pve-node"),
        "nowritecache": BOOL,
        "options": Field(format="pve-storage-options"),
        "password": Field(longest=256, secret=True),
        "path": Field(format="pve-storage-path", kept=True),
        "pool": LINE,
        "port": Field("int", minimum=1, maximum=65535),
        "portal": Field(format="pve-storage-portal-dns"),
        "preallocation": Field(choices=("off", "metadata", "falloc", "full"), default="metadata"),
        "prune-backups": PRUNE,
        "saferemove": BOOL,
        "saferemove-stepsize": Field("int", choices=("1", "2", "4", "8", "16", "32"), default=32),
        "saferemove_throughput": LINE,
        "server": Field(format="pve-storage-server"),
        "share": LINE,
        "shared": BOOL,
        "skip-cert-verification": Field("bool", default=False),
        "smbversion": Field(choices=("default", "2.0", "2.1", "3", "3.0", "3.11"), default="default"),
        "snapshot-as-volume-chain": Field("bool", default=False),
        "sparse": BOOL,
        "subdir": PATH,
        "tagged_only": BOOL,
        "target": LINE,
        "thinpool": Field(format="pve-storage-vgname"),
        "type": Field(
            choices=(
                *("btrfs", "cephfs", "cifs", "dir", "esxi", "iscsi", "iscsidirect", "lvm", "lvmthin", "nfs", "pbs"),
                *("rbd", "zfs", "zfspool"),
            ),
            required=True,
            fixed=True,
        ),
        "username": LINE,
        "vgname": Field(format="pve-storage-vgname"),
        "zfs-base-path": Field(format="pve-storage-path", kept=True),
    },
    left_out={"authsupported": "no type of storage takes it"},
    # parse_config of PVE/Storage/Plugin.pm
    always=("local",),
    without={"local": {"nodes": "Proxmox has this storage on every node, and keeps no restriction"}},
    # A path that can be left out is chosen by Proxmox (/mnt/pve/ID).
    variants={
        "btrfs": "path!= nodes shared disable prune-backups max-protected-backups content format is_mountpoint nocow "
        "mkdir create-base-path create-subdirs preallocation",
        "cephfs": "path= content-dirs monhost nodes subdir disable options username content format mkdir "
        "create-base-path create-subdirs fuse bwlimit keyring prune-backups max-protected-backups fs-name",
        "cifs": f"path= server!= share!= subdir username password domain smbversion options "
        f"snapshot-as-volume-chain= {_OF_FILES}",
        "dir": f"path!= shared is_mountpoint snapshot-as-volume-chain= {_OF_FILES}",
        "esxi": "nodes shared disable content server! username! password skip-cert-verification port",
        "iscsi": "portal!= target!= nodes disable content bwlimit",
        "iscsidirect": "portal!= target!= nodes disable content bwlimit",
        "lvm": "vgname!= nodes shared disable saferemove saferemove-stepsize saferemove_throughput content base= "
        "tagged_only bwlimit snapshot-as-volume-chain",
        "lvmthin": "thinpool!= vgname!= nodes disable content bwlimit",
        "nfs": f"path= server!= export!= options snapshot-as-volume-chain= {_OF_FILES}",
        "pbs": "server!= datastore!= namespace port nodes disable content username password encryption-key "
        "master-pubkey prune-backups max-protected-backups fingerprint",
        "rbd": "nodes disable monhost pool data-pool namespace username content krbd keyring bwlimit",
        "zfs": "nodes disable portal!= target!= pool!= blocksize!= iscsiprovider!= nowritecache sparse comstar_hg "
        "comstar_tg lio_tpg content bwlimit zfs-base-path",
        "zfspool": "pool!= blocksize sparse nodes disable content bwlimit mountpoint",
    },
    overrides={
        **{kind: {"content": {"choices": choices}} for kind, choices in _CONTENT.items()},
        **{kind: {"content": {"choices": _CONTENT[kind]}, "path": _DIRECTORY} for kind in ("btrfs", "dir")},
        # Types that are always shared say so (parse_config of PVE/Storage/Plugin.pm).
        "esxi": {"content": {"choices": _CONTENT["esxi"]}, "shared": {"kept": True}},
    },
    scopes=(
        Scope(
            "storage",
            sees=Grant(("/storage/{storage}",), ("Datastore.Audit", "Datastore.AllocateSpace")),
            grants=(Grant(("/storage",), ("Datastore.Allocate",)),),
        ),
    ),
    digest=True,
)

_ROOT_LINE = Field(format="line", root=True)
_WRITE = (CREATE, UPDATE)

BACKUP_JOB = Kind(
    name="backup_job",
    identity=("id",),
    names={"id": Field(format="pve-configid", longest=50)},
    # What a job leaves out comes from /etc/vzdump.conf of the node, so that few defaults are known.
    fields={
        "all": Field("bool", default=False),
        "bwlimit": Field("int", minimum=0),
        "comment": Field(format="line", longest=512),
        "compress": Field(choices=("0", "1", "gzip", "lzo", "zstd")),
        "dumpdir": _ROOT_LINE,
        "enabled": Field("bool", default=True, unset="default"),
        "exclude": Field("words", format="pve-vmid"),
        "exclude-path": Field("words", joined="array", ordered=True),
        "fleecing": Field(
            "map",
            subs={"enabled": Field("bool", default=False), "storage": Field(format="pve-storage-id")},
            default_sub="enabled",
        ),
        "ionice": Field("int", minimum=0, maximum=8),
        "lockwait": Field("int", minimum=0),
        "mailnotification": Field(choices=("always", "failure")),
        "mailto": Field("words", format="email-or-username"),
        "mode": Field(choices=("snapshot", "suspend", "stop")),
        "node": Field(format="pve-node"),
        "notes-template": Field(format="line", longest=1024, needs=("storage",)),
        "notification-mode": Field(choices=("auto", "legacy-sendmail", "notification-system")),
        "pbs-change-detection-mode": Field(choices=("legacy", "data", "metadata")),
        "performance": Field(
            "map",
            subs={
                "max-workers": Field("int", minimum=1, maximum=256),
                "pbs-entries-max": Field("int", minimum=1),
            },
        ),
        "pigz": Field("int"),
        "pool": LINE,
        "protected": Field("bool", needs=("storage",)),
        "prune-backups": PRUNE,
        "quiet": Field("bool"),
        "remove": Field("bool"),
        "repeat-missed": Field("bool", default=False),
        "schedule": Field(format="pve-calendar-event", longest=128, required=True),
        "script": _ROOT_LINE,
        "stdexcludes": Field("bool"),
        "stop": Field("bool"),
        "stopwait": Field("int", minimum=0),
        "storage": Field(format="pve-storage-id"),
        "tmpdir": _ROOT_LINE,
        "vmid": Field("words", format="pve-vmid"),
        "zstd": Field("int"),
    },
    left_out={"starttime": "deprecated, schedule says it", "dow": "deprecated, schedule says it"},
    scopes=(
        Scope(
            "cluster/backup",
            grants=(
                Grant(("/",), ("Sys.Modify",)),
                Grant(("/storage/{storage}",), ("Datastore.Allocate",), _WRITE, otherwise=(("storage", "local"),)),
                Grant(("/storage/{fleecing.storage}",), ("Datastore.AllocateSpace",), _WRITE),
                Grant(("/pool/{pool}",), ("VM.Backup",), _WRITE),
            ),
        ),
    ),
    comment="comment",
    one_of=("vmid", "all", "pool", "exclude"),
    # verify_vzdump_parameters of PVE/VZDump.pm; what update_job of PVE/API2/Backup.pm drops at the next change
    conflicts=(("all", "vmid"), ("exclude", "vmid"), ("pool", "vmid"), ("exclude", "pool"), ("all", "pool")),
    implied=(Implied(because="exclude", unless="pool", field="all", value=True),),
)

REPLICATION_JOB = Kind(
    name="replication_job",
    identity=("id",),
    names={"id": Field(format="pve-replication-job-id")},
    fields={
        "comment": Field(format="line", longest=4096),
        "disable": BOOL,
        "rate": Field("number", minimum=1),
        "remove_job": Field(choices=("local", "full")),
        "schedule": Field(format="pve-calendar-event", longest=128, default="*/15"),
        # When a guest migrates to the target, the job goes the other way (ReplicationConfig.pm of pve-guest-common).
        "target": Field(format="pve-node", required=True, fixed=True, swapped="source"),
    },
    left_out={"source": "for Proxmox's own use", "type": "there is one"},
    constants={"type": "local"},
    scopes=(
        Scope(
            "cluster/replication",
            sees=Grant(("/vms/{guest}",), ("VM.Audit",)),
            grants=(Grant(("/vms/{guest}",), ("VM.Replicate",)),),
        ),
    ),
    comment="comment",
    gone="remove_job",
)

_HA = Grant(("/",), ("Sys.Console",))

HA_RESOURCE = Kind(
    name="ha_resource",
    identity=("sid",),
    names={"sid": Field(format="pve-ha-resource-id")},
    fields={
        "auto-rebalance": Field("bool", default=True),
        "comment": Field(format="line", longest=4096),
        "failback": Field("bool", default=True),
        "max_relocate": Field("int", minimum=0, default=1),
        "max_restart": Field("int", minimum=0, default=1),
        "state": Field(
            choices=("started", "stopped", "enabled", "disabled", "ignored"),
            default="started",
            same={"enabled": "started"},
            # A guest that is stopped through the API stays stopped (process_crm_commands of PVE/HA/Manager.pm).
            kept=True,
        ),
    },
    left_out={"group": "groups have become rules in Proxmox VE 9", "type": "sid says it"},
    scopes=(Scope("cluster/ha/resources", grants=(_HA,)),),
    digest=True,
    comment="comment",
)

HA_RULE = Kind(
    name="ha_rule",
    identity=("rule",),
    names={"rule": Field(format="pve-configid")},
    fields={
        "affinity": Field(choices=("positive", "negative")),
        "comment": Field(format="line", longest=4096),
        "disable": BOOL,
        "nodes": Field("words", format="pve-ha-node"),
        "resources": Field("words", format="pve-ha-resource-id"),
        "strict": Field("bool", default=False),
        "type": Field(choices=("node-affinity", "resource-affinity"), required=True, fixed=True),
    },
    variants={
        "node-affinity": "resources! nodes! strict disable comment",
        "resource-affinity": "resources! affinity! disable comment",
    },
    scopes=(Scope("cluster/ha/rules", grants=(_HA,)),),
    repeated=("type",),
    digest=True,
    comment="comment",
)

ROWS = (STORAGE, BACKUP_JOB, REPLICATION_JOB, HA_RESOURCE, HA_RULE)
