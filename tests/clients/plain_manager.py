"""What a manager does that knows of no sidecar: plain QMP commands, by what both QEMUs show.

Knows nothing of clients: they look, ask here for the next command, and give it.
"""

CAPABILITIES = {
    "source": ["events", "return-path", "pause-before-switchover"],
    "destination": ["events", "return-path", "late-block-activate"],
}

# The source's QEMU is gone: the migration is over.
GONE = (None, None)

# Said of a second migrate-incoming, when the answer to the first one was lost.
ALREADY = "already been started"


def capabilities(side):
    """Arguments of migrate-set-capabilities."""
    states = [{"capability": name, "state": True} for name in CAPABILITIES[side]]
    return {"capabilities": states}


def shown(status, migration):
    """Run state and migration status, out of the answers to query-status and query-migrate."""
    return status["status"], migration.get("status", "none")


def step(source, destination, listens, uri):
    """The next (side, command, arguments), or None where there is only waiting to do."""
    if destination == ("inmigrate", "none") and not listens:
        return "destination", "migrate-incoming", {"uri": uri}
    if source == ("running", "none") and destination[0] == "inmigrate":
        return "source", "migrate", {"uri": uri}
    if source == ("finish-migrate", "pre-switchover"):
        return "source", "migrate-continue", {"state": "pre-switchover"}
    if source == ("postmigrate", "completed") and destination == ("paused", "completed"):
        return "destination", "cont", {}
    if source == ("postmigrate", "completed") and destination == ("running", "completed"):
        return "source", "quit", {}
    return None
