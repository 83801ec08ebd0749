//! The source's mirrors: waited for, watched, settled at the switchover, and cleared away when it comes to nothing.
//!
//! Invariant: a mirror that ended otherwise than it was told to, or that cannot be seen, settles nothing; one that
//! fails ends the migration, never the guest.
//! Not here: what they are made of (`disks`).

use journal_format::number::MigrationId;
use journal_format::record::{EffectCommand, MigrationDisks};
use serde_json::json;

use super::{Mirror, disk_name, mirror};
use crate::engine::JobSeen;
use crate::engine::turn::Turn;

/// How long the guest stands still for its mirrors at the most, in milliseconds: then the migration is given up.
const SETTLE_MS_MAX: u64 = 10_000;
/// How long a mirror may take to be cancelled before its connection is cut, in milliseconds.
const CUT_AFTER_MS: u64 = 500;
/// How long the guest waits for its mirrors to be gone when it goes on at the source, in milliseconds.
const LET_GO_MS_MAX: u64 = 3_000;
/// How long a job stays open to clear away what its mirrors left, in milliseconds.
const CLEAR_MS_MAX: u64 = 15_000;

/// What is to be done about one mirror.
enum Next {
    /// Nothing more.
    Done,
    /// It is on its way.
    Wait,
    /// This, now.
    Do(&'static str, serde_json::Value),
    /// It came to nothing, and so does the migration.
    Fail(String),
}

impl Turn<'_> {
    /// Memory is sent when every disk was copied once, and is kept the same from there on.
    pub(super) fn await_mirrors(&mut self, id: MigrationId, disks: &MigrationDisks) {
        let Some(seen) = self.disks_seen(id) else {
            return;
        };
        let mut all_ready = true;
        for (index, disk) in disks.disks.iter().enumerate() {
            let Some(state) = mirror(&seen, &disk_name(id, index)) else {
                return;
            };
            match state {
                Mirror::Ready => {}
                Mirror::Copying | Mirror::Unknown | Mirror::Failing => all_ready = false,
                Mirror::Gone | Mirror::Ending | Mirror::Pending | Mirror::Over(_) => {
                    return self.abandon(id, &why_failed(&disk.source, &state), false);
                }
            }
        }
        let uri = self
            .migration(id)
            .map(|known| known.state.terms.uri.clone());
        if let Some(uri) = uri.filter(|_| all_ready) {
            self.cite_look(id);
            self.intend(id, EffectCommand::Migrate { uri });
        }
    }

    /// While memory is sent: false if a mirror failed, and the migration with it.
    pub(super) fn mirrors_go_on(&mut self, id: MigrationId, disks: &MigrationDisks) -> bool {
        let Some(seen) = self.disks_seen(id) else {
            return true;
        };
        for (index, disk) in disks.disks.iter().enumerate() {
            match mirror(&seen, &disk_name(id, index)) {
                None | Some(Mirror::Ready | Mirror::Unknown | Mirror::Failing) => {}
                Some(
                    state @ (Mirror::Copying
                    | Mirror::Gone
                    | Mirror::Ending
                    | Mirror::Pending
                    | Mirror::Over(_)),
                ) => {
                    self.abandon(id, &why_failed(&disk.source, &state), false);
                    return false;
                }
            }
        }
        true
    }

    /// The guest stands still: each mirror is told to end with all of its disk written, and taken away with its node.
    /// True when that is done for all of them, and written down: then the guest may go over.
    pub(super) fn settle_mirrors(&mut self, id: MigrationId, disks: &MigrationDisks) -> bool {
        let now = self.now;
        let live = self.live(id);
        live.blackout = true;
        let since = *live.disks.settling_since.get_or_insert(now);
        if now.saturating_sub(since) > SETTLE_MS_MAX {
            self.abandon(id, "the copied disks were not written in time", false);
            return false;
        }
        let Some(seen) = self.disks_seen(id) else {
            return false;
        };
        let mut all_done = true;
        for (index, disk) in disks.disks.iter().enumerate() {
            match self.next_to_settle(id, index, &disk.source, &seen) {
                Next::Done => {}
                Next::Wait => all_done = false,
                Next::Do(execute, arguments) => {
                    self.intend_for_disks(id, execute, &arguments);
                    return false;
                }
                Next::Fail(why) => {
                    self.abandon(id, &why, false);
                    return false;
                }
            }
        }
        if all_done {
            self.settle_disks(id);
        }
        all_done
    }

    fn next_to_settle(
        &mut self,
        id: MigrationId,
        index: usize,
        source: &str,
        seen: &JobSeen,
    ) -> Next {
        let name = disk_name(id, index);
        let (Some(state), Some(nodes)) = (mirror(seen, &name), &seen.nodes) else {
            return Next::Wait;
        };
        let live = &mut self.live(id).disks;
        let was_told = live.ending.contains(&index);
        match state {
            Mirror::Ready if live.ending.insert(index) => {
                // Without force that is no cancelling: the target is left as the guest's disk is.
                Next::Do("block-job-cancel", json!({"device": name, "force": false}))
            }
            Mirror::Pending if was_told && live.finalized.insert(index) => {
                Next::Do("job-finalize", json!({"id": name}))
            }
            Mirror::Over(None) if was_told => {
                live.written.insert(index);
                Next::Do("job-dismiss", json!({"id": name}))
            }
            Mirror::Gone if live.written.contains(&index) => {
                match nodes.iter().any(|node| node.name == name) {
                    true => Next::Do("blockdev-del", json!({"node-name": name})),
                    false => Next::Done,
                }
            }
            Mirror::Ready | Mirror::Failing | Mirror::Unknown => Next::Wait,
            Mirror::Ending | Mirror::Pending if was_told => Next::Wait,
            Mirror::Copying | Mirror::Ending | Mirror::Pending | Mirror::Over(_) | Mirror::Gone => {
                Next::Fail(why_failed(source, &state))
            }
        }
    }

    /// The guest stays: its mirrors are ended, so that it does not wait for a destination that may be out of reach.
    /// True when none writes any more, or when the guest has waited long enough.
    pub(crate) fn let_go_of_mirrors(&mut self, id: MigrationId) -> bool {
        let Some(disks) = self.disks(id).filter(|disks| !disks.settled).cloned() else {
            return true;
        };
        let now = self.now;
        let since = *self.live(id).disks.clearing_since.get_or_insert(now);
        let elapsed = now.saturating_sub(since);
        if elapsed > LET_GO_MS_MAX {
            return true;
        }
        let Some(seen) = self.disks_seen(id) else {
            return false;
        };
        let mut none_writes = true;
        for index in 0..disks.disks.len() {
            let name = disk_name(id, index);
            match mirror(&seen, &name) {
                Some(Mirror::Gone | Mirror::Over(_)) => continue,
                None | Some(Mirror::Failing) => {}
                Some(
                    Mirror::Copying
                    | Mirror::Ready
                    | Mirror::Ending
                    | Mirror::Pending
                    | Mirror::Unknown,
                ) => {
                    let live = &mut self.live(id).disks;
                    if live.cancelled.insert(index) {
                        self.intend_for_disks(id, "job-cancel", &json!({"id": name}));
                        return false;
                    }
                    if elapsed > CUT_AFTER_MS && live.cut.insert(index) {
                        let node = json!([{"type": "block-node", "node-name": name}]);
                        self.intend_for_disks(id, "yank", &json!({"instances": node}));
                        return false;
                    }
                }
            }
            none_writes = false;
        }
        none_writes
    }

    /// QEMU may answer nothing because it waits for a destination that does not: after a while the migration is given up
    /// and the mirrors' connections are cut, which QEMU takes out of band. Before a licence went out that is always
    /// possible.
    pub(crate) fn cut_mute_mirrors(&mut self, id: MigrationId) {
        let Some(disks) = self.disks(id).filter(|disks| !disks.settled).cloned() else {
            return;
        };
        let now = self.now;
        let since = *self.live(id).disks.mute_since.get_or_insert(now);
        if now.saturating_sub(since) < SETTLE_MS_MAX {
            return;
        }
        self.abandon(id, "QEMU answers nothing while it copies disks", false);
        let uncut = (0..disks.disks.len()).find(|index| self.live(id).disks.cut.insert(*index));
        if let Some(index) = uncut {
            let node = json!([{"type": "block-node", "node-name": disk_name(id, index)}]);
            self.intend_for_disks(id, "yank", &json!({"instances": node}));
        }
    }

    /// The guest goes on: what its mirrors left is taken away. True when nothing is left, or when that took too long.
    pub(crate) fn clear_mirrors(&mut self, id: MigrationId) -> bool {
        let Some(disks) = self.disks(id).filter(|disks| !disks.settled).cloned() else {
            return true;
        };
        let now = self.now;
        let since = *self.live(id).disks.clearing_since.get_or_insert(now);
        let is_late = now.saturating_sub(since) > CLEAR_MS_MAX;
        let seen = match self.disks_seen(id) {
            Some(seen) => seen,
            None if is_late => JobSeen::default(),
            None => return false,
        };
        let mut left = Vec::new();
        for index in 0..disks.disks.len() {
            let name = disk_name(id, index);
            let is_node = |node: &crate::engine::NodeSeen| node.name == name;
            let has_node = seen.nodes.as_ref().map(|nodes| nodes.iter().any(is_node));
            let next = match (mirror(&seen, &name), has_node) {
                (Some(Mirror::Gone), Some(false)) => continue,
                (Some(Mirror::Gone), Some(true)) => {
                    Some(("blockdev-del", json!({"node-name": name})))
                }
                (Some(Mirror::Over(_)), _) => Some(("job-dismiss", json!({"id": name}))),
                (None, _) | (Some(Mirror::Failing), _) | (Some(Mirror::Gone), None) => None,
                (Some(_), _) => Some(("job-cancel", json!({"id": name}))),
            };
            if let Some((execute, arguments)) = next.filter(|_| !is_late) {
                self.tell_to_go(id, execute, &name, &arguments);
                return false;
            }
            left.push(name);
        }
        let is_clear = left.is_empty();
        self.live(id).disks.left = left;
        is_clear || is_late
    }
}

fn why_failed(node: &str, state: &Mirror) -> String {
    match state {
        Mirror::Over(Some(error)) => format!("the mirror of node '{node}' failed: {error}"),
        Mirror::Gone => format!("the mirror of node '{node}' is gone"),
        Mirror::Copying => format!("the mirror of node '{node}' is not ready any more"),
        Mirror::Ready
        | Mirror::Ending
        | Mirror::Pending
        | Mirror::Failing
        | Mirror::Over(None)
        | Mirror::Unknown => {
            format!("the mirror of node '{node}' was ended from outside")
        }
    }
}
