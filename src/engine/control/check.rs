//! What of a request can be checked without looking at anything.
//!
//! Invariant: the same of what another sidecar asks and of what a manager asks.
//! Not here: whether a request is possible now.

use journal_format::record::{DEFINITION_SIZE_MAX, TEXT_SIZE_MAX, definition_checksum};

use crate::engine::settings::check as check_settings;
use crate::engine::{DisksOffered, PeerRequest, Refusal};

/// Longest name, path or URI in a request, in bytes.
const NAME_SIZE_MAX: usize = TEXT_SIZE_MAX / 4;

/// What makes a peer's prepare unacceptable whatever the domain; `None` if nothing does.
pub(crate) fn unacceptable(request: &PeerRequest) -> Option<String> {
    let PeerRequest::Prepare {
        name,
        source_name,
        peer,
        uri,
        store,
        definition,
        definition_checksum,
        settings,
        postcopy,
        disks,
        ..
    } = request
    else {
        return None;
    };
    if let Some(Err(why)) = disks.as_deref().map(DisksOffered::check) {
        return Some(why.to_string());
    }
    let texts = [("name", name), ("source-name", source_name), ("peer", peer)];
    let store = store.as_ref().map(|store| ("store", store));
    for (what, text) in texts.into_iter().chain(store) {
        if let Err(refusal) = check_text(what, text) {
            return Some(refusal.to_string());
        }
    }
    let checked = check_uri(uri)
        .and_then(|()| check_definition(definition.as_deref()))
        .and_then(|()| check_checksum(definition.as_deref(), *definition_checksum));
    let refused = checked.err().map(|refusal| refusal.to_string());
    refused.or_else(|| {
        let settings = check_settings(settings, *postcopy);
        settings.err().map(|why| why.to_string())
    })
}

pub(super) fn check_text(what: &'static str, text: &str) -> Result<(), Refusal> {
    if text.len() > NAME_SIZE_MAX {
        return Err(Refusal::TooLong {
            what,
            size_max: NAME_SIZE_MAX,
        });
    }
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Refusal::NotVisible { what });
    }
    Ok(())
}

/// How a guest may travel. QEMU knows more: with `exec:` it runs a command, and the destination gets
/// the URI from another host.
const MIGRATION_SCHEMES: &[&str] = &["unix:", "tcp:", "vsock:", "rdma:"];

pub(super) fn check_uri(uri: &str) -> Result<(), Refusal> {
    check_text("uri", uri)?;
    let is_known = |scheme: &&str| uri.starts_with(*scheme);
    if !MIGRATION_SCHEMES.iter().any(is_known) {
        return Err(Refusal::UnknownUri {
            schemes: MIGRATION_SCHEMES,
        });
    }
    Ok(())
}

pub(super) fn check_definition(definition: Option<&str>) -> Result<(), Refusal> {
    if definition.is_some_and(|text| text.len() > DEFINITION_SIZE_MAX) {
        return Err(Refusal::TooLong {
            what: "definition",
            size_max: DEFINITION_SIZE_MAX,
        });
    }
    Ok(())
}

/// Is it, byte for byte, what the source sent? Nothing is done with it before that is known.
fn check_checksum(definition: Option<&str>, checksum: Option<u32>) -> Result<(), Refusal> {
    match definition.map(definition_checksum) == checksum {
        true => Ok(()),
        false => Err(Refusal::DefinitionChecksum),
    }
}
