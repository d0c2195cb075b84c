# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of containers: what is refused, what applies at once and what waits for a restart."""

from __future__ import annotations

import hashlib
import json
import re
import time
import typing as t

from fakepve import schema as pve_schema
from fakepve.lxc import FakeCt, format_size, option_exists, parse_mount, parse_size, split_props
from fakepve.model import PveError

from .options import is_volume, normal, print_mount, refusal, reworded, split_list
from .volumes import Volumes
from .wire import given

PREFIX = "/api2/json"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
# What a running container takes at once, set or deleted (hotplug-001 to 093).
LIVE = re.compile(
    r"memory|swap|cores|cpulimit|cpuunits|hostname|description|tags|onboot|startup|protection|hookscript|lock"
    r"|net\d+|unused\d+"
)
# A new one is attached at once; a change or a deletion waits.
ATTACHED = re.compile(r"(mp|dev)\d+")
MOUNT = re.compile(r"rootfs|mp\d+")
NEW_VOLUME = re.compile(r"([^:/\s]+):(\d+(?:\.\d+)?)")
REQUIRED = ("memory", "rootfs", "ostype")


class Container(FakeCt):
    """A container whose options can have a pending value and a pending deletion at once (hotplug-085)."""

    cluster: t.Any = None
    _status = "stopped"

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.deletions = {key for key, value in self.pending.items() if value is None}
        self.pending = {key: value for key, value in self.pending.items() if value is not None}

    @property
    def ha_managed(self) -> bool:
        """Whether HA carries out what is asked of it (service_check_ha_state of PVE/HA/Config.pm)."""
        return self.ha_state not in (None, "ignored")

    @property
    def status(self) -> str:
        """running or stopped; a stop applies what is pending (hotplug-099, 100)."""
        return self._status

    @status.setter
    def status(self, value: str) -> None:
        stopped = self._status == "running" and value == "stopped"
        self._status = value
        if stopped and self.cluster is not None:
            self.cluster.apply_pending(self)

    def digest(self) -> str:
        """Another one whenever something in the configuration changes."""
        content = [self.config, self.pending, sorted(self.deletions), self.snapshots]
        return hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()


def bad(**errors: str) -> PveError:
    """A 400 with a message for each parameter."""
    return PveError(400, "Parameter verification failed.", errors)


class Configuration(Volumes):
    """Adds the checks, the normal forms and the pending changes."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.bridges = {"vmbr0", "vmbr1"}
        self.devices = {"/dev/null", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/dri/renderD128", "/dev/ttyUSB0"}
        self.dhcp_secs = 2.0

    # ---------------------------------------------------------- parameters

    @staticmethod
    def _checked(info: dict[str, t.Any], sent: dict[str, t.Any], lxc: bool) -> tuple[dict[str, t.Any], dict[str, str]]:
        """The parameters as Proxmox takes them, and why it refuses some."""
        properties = (info.get("parameters") or {}).get("properties", {})
        values, errors = dict(sent), {}
        for key, value in sent.items():
            schema = properties.get(key) or properties.get(re.sub(r"\d+$", "[n]", key)) or {}
            kind = schema.get("type")
            if kind == "boolean" and not isinstance(value, bool) and str(value) not in ("0", "1"):
                # values-241 to 277
                errors[key] = f"type check ('boolean') failed - got '{value}'"
            elif kind == "integer" and isinstance(value, float) and value == int(value):
                values[key] = int(value)  # values-281
            elif isinstance(value, list) and str(schema.get("format", "")).endswith("-list"):
                values[key] = ",".join(map(str, value))  # values-282, 467, errors-189
            elif lxc and isinstance(value, (str, int, float)):
                text = refusal(key, value)
                if text:
                    errors[key] = text
        return values, errors

    async def answer(
        self, request: t.Any, match: t.Any, params: dict[str, t.Any], user: str, call: t.Any = None
    ) -> t.Any:
        """Checks what fakepve lets pass, then lets it do the rest."""
        info = match.methods.get(request.method) if match else None
        if info is None:
            text = f"Method '{request.method} {request.path.removeprefix(PREFIX)}' not implemented"
            raise PveError(501, text)
        lxc = match.template.startswith("/nodes/{node}/lxc")
        values, errors = self._checked(info, await given(request), lxc)
        if errors:
            declared = (info.get("parameters") or {}).get("properties", {})
            sound = {**values, **{key: value for key, value in match.params.items() if key in declared}}
            others = pve_schema.validate(info.get("parameters"), sound)[1]
            raise bad(**{key: reworded(key, text) for key, text in {**others, **errors}.items()})
        # Empty where that has a meaning: fakepve would check it against the format.
        blank = {key: values.pop(key) for key in list(values) if lxc and values[key] == "" and _may_be_empty(key)}

        async def proceed(found: t.Any, checked: dict[str, t.Any]) -> t.Any:
            if "cpulimit" in values:
                checked["cpulimit"] = str(values["cpulimit"])  # values-190 to 199
            return await call(found, {**checked, **blank})

        try:
            return await super().answer(request, match, values, user, proceed if call else None)
        except PveError as error:
            if error.errors:
                error.errors = {key: reworded(key, text) for key, text in error.errors.items()}
            if error.message.startswith("hostname lookup"):  # errors-170
                error.message = error.message.replace(
                    "Name or service not known", "Temporary failure in name resolution"
                )
            raise

    def check_permissions(self, user: str, perms: t.Any, values: t.Any, declared: t.Any = None) -> None:
        """A token of root that is privilege-separated is nobody special (permissions-212, 217)."""
        if user in self.separated and user.startswith("root@pam!") and perms and "check" in perms:
            allowed, why = self._check(user, perms["check"], values, declared)
            if not allowed:
                raise PveError(403, f"Permission check failed ({why})" if why else "Permission check failed")
            return
        super().check_permissions(user, perms, values, declared)

    # --------------------------------------------------------------- reads

    async def _lxc_config_get(self, user: str, v: dict[str, t.Any]) -> dict[str, t.Any]:
        """With pending values as if they were set (hotplug-013)."""
        ct = self._find_ct(v["node"], v["vmid"])
        if v.get("snapshot") and v.get("current"):
            text = "cannot use 'snapshot' parameter with 'current'"
            raise bad(snapshot=text, current=text)
        if v.get("snapshot"):
            if v["snapshot"] not in ct.snapshots:
                raise PveError(500, f"snapshot '{v['snapshot']}' does not exist")
            config = dict(ct.snapshots[v["snapshot"]])
        elif v.get("current"):
            config = dict(ct.config)
        else:
            config = {k: x for k, x in {**ct.config, **ct.pending}.items() if k not in ct.deletions}
        return {**config, "digest": ct.digest()}

    async def _lxc_pending(self, user: str, v: dict[str, t.Any]) -> list[dict[str, t.Any]]:
        """The list has an entry with the digest, which is no option (reads-004, 123)."""
        ct = self._find_ct(v["node"], v["vmid"])
        entries: list[dict[str, t.Any]] = [{"key": "digest", "value": ct.digest()}]
        for key in sorted({*ct.config, *ct.pending}):
            entry = {"key": key}
            if key in ct.config:
                entry["value"] = ct.config[key]
            if key in ct.pending:
                entry["pending"] = ct.pending[key]
            if key in ct.deletions:
                entry["delete"] = 1
            entries.append(entry)
        return entries

    async def _lxc_interfaces(self, user: str, v: dict[str, t.Any]) -> list[dict[str, t.Any]] | None:
        """errors-005: of a container that is not there, null."""
        ct = self._here(v)
        if ct is None or ct.status != "running":
            return None
        loopback = [("inet", "127.0.0.1", "8"), ("inet6", "::1", "128")]
        answer = [_interface("lo", "00:00:00:00:00:00", loopback)]
        for key in sorted(key for key in ct.config if re.fullmatch(r"net\d+", key)):
            net = split_props(ct.config[key])[1]
            addresses = [
                (family, *net[option].split("/"))
                for family, option in (("inet", "ip"), ("inet6", "ip6"))
                if "/" in net.get(option, "")
            ]
            if net.get("ip") == "dhcp" and self._leased(ct):
                addresses.insert(0, ("inet", f"198.18.{ct.vmid // 250 % 250}.{ct.vmid % 250 + 2}", "15"))
            answer.append(_interface(net.get("name", "eth0"), net.get("hwaddr", "").lower(), addresses))
        return answer

    def _leased(self, ct: t.Any) -> bool:
        """Whether DHCP has answered."""
        return bool(ct.started_at and time.time() - ct.started_at >= self.dhcp_secs * self.time_scale)

    # --------------------------------------------------------------- write

    async def _lxc_config_put(self, user: str, v: dict[str, t.Any]) -> None:
        """What all of the records of values and hotplug are about."""
        values = {key: value for key, value in v.items() if key not in ("node", "vmid")}
        digest = values.pop("digest", None)
        if not values:
            raise PveError(500, "no options specified")
        deletes, reverts = split_list(values.pop("delete", "")), split_list(values.pop("revert", ""))
        self.need_quorum()
        ct = self._find_ct(v["node"], v["vmid"])
        pool = self._pool_of_vm(ct.vmid)
        await self._config_lock(ct)
        try:
            self._ct_check_lock(ct)
            if digest and digest != ct.digest():
                raise PveError(500, "detected modified configuration - file changed by other user? Try again.")
            privileged = not ct.config.get("unprivileged")
            self._check_modify_perm(user, ct.vmid, pool, ct.config, {}, [*deletes, *reverts], not privileged)
            self._refuse_contradictions(values, deletes, reverts)
            self._check_modify_perm(user, ct.vmid, pool, ct.config, values, [], not privileged)
            self._change(ct, user, values, deletes, reverts)
        finally:
            self.release(ct, "config")
            self.notice(ct)

    @staticmethod
    def _refuse_contradictions(values: dict[str, t.Any], deletes: list[str], reverts: list[str]) -> None:
        """values-459, 462, 469, 471, 472"""
        for key in reverts:
            if not option_exists(key):
                raise bad(revert=f"unknown option '{key}'")
            if key in values:
                raise bad(revert=f"you can't use '-{key}' and '-revert {key}' at the same time")
        for key in deletes:
            if not option_exists(key):
                raise bad(delete=f"unknown option '{key}'")
            if key in values:
                raise bad(delete=f"you can't use '-{key}' and -delete {key}' at the same time")
            if key in reverts:
                raise bad(delete=f"you can't use '-delete {key}' and '-revert {key}' at the same time")

    def _change(
        self, ct: Container, user: str, values: dict[str, t.Any], deletes: list[str], reverts: list[str]
    ) -> None:
        pending, deletions = dict(ct.pending), set(ct.deletions)
        for key in reverts:
            pending.pop(key, None)
            deletions.discard(key)
        for key in deletes:
            if key in REQUIRED:
                raise PveError(500, f"unable to delete required option '{key}'")
            if key == "unprivileged":
                raise PveError(500, "unable to delete read-only option: 'unprivileged'")
            if re.fullmatch(r"(unused|mp)\d+", key) and key in ct.config:
                self._check_protection(ct, f"can't remove CT {ct.vmid} drive '{key}'")
            # A key that is only pending stays as it is: that takes a revert (hotplug-041 to 055).
            if key in ct.config:
                deletions.add(key)
        for key, value in values.items():
            if key == "unprivileged":
                raise PveError(500, "unable to modify read-only option: 'unprivileged'")
            if MOUNT.fullmatch(key):
                self._check_protection(ct, f"can't update CT {ct.vmid} drive '{key}'")
                self._check_mount(value)
            elif key == "hookscript":
                self._check_hookscript(value)
            elif re.fullmatch(r"dev\d+", key):
                self._check_device(value)
            new = normal(key, value)
            deletions.discard(key)
            pending.pop(key, None)
            if new is None:
                deletions |= {key} & set(ct.config)
            elif ct.config.get(key) != new:
                pending[key] = new
        ct.pending, ct.deletions = pending, deletions
        self._apply(ct, {*values, *deletes}, ct.status == "running")

    def _check_mount(self, value: t.Any) -> None:
        """values-346, 364, 365"""
        mount = parse_mount(value)
        if not is_volume(mount):
            return
        sid, store = mount["volume"].partition(":")[0], self.storages.get(mount["volume"].partition(":")[0])
        if store is None:
            raise PveError(500, f"storage '{sid}' does not exist")
        if "rootdir" not in str(store.get("content", "")).split(","):
            raise PveError(500, f"storage '{sid}' does not allow content type 'rootdir' (Container)")

    def _check_hookscript(self, volid: str) -> None:
        """values-293, 294, 297"""
        if not volid.partition(":")[2].startswith("snippets/"):
            raise PveError(500, f"'{volid}' is not in the snippets directory")
        if self.volume(volid) is None:
            raise PveError(500, f"script '{volid}' does not exist")

    def _check_device(self, value: str) -> None:
        """values-394, 398"""
        first, props = split_props(value)
        path = first or props.get("path", "")
        if not path:
            raise PveError(500, "Path has to be defined")
        if path not in self.devices:
            raise PveError(500, f"Device {path} does not exist")

    # --------------------------------------------------------------- apply

    def apply_pending(self, ct: Container) -> None:
        """All that waits."""
        self._apply(ct)

    def _apply(self, ct: Container, selection: t.Any = None, running: bool = False) -> None:
        """Move what can be moved from the pending changes into the configuration."""
        refused: PveError | None = None
        for key in sorted(ct.deletions if selection is None else ct.deletions & set(selection)):
            if running and not LIVE.fullmatch(key):
                continue
            ct.deletions.discard(key)
            self._delete(ct, key)
        for key in sorted(ct.pending if selection is None else set(ct.pending) & set(selection)):
            if running and not LIVE.fullmatch(key) and not (ATTACHED.fullmatch(key) and key not in ct.config):
                continue
            value = ct.pending.pop(key)
            bridge = split_props(value)[1].get("bridge", "") if re.fullmatch(r"net\d+", key) else "vmbr0"
            if bridge not in self.bridges and running:
                # hotplug-076: refused and not stored
                raise bad(**{key: f"unable to hotplug {key}: interface {bridge} does not exist\n\n"})
            if bridge not in self.bridges:
                # values-052, 061: refused and stored all the same
                refused = PveError(500, f"bridge '{bridge}' does not exist")
            self._set(ct, key, value)
        if refused and selection is not None:
            raise refused

    def _delete(self, ct: Container, key: str) -> None:
        value = ct.config.pop(key, None)
        if value is None:
            return
        if re.fullmatch(r"mp\d+", key) and is_volume(parse_mount(value)):
            self.keep_unused(ct.config, parse_mount(value)["volume"])
        elif key.startswith("unused"):
            self.remove_volume(value)

    def _set(self, ct: Container, key: str, value: t.Any) -> None:
        if not re.fullmatch(r"mp\d+", key):
            ct.config[key] = value  # a rootfs too, whatever it says (values-322 to 347)
            return
        mount = self.realised(ct.vmid, value)
        before = parse_mount(ct.config[key]) if key in ct.config else {}
        if is_volume(before) and before.get("volume") not in (None, mount["volume"]):
            self.keep_unused(ct.config, before["volume"])
        self.forget_unused(ct.config, mount["volume"])
        ct.config[key] = print_mount(mount)

    def realised(self, vmid: int, value: str, size: int | None = None) -> dict[str, str]:
        """A mount point with a volume: allocated where only a size is given, with the size that it has."""
        mount: dict[str, str] = parse_mount(value)
        found = NEW_VOLUME.fullmatch(mount["volume"])
        if found:
            size = int(float(found[2]) * 2**30) if size is None else size
            mount["volume"] = self.create_volume(found[1], vmid, size)
        entry = self.volume(mount["volume"]) if is_volume(mount) else None
        if entry:  # values-360, 373 to 375
            mount["size"] = format_size(entry["size"]) if entry["size"] else "0"
        elif parse_size(mount.get("size", "")) is None:
            mount.pop("size", None)
        return mount


def _may_be_empty(key: str) -> bool:
    return key in ("tags", "features", "nameserver", "searchdomain", "description", "delete", "revert") or bool(
        re.fullmatch(r"dev\d+", key)
    )


def _interface(name: str, hwaddr: str, addresses: list[tuple[str, ...]]) -> dict[str, t.Any]:
    """Only one that has an address has inet or inet6 (reads-006)."""
    entry: dict[str, t.Any] = {"name": name, "hwaddr": hwaddr, "hardware-address": hwaddr}
    entry["ip-addresses"] = [
        {"ip-address-type": family, "ip-address": address, "prefix": prefix} for family, address, prefix in addresses
    ]
    for family, address, prefix in addresses:
        entry[family] = f"{address}/{prefix}"
    return entry
