"""QEMU's own Python client on the monitors of a migration's two sides, in QEMU's place.

Usage: qemu_qmp.py PART SOURCE DESTINATION DIRECTORY [PID OF THE SOURCE]. Prints one line for each part that worked.
"""

import asyncio
import os
import sys

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, StateError
from qemu.qmp.legacy import QEMUMonitorProtocol

import plain_manager

# What needs arguments, or hardware that is not there, is refused by QEMU itself.
REFUSED = {
    "query-cpu-model-expansion", "query-rocker", "query-rocker-ports", "query-rocker-of-dpa-flows",
    "query-rocker-of-dpa-groups", "query-sev", "query-sev-capabilities", "query-sev-launch-measure",
    "query-sev-attestation-report", "query-sgx", "query-sgx-capabilities", "query-vm-generation-id",
    "query-stats", "query-balloon", "query-hotpluggable-cpus", "query-xen-replication-status",
    "query-acpi-ospm-status", "query-colo-status", "query-spice", "query-vcpu-dirty-limit",
}


async def query_everything(qmp):
    names = [one["name"] for one in await qmp.execute("query-commands")]
    answered = 0
    for name in sorted(names):
        if name.startswith("query-"):
            try:
                await qmp.execute(name)
                answered += 1
            except ExecuteError as error:
                assert name in REFUSED, f"{name}: {error}"
    assert answered > 50, answered
    schema = await qmp.execute("query-qmp-schema")
    assert len(schema) > 500
    print("query everything")


async def events(qmp):
    with qmp.listener(("STOP", "RESUME")) as listener:
        await qmp.execute("stop")
        assert (await listener.get())["event"] == "STOP"
        await qmp.execute("cont")
        assert (await listener.get())["event"] == "RESUME"
    print("events")


async def hotplug(qmp):
    await qmp.execute("object-add", {"qom-type": "iothread", "id": "io"})
    names = [one["id"] for one in await qmp.execute("query-iothreads")]
    assert names == ["io"], names
    await qmp.execute("object-del", {"id": "io"})
    backend = {"type": "null", "data": {}}
    await qmp.execute("chardev-add", {"id": "c", "backend": backend})
    await qmp.execute("chardev-remove", {"id": "c"})
    await qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "rng"})
    print("hotplug")


async def snapshot(qmp, directory):
    device = (await qmp.execute("query-block"))[0]["device"]
    overlay = os.path.join(directory, "overlay")
    arguments = {"device": device, "snapshot-file": overlay, "format": "qcow2"}
    await qmp.execute("blockdev-snapshot-sync", arguments)
    file = (await qmp.execute("query-block"))[0]["inserted"]["file"]
    assert file == overlay, file
    print("snapshot")


async def at_once(path):
    """Several clients, each with its own answers."""
    clients = [QMPClient(f"c{number}") for number in range(10)]
    for client in clients:
        await client.connect(path)
    answers = await asyncio.gather(
        *(client.execute("query-status") for client in clients for _ in range(20)))
    assert all(answer["running"] for answer in answers)
    for client in clients:
        await client.disconnect()
    print("at once")


async def plain(path, directory):
    qmp = QMPClient("plain")
    await qmp.connect(path)
    assert qmp.greeting.QMP.version["qemu"]["major"] >= 7
    await query_everything(qmp)
    await events(qmp)
    await hotplug(qmp)
    await snapshot(qmp, directory)
    await at_once(path)
    await qmp.disconnect()


def legacy(path):
    """The client that QEMU's own tests' QEMUMachine is built on."""
    with QEMUMonitorProtocol(path) as qmp:
        qmp.connect()
        assert qmp.cmd("query-status")["running"]
        descriptor = os.open("/dev/null", os.O_RDONLY)
        qmp.send_fd_scm(descriptor)
        os.close(descriptor)
        qmp.cmd("getfd", fdname="null")
        qmp.cmd("closefd", fdname="null")
        qmp.cmd("stop")
        assert qmp.pull_event(wait=10.0)["event"] == "STOP"
        qmp.cmd("cont")
    print("legacy")


async def until(qmp, command, wanted):
    while True:
        answer = await qmp.execute(command)
        if answer.get("status") == wanted:
            return
        assert answer.get("status") != "failed", answer
        await asyncio.sleep(0.02)


async def migrate(source_path, destination_path, directory):
    """A migration by plain commands, as a manager does it that knows of no sidecar."""
    source, destination = QMPClient("source"), QMPClient("destination")
    await source.connect(source_path)
    await destination.connect(destination_path)
    names = ("events", "return-path")
    capabilities = {"capabilities": [{"capability": name, "state": True} for name in names]}
    for qmp in (source, destination):
        await qmp.execute("migrate-set-capabilities", capabilities)
    uri = "unix:" + os.path.join(directory, "stream")
    await destination.execute("migrate-incoming", {"uri": uri})
    await source.execute("migrate", {"uri": uri})
    await until(source, "query-migrate", "completed")
    await until(destination, "query-migrate", "completed")
    await destination.execute("cont")
    await until(destination, "query-status", "running")
    await source.execute("quit")
    # As QEMU's end, which the client sees by the end of its connection.
    await asyncio.wait_for(source.runstate_changed(), 10)
    try:
        await source.disconnect()
    except EOFError:
        pass
    await destination.disconnect()
    print("migrate")


class Monitor:
    """A monitor to which a manager connects again when its connection ends."""

    def __init__(self, path):
        self.path = path
        self.qmp = None

    async def execute(self, command, arguments=None):
        """The answer; None when the connection ended with nothing known of it, or cannot be made now."""
        try:
            if self.qmp is None:
                qmp = QMPClient("killed")
                await qmp.connect(self.path)
                self.qmp = qmp
            return await self.qmp.execute(command, arguments)
        except (ConnectError, ExecInterruptedError, StateError):
            await self.close()
            return None

    async def look(self):
        """As plain_manager.shown, or None."""
        status = await self.execute("query-status")
        migration = await self.execute("query-migrate")
        return plain_manager.shown(status, migration) if status and migration is not None else None

    async def close(self):
        qmp, self.qmp = self.qmp, None
        if qmp is not None:
            try:
                await qmp.disconnect()
            except (EOFError, OSError):
                pass


def is_gone(pid):
    """A process that ended, whether or not somebody has asked for its exit status."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return not file.read()
    except OSError:
        return True


async def killed(source_path, destination_path, directory, source_pid):
    """A migration whose sidecars die meanwhile: the manager looks, and goes on."""
    monitors = {"source": Monitor(source_path), "destination": Monitor(destination_path)}
    uri = "unix:" + os.path.join(directory, "stream")
    pending = [
        (side, "migrate-set-capabilities", plain_manager.capabilities(side)) for side in monitors]
    listens = False
    while not is_gone(source_pid):
        await asyncio.sleep(0.02)
        if pending:
            side, command, arguments = pending[0]
        else:
            source, destination = [await monitor.look() for monitor in monitors.values()]
            if source is None or destination is None:
                continue
            step = plain_manager.step(source, destination, listens, uri)
            if step is None:
                continue
            side, command, arguments = step
        try:
            answer = await monitors[side].execute(command, arguments)
        except ExecuteError as error:
            # It recovers, or did it before its answer was lost.
            listens |= command == "migrate-incoming" and plain_manager.ALREADY in str(error)
            continue
        if pending and answer is not None:
            pending.pop(0)
        listens |= command == "migrate-incoming" and answer is not None
    for monitor in monitors.values():
        await monitor.close()
    print("killed")


def main():
    what, source, destination, directory, *source_pid = sys.argv[1:]
    if what == "plain":
        asyncio.run(plain(source, directory))
    elif what == "legacy":
        legacy(source)
    elif what == "killed":
        asyncio.run(killed(source, destination, directory, *source_pid))
    else:
        asyncio.run(migrate(source, destination, directory))


main()
