//! The registered domains, to be found by identity, name and process.
//!
//! Invariant: the ways to find one agree; a name and a process are looked up without going over all.
//! Not here: what a domain is (`state`).

use std::collections::{BTreeMap, BTreeSet};

use journal_format::number::DomainId;
use journal_format::record::Instance;

use super::state::Domain;
use super::table::Table;

/// An instance as a key: boot, pid, start time.
type InstanceKey = ([u8; 16], u32, u64);

fn instance_key(instance: &Instance) -> InstanceKey {
    (instance.boot.0.0, instance.pid, instance.start_time)
}

/// All registered domains. Only a damaged history tells of two with one name or one process; then the
/// first of them is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Domains {
    by_id: Table<DomainId, Domain>,
    by_name: BTreeMap<String, BTreeSet<DomainId>>,
    by_instance: BTreeMap<InstanceKey, BTreeSet<DomainId>>,
}

impl Domains {
    pub(crate) fn get(&self, id: &DomainId) -> Option<&Domain> {
        self.by_id.get(id)
    }

    /// The domain, to change anything but its name and instance.
    pub(crate) fn get_mut(&mut self, id: &DomainId) -> Option<&mut Domain> {
        self.by_id.get_mut(id)
    }

    pub(crate) fn contains_key(&self, id: &DomainId) -> bool {
        self.by_id.contains_key(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &DomainId> {
        self.by_id.keys()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&DomainId, &Domain)> {
        self.by_id.iter()
    }

    /// The domain of that name.
    pub(crate) fn named(&self, name: &str) -> Option<DomainId> {
        self.by_name.get(name)?.first().copied()
    }

    /// The domain whose QEMU is that process.
    pub(crate) fn of_instance(&self, instance: &Instance) -> Option<DomainId> {
        let domains = self.by_instance.get(&instance_key(instance))?;
        domains.first().copied()
    }

    /// Registers a domain, in place of one of this identity, which is given back.
    pub(crate) fn insert(&mut self, id: DomainId, domain: Domain) -> Option<Domain> {
        let state = &domain.state;
        if let Some(known) = self.by_id.get_mut(&id)
            && known.state.name == state.name
        {
            if known.state.instance != state.instance {
                forget_instance(&mut self.by_instance, &known.state.instance, &id);
                let key = instance_key(&state.instance);
                self.by_instance.entry(key).or_default().insert(id);
            }
            return Some(core::mem::replace(known, domain));
        }
        let before = self.remove(&id);
        match self.by_name.get_mut(&state.name) {
            Some(domains) => domains.insert(id),
            None => {
                let only = BTreeSet::from([id]);
                self.by_name.insert(state.name.clone(), only).is_none()
            }
        };
        let key = instance_key(&state.instance);
        self.by_instance.entry(key).or_default().insert(id);
        self.by_id.insert(id, domain);
        before
    }

    pub(crate) fn remove(&mut self, id: &DomainId) -> Option<Domain> {
        let domain = self.by_id.remove(id)?;
        if let Some(domains) = self.by_name.get_mut(&domain.state.name) {
            domains.remove(id);
            if domains.is_empty() {
                self.by_name.remove(&domain.state.name);
            }
        }
        forget_instance(&mut self.by_instance, &domain.state.instance, id);
        Some(domain)
    }
}

/// A domain has another process now, or is gone.
fn forget_instance(
    by_instance: &mut BTreeMap<InstanceKey, BTreeSet<DomainId>>,
    instance: &Instance,
    id: &DomainId,
) {
    let key = instance_key(instance);
    if let Some(domains) = by_instance.get_mut(&key) {
        domains.remove(id);
        if domains.is_empty() {
            by_instance.remove(&key);
        }
    }
}
