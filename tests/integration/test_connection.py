# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection plugin with real sshds: in this process, call by call, and in runs of ansible-playbook."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import tempfile
import threading
import time
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.playbook.play_context import PlayContext
from ansible.plugins.doc_fragments import connection_pipelining
from ansible_collections.lxcri.proxmox.plugins.connection import pct
from ansible_collections.lxcri.proxmox.plugins.doc_fragments import ssh_options
from ansible_collections.lxcri.proxmox.tests.integration.nodes import PASSWORD, USER, Nodes
from ansible_collections.lxcri.proxmox.tests.integration.playbook import Ansible

UNUSUAL = ["with space", "it's", 'a "b"', "new\nline", "-n", "$HOME", "`id`", "\\", "%s", "grüße", "*", "日本"]
MIB = 2**20


@pytest.fixture(scope="module")
def cluster() -> t.Iterator[Nodes]:
    """Two nodes. The sessions of the first have no locale and those of the second have UTF-8, where pct dies of itself
    with another exit code. The path is short because the names of sockets are."""
    directory = Path(tempfile.mkdtemp(prefix="pct-"))
    nodes = Nodes(directory)
    try:
        nodes.pve2.environment = {"LC_ALL": "C.UTF-8", "STANDIN_ERRNO": "0"}
        for node in nodes.all:
            node.start()
        nodes.add("201", "web-1", nodes.pve1, programs=True)
        nodes.add("202", "mini", nodes.pve1)
        nodes.add("203", "db-1", nodes.pve2, programs=True)
        yield nodes
    finally:
        nodes.stop()
        shutil.rmtree(directory)


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The nodes without connections that are open."""
    cluster.hang_up()
    return cluster


def connect(nodes: Nodes, container: str = "201", **options: t.Any) -> pct.Connection:
    """The plugin as Ansible makes it for a task."""
    if not constants.config.has_configuration_definition("connection", "pct"):
        documents = (connection_pipelining.ModuleDocFragment, ssh_options.ModuleDocFragment, pct)
        known: dict[str, t.Any] = {}
        for document in documents:
            known.update(yaml.safe_load(document.DOCUMENTATION)["options"])
        constants.config.initialize_plugin_configuration_definitions("connection", "pct", known)
    connection = pct.Connection(PlayContext(), None)
    connection._load_name = connection.ansible_name = "pct"
    connection._redirected_names = ["pct"]
    connection._original_path = pct.__file__
    given = {
        "container": container,
        "port": nodes.port,
        "private_key_file": str(nodes.directory / "key"),
        "ssh_common_args": nodes.variables["ansible_ssh_common_args"],
        "control_path_dir": str(nodes.directory / "cp"),
        "node_hosts": {node.name: node.address for node in nodes.all},
    }
    if not {"node", "host"} & options.keys():
        options["node"] = "pve1"
    connection.set_options(direct={**given, **options})
    return connection


def refused(code: str, action: t.Callable[[], t.Any]) -> str:
    """The message of a connection that fails with this code."""
    with pytest.raises(AnsibleConnectionFailure, match=re.escape(f"[{code}]")) as caught:
        action()
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("tool", ["pct", "lxc-attach"])
@pytest.mark.parametrize(("container", "node"), [("201", "pve1"), ("202", "pve1"), ("203", "pve2")])
def test_exit_codes_and_streams(nodes: Nodes, container: str, node: str, tool: str) -> None:
    connection = connect(nodes, container, node=node, tool=tool)
    for rc in (0, 1, 2, 127, 254, 255):
        assert connection.exec_command(f"echo out; echo err >&2; exit {rc}") == (rc, b"out\n", b"err\n")
    data = bytes(range(256)) * 4096
    assert connection.exec_command("cat", in_data=data) == (0, data, b"")
    assert connection.exec_command("cat; exit 255", in_data=b"x") == (255, b"x", b"")


@pytest.mark.parametrize("node", ["pve1", "pve2"])
@pytest.mark.parametrize("user", ["root", "app"])
def test_words_survive(nodes: Nodes, user: str, node: str) -> None:
    """Also where pct decodes them in the character set C."""
    connection = connect(nodes, "201" if node == "pve1" else "203", node=node, remote_user=user)
    for word in UNUSUAL:
        rc, stdout, stderr = connection.exec_command(f"printf %s {connection._shell.quote(word)}; exit 3")
        assert (rc, stdout, stderr) == (3, word.encode(), b"")


def test_the_user_and_the_environment(nodes: Nodes) -> None:
    _rc, stdout, _stderr = connect(nodes).exec_command("id -un; pwd; env")
    user, home, *variables = stdout.decode().splitlines()
    assert (user, home) == ("root", "/root")
    table = dict(variable.split("=", 1) for variable in variables)
    # Nothing of the node's.
    assert table.keys() <= {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "OLDPWD", "container", "_"}
    assert (table["HOME"], table["container"]) == ("/root", "lxc")
    for container in ("201", "202"):
        connection = connect(nodes, container, remote_user="app")
        assert connection.exec_command('id -un; pwd; echo "$HOME $USER"')[1] == b"app\n/home/app\n/home/app app\n"
    message = refused("not_entered", lambda: connect(nodes, remote_user="nobody-else").exec_command("true"))
    assert "nobody-else" in message
    refused("invalid_option", lambda: connect(nodes, remote_user="-c").exec_command("true"))


def test_with_a_terminal(nodes: Nodes) -> None:
    connection = connect(nodes, use_tty=True)
    assert connection.exec_command("tty -s; exit 7")[0] == 7
    assert connection.exec_command("tty -s && echo yes")[:2] == (0, b"yes\r\n")


def test_another_user_of_the_node(nodes: Nodes) -> None:
    before = len(nodes.pve1.calls)
    connection = connect(nodes, node_become=True, node_user="root")
    assert connection.exec_command("exit 4")[0] == 4
    assert nodes.pve1.calls[before:] == ["sudo pct", "exec 201"]
    connection = connect(nodes, node_become=True, node_become_command="sudo -S")
    assert "password" in refused("not_entered", lambda: connection.exec_command("true"))


@pytest.mark.parametrize("mechanism", ["ssh_askpass", "sshpass"])
def test_a_password_and_the_real_sudo(nodes: Nodes, tmp_path: Path, mechanism: str) -> None:
    """A user of the node who is not root, logs in with a password, and may do by sudo what the guide says."""
    user = {"private_key_file": None, "password": PASSWORD, "password_mechanism": mechanism, "node_user": USER}
    sudo = {"node_become": True, "node_become_command": "/usr/bin/sudo -n"}
    connection = connect(nodes, **user, **sudo)
    for word in UNUSUAL:
        said = connection.exec_command(f"printf %s {connection._shell.quote(word)}; id -un >&2; exit 255")
        assert said == (255, word.encode(), b"root\n")
    # sshpass itself ends with 1 to 6, and 5 is a wrong password.
    for rc in range(1, 8):
        assert connection.exec_command(f"exit {rc}")[0] == rc
    data = bytes(range(256)) * 4096
    assert connection.exec_command("cat", in_data=data) == (0, data, b"")
    (tmp_path / "file").write_bytes(data)
    nodes.hang_up()
    # Each of these is the first by a connection, and so the one that gives the password.
    connection.put_file(str(tmp_path / "file"), "/tmp/it's ü")
    nodes.hang_up()
    connection.fetch_file("/tmp/it's ü", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    connection.exec_command("rm /tmp/it*")
    nodes.hang_up()
    assert connect(nodes, "db-1", host="127.0.0.1", **user, **sudo).exec_command("uname -n")[1] == b"db-1\n"
    # What they may not, they cannot.
    message = refused("not_entered", lambda: connect(nodes, **user).exec_command("true"))
    assert "please run as root" in message
    other = {**sudo, "tool": "lxc-attach"}
    assert "a password is required" in refused("not_entered", lambda: connect(nodes, **user, **other).exec_command("x"))
    nodes.hang_up()
    for action in (lambda wrong: wrong.exec_command("true"), lambda wrong: wrong.put_file(__file__, "/tmp/x")):
        with pytest.raises(AnsibleConnectionFailure, match=r"(?i)password|permission denied") as caught:
            action(connect(nodes, **{**user, "password": "wrong battery"}, **sudo))
        assert "wrong battery" not in str(caught.value)


def test_by_way_of_a_jump_host(nodes: Nodes) -> None:
    jump = f"ssh -i {nodes.directory}/key -o UserKnownHostsFile={nodes.directory}/known_hosts -p {nodes.port} -W %h:%p"
    common = f"{nodes.variables['ansible_ssh_common_args']} -o ProxyCommand='{jump} 127.0.0.2'"
    logins = nodes.pve2.logins
    connection = connect(nodes, ssh_common_args=common)
    assert connection.exec_command("uname -n")[1] == b"web-1\n"
    connection.put_file(__file__, "/tmp/jumped")
    assert nodes.pve2.logins - logins == 1
    (nodes.containers["201"].tree / "tmp/jumped").unlink()


# ------------------------------------------------------------------------------------------------- where it is


def test_a_container_that_has_moved_is_found_and_remembered(nodes: Nodes) -> None:
    nodes.move("202", nodes.pve2)
    try:
        before = len(nodes.pve1.calls)
        assert connect(nodes, "202").exec_command("cat; exit 5", in_data=b"x") == (5, b"x", b"")
        assert nodes.pve1.calls[before:] == ["exec 202", "pvesh"]
        assert connect(nodes, "202").exec_command("uname -n")[1] == b"mini\n"
        assert len(nodes.pve1.calls) == before + 2
        # Where it is remembered to be, it is not any more.
        nodes.move("202", nodes.pve1)
        assert connect(nodes, "202").exec_command("true")[0] == 0
        assert nodes.pve2.calls[-2:] == ["exec 202", "pvesh"]
    finally:
        nodes.move("202", nodes.pve1)


def test_a_remembered_node_that_is_gone(nodes: Nodes) -> None:
    nodes.move("202", nodes.pve2)
    try:
        connect(nodes, "202").exec_command("true")
        nodes.move("202", nodes.pve1)
        nodes.hang_up(forget=False)
        nodes.pve2.stop()
        assert connect(nodes, "202").exec_command("exit 6")[0] == 6
    finally:
        nodes.move("202", nodes.pve1)
        nodes.pve2.start()


@pytest.mark.parametrize(("container", "hostname"), [("201", "web-1"), ("web-1", "web-1"), ("db-1", "db-1")])
def test_a_container_is_looked_up_by_any_node(nodes: Nodes, container: str, hostname: str) -> None:
    connection = connect(nodes, container, host="127.0.0.2", node_hosts={"pve1": "127.0.0.1"})
    assert connection.exec_command("uname -n") == (0, hostname.encode() + b"\n", b"")


def test_what_is_not_to_be_had(nodes: Nodes) -> None:
    refused("not_found", lambda: connect(nodes, "999").exec_command("true"))
    refused("not_found", lambda: connect(nodes, "nobody").exec_command("true"))
    refused("invalid_option", lambda: connect(nodes, node=None).exec_command("true"))
    refused("invalid_option", lambda: connect(nodes, node="-oProxyCommand=x").exec_command("true"))
    refused("not_running", lambda: connect(nodes, "nobody", tool="lxc-attach").exec_command("true"))
    with pytest.raises(AnsibleConnectionFailure, match="Connection refused"):
        connect(nodes, host="127.0.0.3").exec_command("true")


@pytest.mark.parametrize("tool", ["pct", "lxc-attach"])
@pytest.mark.parametrize(("container", "node"), [("202", "pve1"), ("203", "pve2")])
def test_a_container_that_is_stopped(nodes: Nodes, tmp_path: Path, container: str, node: str, tool: str) -> None:
    nodes.containers[container].stop()
    try:
        connection = connect(nodes, container, node=node, tool=tool)
        assert container in refused("not_running", lambda: connection.exec_command("true", in_data=b"x"))
        refused("not_running", lambda: connection.put_file(__file__, "/tmp/x"))
        refused("not_running", lambda: connection.fetch_file("/etc/passwd", str(tmp_path / "x")))
        assert os.listdir(tmp_path) == []
    finally:
        nodes.containers[container].start()


def test_a_container_that_is_killed_while_a_file_is_sent(nodes: Nodes, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**40)  # which nobody ever gets to the end of
    tree = nodes.containers["203"].tree / "tmp"
    connection = connect(nodes, "203", node="pve2")
    failures: list[Exception] = []
    thread = threading.Thread(target=lambda: failures.append(failure_of(connection.put_file, str(large), "/tmp/file")))
    thread.start()
    wait_for(lambda: any(part.stat().st_size > MIB for part in tree.glob(".lxcri-*.part")))
    nodes.containers["203"].stop()
    thread.join(30)
    nodes.containers["203"].start()
    # It could not clear up, so the failure says what it has left.
    [part] = tree.glob(".lxcri-*.part")
    assert isinstance(failures[0], AnsibleConnectionFailure)
    assert f"/tmp/{part.name}. [transfer_broken]" in str(failures[0])
    assert not (tree / "file").exists()
    part.unlink()


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("container", "user"), [("201", "root"), ("202", "app")])
def test_files_survive_with_their_names(nodes: Nodes, tmp_path: Path, container: str, user: str) -> None:
    connection = connect(nodes, container, remote_user=user)
    data = bytes(range(256)) + b"\r\n\0"
    source, back = tmp_path / "quelle 'ü", tmp_path / "zurück\n"
    source.write_bytes(data)
    for name in UNUSUAL:
        connection.put_file(str(source), f"/tmp/{name}")
        connection.fetch_file(f"/tmp/{name}", str(back))
        assert back.read_bytes() == data
        back.unlink()
        connection.exec_command(f"rm -f -- {connection._shell.quote(f'/tmp/{name}')}")
    assert os.listdir(nodes.containers[container].tree / "tmp") == []
    assert os.listdir(tmp_path) == [source.name]


def test_an_empty_file(nodes: Nodes, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    connection = connect(nodes)
    connection.put_file(str(empty), "/tmp/empty")
    connection.fetch_file("/tmp/empty", str(tmp_path / "back"))
    connection.fetch_file("/proc/version", str(tmp_path / "version"))
    assert (tmp_path / "back").read_bytes() == b""
    assert (tmp_path / "version").read_text(encoding="utf-8").startswith("Linux")


def test_large_files_take_no_memory(nodes: Nodes, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(200 * MIB)
    connection = connect(nodes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.put_file(str(large), "/tmp/large")
    connection.fetch_file("/tmp/large", str(tmp_path / "back"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
    (nodes.containers["201"].tree / "tmp/large").unlink()
    with large.open("rb") as first, (tmp_path / "back").open("rb") as second:
        while chunk := first.read(MIB):
            assert chunk == second.read(MIB)
        assert second.read() == b""


def test_nothing_is_compressed_unless_that_is_asked_for(nodes: Nodes) -> None:
    arguments = connect(nodes).get_option("ssh_args").split()
    assert "-C" not in arguments
    assert "ControlPersist=60s" in arguments


def test_transfers_that_cannot_be(nodes: Nodes, tmp_path: Path) -> None:
    connection = connect(nodes, remote_user="app")
    with pytest.raises(AnsibleFileNotFound):
        connection.put_file(str(tmp_path / "none"), "/tmp/x")
    for path, code in (("/none/x", "not_found"), ("/tmp", "is_directory"), ("/etc/x", "transfer_failed")):
        with pytest.raises(AnsibleError, match=rf"{path} .*\[{code}\]"):
            connection.put_file(__file__, path)
    for path, code in (("/none", "not_found"), ("/tmp", "is_directory"), ("/etc/shadow", "transfer_failed")):
        (nodes.containers["201"].tree / "etc/shadow").chmod(0o600)
        with pytest.raises(AnsibleError, match=rf"{path} .*\[{code}\]"):
            connection.fetch_file(path, str(tmp_path / "x"))
    assert os.listdir(tmp_path) == []
    with pytest.raises(AnsibleError, match=r"\[write_failed\]"):
        connection.fetch_file("/etc/passwd", str(tmp_path / "none/x"))


@pytest.mark.parametrize("direction", ["put", "fetch"])
def test_ssh_breaks_in_the_middle(nodes: Nodes, tmp_path: Path, direction: str) -> None:
    tree = nodes.containers["201"].tree / "tmp"
    here, there = tmp_path / "file", tree / "file"
    here.write_bytes(b"old")
    there.write_bytes(b"old")
    large = tree / "large" if direction == "fetch" else tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**40)  # which nobody ever gets to the end of
    connection = connect(nodes)
    failures: list[Exception] = []
    paths = (str(large), "/tmp/file") if direction == "put" else ("/tmp/large", str(here))
    transfer = connection.put_file if direction == "put" else connection.fetch_file
    thread = threading.Thread(target=lambda: failures.append(failure_of(transfer, *paths)))
    thread.start()
    target = tree if direction == "put" else tmp_path
    wait_for(lambda: any(part.stat().st_size > MIB for part in target.glob(".lxcri-*.part")))
    nodes.pve1.cut()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(failures[0], AnsibleConnectionFailure)
    if direction == "put":
        assert re.search(r"/\.lxcri-\w+\.part\. \[transfer_broken\]", str(failures[0]))
    # What was on its way goes away by itself, and what was there stays.
    wait_for(lambda: not list(target.glob(".lxcri-*.part")))
    assert (here.read_bytes(), there.read_bytes()) == (b"old", b"old")
    large.unlink()


def failure_of(action: t.Callable[..., None], *arguments: str) -> Exception:
    """How a transfer fails."""
    with pytest.raises(AnsibleError) as caught:
        action(*arguments)
    return caught.value


def wait_for(condition: t.Callable[[], bool]) -> None:
    """Until it is so, for a while."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ ansible-playbook


def inventory(nodes: Nodes, path: Path, hosts: dict[str, dict[str, t.Any]], **more: t.Any) -> str:
    """An inventory of containers."""
    path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": {**nodes.variables, **more}}}), encoding="utf-8")
    return str(path)


def test_a_playbook(ansible: Ansible, nodes: Nodes, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\necho $1 by $(id -un)\n", encoding="utf-8")
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3 * MIB))
    # Both hosts are root in one container and somebody in another.
    hosts = {
        "web-1": {"proxmox_vmid": 201, "proxmox_node": "pve1"},
        "db-1": {"proxmox_vmid": 203, "proxmox_node": "pve2", "ansible_user": "app"},
    }
    name = "/tmp/grüße an 'alle'"
    tasks = [
        {"name": "copy", "ansible.builtin.copy": {"src": str(large), "dest": name, "mode": "0640"}},
        {"name": "again", "ansible.builtin.copy": {"src": str(large), "dest": name, "mode": "0640"}},
        {"name": "template", "ansible.builtin.copy": {"content": "é {{ proxmox_vmid }}\n", "dest": "/tmp/text"}},
        {"name": "stat", "ansible.builtin.stat": {"path": name}},
        {"name": "fetch", "ansible.builtin.fetch": {"src": name, "dest": f"{tmp_path}/fetched/"}},
        {"name": "script", "ansible.builtin.script": f"{script} made"},
        {"name": "raw", "ansible.builtin.raw": "cat /tmp/text; exit 255", "failed_when": "false"},
        {
            "name": "become",
            "ansible.builtin.command": "id -un",
            "become": True,
            "become_user": "app",
            "become_method": "su",
            "when": "ansible_user | default('root') == 'root'",
        },
        {"name": "async", "ansible.builtin.command": "sleep 1", "async": 20, "poll": 1},
        {"name": "reset", "ansible.builtin.meta": "reset_connection"},
        {"name": "wait", "ansible.builtin.wait_for_connection": {"timeout": 20}},
    ]
    play = {"name": "Test", "hosts": "all", "gather_facts": True, "tasks": tasks}
    ran = ansible.succeeds([play], inventory=inventory(nodes, tmp_path / "hosts.yml", hosts))
    results: dict[str, list[dict[str, t.Any]]] = {}
    for record in ran.records:
        results.setdefault(record["task"], []).append(record["result"])
    assert {len(found) for found in results.values()} == {2}
    assert [result["changed"] for result in results["copy"]] == [True, True]
    assert [result["changed"] for result in results["again"]] == [False, False]
    assert sorted(result["stat"]["pw_name"] for result in results["stat"]) == ["app", "root"]
    assert sorted(result["stdout"] for result in results["script"]) == ["made by app\n", "made by root\n"]
    assert sorted(result["stdout"] for result in results["raw"]) == ["é 201\n", "é 203\n"]
    assert {result["rc"] for result in results["raw"]} == {255}
    assert [result["stdout"] for result in results["become"] if "stdout" in result] == ["app"]
    assert [path.read_bytes() for path in (tmp_path / "fetched").rglob("grüße*")] == [large.read_bytes()] * 2
    for container in ("201", "203"):
        for path in (nodes.containers[container].tree / "tmp").iterdir():
            path.unlink()


def test_a_delegated_task_is_done_where_it_is_delegated_to(ansible: Ansible, nodes: Nodes, tmp_path: Path) -> None:
    """Ansible tells a connection the name of the host that delegates, not of the one it goes to."""
    hosts: dict[str, dict[str, t.Any]] = {
        "here": {"ansible_connection": "local"},
        # By hostname, wherever they are.
        "web-1": {"ansible_pct_host": nodes.pve1.address},
        "db-1": {"ansible_pct_host": nodes.pve1.address},
        # By the name of LXC; as it is for what has an address of its own, and for a node that is known.
        "201": {"ansible_pct_tool": "lxc-attach", "ansible_pct_host": nodes.pve1.address},
        "203": {"ansible_pct_tool": "lxc-attach", "ansible_pct_host": nodes.pve2.address, "ansible_host": "192.0.2.1"},
        "202": {"ansible_pct_tool": "lxc-attach", "proxmox_node": "pve1"},
    }
    name = {"web-1": "web-1", "db-1": "db-1", "201": "web-1", "203": "db-1", "202": "mini"}
    play = {"name": "Test", "hosts": "here,web-1,202", "gather_facts": False}
    play["tasks"] = [{"name": "Name", "ansible.builtin.raw": "uname -n", "delegate_to": "{{ item }}", "loop": [*name]}]
    ran = ansible.succeeds([play], inventory=inventory(nodes, tmp_path / "hosts.yml", hosts))
    assert len(ran.records) == 3
    for record in ran.records:
        assert {done["item"]: done["stdout"].strip() for done in record["result"]["results"]} == name


def test_an_address_of_the_container_is_not_where_it_is_entered(nodes: Nodes) -> None:
    """What the inventory composes as ansible_host."""
    for tool in ("pct", "lxc-attach"):
        connection = connect(nodes, node="pve1", host="192.0.2.1", tool=tool)
        assert connection.exec_command("uname -n")[:2] == (0, b"web-1\n")


def test_where_the_control_socket_is(nodes: Nodes) -> None:
    """Where the user says; and where it cannot be, ssh says so."""
    common = nodes.variables["ansible_ssh_common_args"]
    # The home of ssh is that of /etc/passwd.
    own = Path(pwd.getpwuid(os.getuid()).pw_dir, f".lxcri-{os.getpid()}.sock")
    connection = connect(nodes, ssh_common_args=f"{common} -o ControlPath=~/{own.name}")
    assert connection.exec_command("uname -n")[:2] == (0, b"web-1\n")
    assert own.exists()
    nodes.hang_up()
    wait_for(lambda: not own.exists())
    connection = connect(nodes, ssh_common_args=f"{common} -o ControlPath={own}.none/x")
    with pytest.raises(AnsibleConnectionFailure, match="cannot bind to path"):
        connection.exec_command("uname -n")


def test_all_containers_of_a_node_share_one_login(ansible: Ansible, nodes: Nodes, tmp_path: Path) -> None:
    """Ten at once from the first task on: a node takes as many sessions in one connection."""
    hosts = {f"host-{number}": {"proxmox_vmid": 201, "proxmox_node": "pve1"} for number in range(10)}
    tasks = [{"name": f"Task {number}", "ansible.builtin.raw": f"echo {number}"} for number in range(5)]
    play = {"name": "Test", "hosts": "all", "gather_facts": False, "tasks": tasks}
    logins, calls = nodes.pve1.logins, len(nodes.pve1.calls)
    ran = ansible.succeeds([play], "--forks", "10", inventory=inventory(nodes, tmp_path / "hosts.yml", hosts))
    assert len(ran.records) == 50
    assert nodes.pve1.logins - logins == 1
    assert nodes.pve1.calls[calls:] == ["exec 201"] * 50


def test_a_module_takes_one_round_trip(ansible: Ansible, nodes: Nodes, tmp_path: Path) -> None:
    hosts = {"web-1": {"proxmox_vmid": 201, "proxmox_node": "pve1"}}
    tasks = [{"name": f"Task {number}", "ansible.builtin.ping": None} for number in range(3)]
    play = {"name": "Test", "hosts": "all", "gather_facts": False, "tasks": tasks}
    calls = len(nodes.pve1.calls)
    ansible.succeeds([play], inventory=inventory(nodes, tmp_path / "hosts.yml", hosts))
    assert nodes.pve1.calls[calls:] == ["exec 201"] * 3


def test_unreachable_is_what_cannot_be_entered(ansible: Ansible, nodes: Nodes, tmp_path: Path) -> None:
    nodes.containers["202"].stop()
    try:
        hosts = {
            "stopped": {"proxmox_vmid": 202, "proxmox_node": "pve1"},
            "gone": {"proxmox_vmid": 999, "proxmox_node": "pve1"},
            "fails": {"proxmox_vmid": 201, "proxmox_node": "pve1"},
        }
        play = {"name": "Test", "hosts": "all", "gather_facts": False}
        play["tasks"] = [{"name": "Fail", "ansible.builtin.raw": "exit 255"}]
        ran = ansible.run([play], inventory=inventory(nodes, tmp_path / "hosts.yml", hosts))
    finally:
        nodes.containers["202"].start()
    recap = dict(re.findall(r"^(\w+)\s+: (ok=.*?) skipped", ran.stdout, re.MULTILINE))
    for host in ("stopped", "gone"):
        assert "unreachable=1    failed=0" in recap[host], ran.stdout
    assert "unreachable=0    failed=1" in recap["fails"], ran.stdout
    assert "Container 202 on 127.0.0.1 is not running." in ran.stdout.replace("\n", " ")
    assert "has no container 999" in ran.stdout.replace("\n", " ")


@pytest.mark.parametrize("ansible", [["--lag", "0"]], indirect=True)
def test_from_the_inventory_into_the_containers(ansible: Ansible, nodes: Nodes, tmp_path: Path) -> None:
    """What the inventory plugin knows is enough for this one."""
    fleet = [
        {"vmid": 201, "name": "web-1", "node": "pve1", "status": "running"},
        {"vmid": 203, "name": "db-1", "node": "pve2", "status": "running"},
        {"vmid": 204, "name": "old", "node": "pve2", "status": "stopped"},
    ]
    ansible.simulator.control("/containers", {"containers": fleet})
    source = {"plugin": "lxcri.proxmox.lxc", "connection": "pct", "filters": ["proxmox_status == 'running'"]}
    directory = tmp_path / "inventory"
    (directory / "group_vars/all").mkdir(parents=True)
    (directory / "all.proxmox_lxc.yml").write_text(yaml.safe_dump(source), encoding="utf-8")
    variables = {name: value for name, value in nodes.variables.items() if name != "ansible_connection"}
    (directory / "group_vars/all/node.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
    play = {"name": "Test", "hosts": "proxmox_lxc", "gather_facts": False}
    play["tasks"] = [{"name": "Name", "ansible.builtin.command": "uname -n"}]
    ran = ansible.succeeds([play], inventory=str(directory))
    assert sorted(record["result"]["stdout"] for record in ran.records) == ["db-1", "web-1"]
