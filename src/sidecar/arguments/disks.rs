//! Which disks `migrate-domain` copies, and how.

use journal_format::record::DiskSync;
use serde_json::Value;

use super::{ArgumentError, Arguments};
use crate::engine::{DiskNames, DisksWanted};

const EXPECTED: &str = "an array of names of nodes, or of objects with 'source' and 'destination'";
const EXPECTED_SYNC: &str = "'full' or 'top'";

/// Takes `copy-disks`, `copy-sync` and `copy-nbd`; the last two go with the first only.
pub(super) fn take(arguments: &mut Arguments) -> Result<Option<DisksWanted>, ArgumentError> {
    let Some(listed) = arguments.values.remove("copy-disks") else {
        return Ok(None);
    };
    let sync = match arguments.optional_text("copy-sync")? {
        None => DiskSync::Full,
        Some(text) => DiskSync::from_name(&text)
            .ok_or_else(|| arguments.invalid("copy-sync", EXPECTED_SYNC))?,
    };
    let nbd = arguments.optional_text("copy-nbd")?;
    let wrong = || arguments.invalid("copy-disks", EXPECTED);
    let Value::Array(listed) = listed else {
        return Err(wrong());
    };
    let disks: Option<Vec<DiskNames>> = listed.into_iter().map(disk).collect();
    Ok(Some(DisksWanted {
        nbd,
        sync,
        disks: disks.ok_or_else(wrong)?,
    }))
}

fn disk(value: Value) -> Option<DiskNames> {
    match value {
        Value::String(name) => Some(DiskNames {
            source: name.clone(),
            destination: name,
        }),
        Value::Object(mut names) => {
            let mut text = |key: &str| match names.remove(key) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            let disk = DiskNames {
                source: text("source")?,
                destination: text("destination")?,
            };
            names.is_empty().then_some(disk)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Command, parse};
    use super::*;

    fn migrate(with: &[(&str, Value)]) -> Result<Option<DisksWanted>, String> {
        let mut arguments = json!({"name": "web", "peer": "/run/peer.sock", "uri": "unix:/run/m"});
        for (key, value) in with {
            arguments[*key] = value.clone();
        }
        match parse("migrate-domain", Some(arguments)) {
            Ok(Command::MigrateDomain(migrate)) => Ok(migrate.disks.map(|disks| *disks)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn disks_by_one_name_or_two() {
        assert_eq!(migrate(&[]), Ok(None));
        let both = json!(["boot", {"source": "data", "destination": "data-copy"}]);
        let wanted = migrate(&[
            ("copy-disks", both),
            ("copy-sync", json!("top")),
            ("copy-nbd", json!("tcp:b:10809")),
        ]);
        let wanted = wanted.unwrap().unwrap();
        assert_eq!(wanted.sync, DiskSync::Top);
        assert_eq!(wanted.nbd.as_deref(), Some("tcp:b:10809"));
        let names = wanted.disks.iter();
        let names: Vec<_> = names
            .map(|disk| (disk.source.as_str(), disk.destination.as_str()))
            .collect();
        assert_eq!(names, [("boot", "boot"), ("data", "data-copy")]);
    }

    #[test]
    fn one_error_for_what_is_wrong() {
        for wrong in [
            json!("boot"),
            json!([1]),
            json!([{"source": "a"}]),
            json!([{"source": "a", "destination": "b", "size": 1}]),
        ] {
            let error = migrate(&[("copy-disks", wrong.clone())]).unwrap_err();
            assert!(error.contains(EXPECTED), "{wrong}: {error}");
        }
        let sync = migrate(&[("copy-disks", json!(["a"])), ("copy-sync", json!("none"))]);
        assert!(sync.unwrap_err().contains(EXPECTED_SYNC));
        let alone = migrate(&[("copy-sync", json!("full"))]).unwrap_err();
        assert!(
            alone.contains("there is no argument 'copy-sync'"),
            "{alone}"
        );
    }
}
