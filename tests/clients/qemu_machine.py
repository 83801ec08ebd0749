"""QEMU's own test machine on the monitor in QEMU's place, for the whole life of a QEMU.

Usage: qemu_machine.py PART DIRECTORY SOURCE DESTINATION. A side is a JSON object: "binary" and "args" of its QEMU, "name"
and "uuid" of the domain, "qmp" (where QEMU listens), "monitor" and "control" (where its sidecar does). Prints one line for each part that worked; then
waits for the end of its input before it ends the machines.
"""

import json
import os
import sys
import time

from qemu.machine import QEMUMachine
from qemu.qmp.legacy import QEMUMonitorProtocol
from qemu.qmp.protocol import ConnectError
from qemu.qmp.qmp_client import ExecInterruptedError

import plain_manager

# Between two looks at what can only be looked at.
LOOK_EVERY = 0.02


class Machine(QEMUMachine):
    """What its user changes: QEMU listens where the sidecar looks for it, and the machine's monitor is the sidecar's."""

    def __init__(self, side, name, directory):
        # It ends with this script, however that one ends.
        wrapper = ("setpriv", "--pdeathsig", "KILL", "--")
        super().__init__(side["binary"], side["args"], wrapper, name, directory)
        self.set_qmp_monitor(False)
        self.side = side

    def _pre_launch(self):
        super()._pre_launch()
        self._qmp_connection = QEMUMonitorProtocol(self.side["monitor"], nickname=self._name)

    def _post_launch(self):
        domain = {"name": self.side["name"], "qmp": self.side["qmp"], "uuid": self.side["uuid"], "pid": self.get_pid()}
        register(self.side["control"], domain)
        self._qmp.connect()

    def look(self):
        """As plain_manager.shown."""
        if not self.is_running():
            return plain_manager.GONE
        return plain_manager.shown(self.command("query-status"), self.command("query-migrate"))


def register(control, domain):
    """Tells the sidecar of a new QEMU. Its control socket speaks QMP. QEMU listens in a moment, and a sidecar that died is
    back in one."""
    while True:
        client = QEMUMonitorProtocol(control)
        try:
            client.connect()
            answer = client.cmd("domain-add", domain)
        except (ConnectError, EOFError, OSError):
            time.sleep(LOOK_EVERY)
            continue
        finally:
            try:
                client.close()
            except (EOFError, OSError):
                pass
        if "error" not in answer:
            return
        print(answer, file=sys.stderr)
        time.sleep(LOOK_EVERY)


def query_everything(machine):
    answered = 0
    for one in machine.command("query-commands"):
        if one["name"].startswith("query-"):
            answered += "return" in machine.qmp(one["name"])
    assert answered > 50, answered
    assert len(machine.command("query-qmp-schema")) > 500
    print("query everything")


def events(machine):
    machine.command("stop")
    assert machine.event_wait("STOP", timeout=10.0)
    machine.command("cont")
    assert machine.event_wait("RESUME", timeout=10.0)
    print("events")


def hotplug(machine):
    machine.command("device_add", driver="virtio-rng-pci", id="rng")
    assert any(one["name"] == "rng" for one in machine.command("qom-list", path="/machine/peripheral"))
    with open("/dev/null", "rb") as null:
        machine.send_fd_scm(null.fileno())
    machine.command("getfd", fdname="null")
    machine.command("closefd", fdname="null")
    print("hotplug")


def snapshot(machine, directory):
    device = machine.command("query-block")[0]["device"]
    overlay = os.path.join(directory, "overlay")
    machine.qmp("blockdev-snapshot-sync", conv_keys=True, device=device, snapshot_file=overlay, format="qcow2")
    assert machine.command("query-block")[0]["inserted"]["file"] == overlay
    print("snapshot")


def migrate(machines, directory):
    """A sidecar's death ends no connection: the service manager keeps them."""
    uri = "unix:" + os.path.join(directory, "stream")
    for side, machine in machines.items():
        # While the sidecar recovers an effect may be refused: it is given again.
        while "error" in machine.qmp("migrate-set-capabilities", plain_manager.capabilities(side)):
            time.sleep(LOOK_EVERY)
    listens = False
    source, destination = machines["source"], machines["destination"]
    while True:
        step = plain_manager.step(source.look(), destination.look(), listens, uri)
        if step is None:
            time.sleep(LOOK_EVERY)
            continue
        side, command, arguments = step
        if command == "quit":
            break
        answer = machines[side].qmp(command, arguments)
        if command == "migrate-incoming":
            listens |= "error" not in answer or plain_manager.ALREADY in answer["error"]["desc"]
    end(source)
    print("migrate")


def end(machine):
    """As shutdown(), which does not look at an error: an effect that a sidecar's death kept from QEMU is answered with one."""
    while machine.is_running():
        try:
            if "error" not in machine.qmp("quit"):
                break
        except ExecInterruptedError:
            # The sidecar, when it is back, ends a migration's source by the word that it had written down: the connection
            # ends as QEMU does, before there is an answer.
            break
        time.sleep(LOOK_EVERY)
    machine.wait()


def main():
    part, directory, *sides = sys.argv[1:]
    machines = {}
    for name, side in zip(("source", "destination"), sides):
        machines[name] = Machine(json.loads(side), name, directory)
        machines[name].launch()
    if part == "plain":
        source = machines["source"]
        query_everything(source)
        events(source)
        hotplug(source)
        snapshot(source, directory)
    else:
        migrate(machines, directory)
    sys.stdout.flush()
    sys.stdin.read()
    for machine in machines.values():
        if part == "plain":
            machine.shutdown()
        else:
            end(machine)
    print("shutdown")


main()
