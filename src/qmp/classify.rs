//! Which commands of QEMU only read, which carry file descriptors, and which carry secrets.
//!
//! Invariant: what is not listed as reading is an effect, whatever its name looks like; what is
//! journaled of a command never has a listed secret.
//! Not here: what an effect may do to a job (the engine).
//!
//! The lists cover the commands of QEMU 7.2 to 10 (`qapi/*.json`). A test compares them with the real
//! QEMU's own `query-qmp-schema`.

use serde_json::{Map, Value};

/// Most bytes of a command's arguments that are journaled.
pub const ARGUMENTS_SIZE_MAX: usize = 4096;

/// Most file descriptors that a command may carry (QEMU's `TCP_MAX_FDS`).
pub const FDS_MAX: usize = 16;

/// What is journaled in a secret's place.
pub const REDACTED: &str = "(redacted)";

/// Commands that change neither a guest nor a job nor QEMU. In order, for the search.
const READING: &[&str] = &[
    "device-list-properties",
    "qom-get",
    "qom-list",
    "qom-list-get",
    "qom-list-properties",
    "qom-list-types",
    "query-accelerators",
    "query-acpi-ospm-status",
    "query-audiodevs",
    "query-balloon",
    "query-block",
    "query-block-exports",
    "query-block-jobs",
    "query-blockstats",
    "query-chardev",
    "query-chardev-backends",
    "query-colo-status",
    "query-command-line-options",
    "query-commands",
    "query-cpu-definitions",
    "query-cpu-model-baseline",
    "query-cpu-model-comparison",
    "query-cpu-model-expansion",
    "query-cpus-fast",
    "query-cryptodev",
    "query-current-machine",
    "query-dirty-rate",
    "query-display-options",
    "query-dump",
    "query-dump-guest-memory-capability",
    "query-fdsets",
    "query-gic-capabilities",
    "query-hotpluggable-cpus",
    "query-hv-balloon-status-report",
    "query-iothreads",
    "query-jobs",
    "query-kvm",
    "query-machines",
    "query-memdev",
    "query-memory-devices",
    "query-memory-size-summary",
    "query-mice",
    "query-migrate",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-migrationthreads",
    "query-name",
    "query-named-block-nodes",
    "query-pci",
    "query-pr-managers",
    "query-qmp-schema",
    "query-replay",
    "query-rocker",
    "query-rocker-of-dpa-flows",
    "query-rocker-of-dpa-groups",
    "query-rocker-ports",
    "query-rx-filter",
    "query-s390x-cpu-polarization",
    "query-sev",
    "query-sev-attestation-report",
    "query-sev-capabilities",
    "query-sev-launch-measure",
    "query-sgx",
    "query-sgx-capabilities",
    "query-spice",
    "query-stats",
    "query-stats-schemas",
    "query-status",
    "query-target",
    "query-tpm",
    "query-tpm-models",
    "query-tpm-types",
    "query-uuid",
    "query-vcpu-dirty-limit",
    "query-version",
    "query-vm-generation-id",
    "query-vnc",
    "query-vnc-servers",
    "query-xen-replication-status",
    "query-yank",
    "request-ebpf",
    "trace-event-get-state",
    "x-accel-stats",
    "x-debug-block-dirty-bitmap-sha256",
    "x-debug-query-block-graph",
    "x-query-interrupt-controllers",
    "x-query-irq",
    "x-query-jit",
    "x-query-numa",
    "x-query-opcount",
    "x-query-profile",
    "x-query-ramblock",
    "x-query-rdma",
    "x-query-roms",
    "x-query-usb",
    "x-query-virtio",
    "x-query-virtio-queue-element",
    "x-query-virtio-queue-status",
    "x-query-virtio-status",
    "x-query-virtio-vhost-queue-status",
    "xen-event-list",
];

/// Commands that change something. All that is not in [`READING`] counts as one; those that are known are
/// listed so that a command of a newer QEMU is seen to be new. In order.
const EFFECTS: &[&str] = &[
    "add-fd",
    "add_client",
    "announce-self",
    "balloon",
    "block-commit",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable",
    "block-dirty-bitmap-merge",
    "block-dirty-bitmap-remove",
    "block-export-add",
    "block-export-del",
    "block-job-cancel",
    "block-job-change",
    "block-job-complete",
    "block-job-dismiss",
    "block-job-finalize",
    "block-job-pause",
    "block-job-resume",
    "block-job-set-speed",
    "block-latency-histogram-set",
    "block-set-write-threshold",
    "block-stream",
    "block_resize",
    "block_set_io_throttle",
    "blockdev-add",
    "blockdev-backup",
    "blockdev-change-medium",
    "blockdev-close-tray",
    "blockdev-create",
    "blockdev-del",
    "blockdev-insert-medium",
    "blockdev-mirror",
    "blockdev-open-tray",
    "blockdev-remove-medium",
    "blockdev-reopen",
    "blockdev-set-active",
    "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync",
    "blockdev-snapshot-internal-sync",
    "blockdev-snapshot-sync",
    "calc-dirty-rate",
    "cancel-vcpu-dirty-limit",
    "change-backing-file",
    "change-vnc-password",
    "chardev-add",
    "chardev-change",
    "chardev-remove",
    "chardev-send-break",
    "client_migrate_info",
    "closefd",
    "cont",
    "cxl-add-dynamic-capacity",
    "cxl-inject-correctable-error",
    "cxl-inject-dram-event",
    "cxl-inject-general-media-event",
    "cxl-inject-memory-module-event",
    "cxl-inject-poison",
    "cxl-inject-uncorrectable-errors",
    "cxl-release-dynamic-capacity",
    "device-sync-config",
    "device_add",
    "device_del",
    "display-reload",
    "display-update",
    "drive-backup",
    "drive-mirror",
    "dump-guest-memory",
    "dump-skeys",
    "dumpdtb",
    "eject",
    "expire_password",
    "get-win32-socket",
    "getfd",
    "human-monitor-command",
    "inject-nmi",
    "input-send-event",
    "job-cancel",
    "job-complete",
    "job-dismiss",
    "job-finalize",
    "job-pause",
    "job-resume",
    "memsave",
    "migrate",
    "migrate-continue",
    "migrate-incoming",
    "migrate-pause",
    "migrate-recover",
    "migrate-set-capabilities",
    "migrate-set-parameters",
    "migrate-start-postcopy",
    "migrate_cancel",
    "nbd-server-add",
    "nbd-server-remove",
    "nbd-server-start",
    "nbd-server-stop",
    "netdev_add",
    "netdev_del",
    "object-add",
    "object-del",
    "pmemsave",
    "qom-set",
    "quit",
    "remove-fd",
    "replay-break",
    "replay-delete-break",
    "replay-seek",
    "ringbuf-read",
    "ringbuf-write",
    "rtc-reset-reinjection",
    "screendump",
    "send-key",
    "set-action",
    "set-cpu-topology",
    "set-numa-node",
    "set-vcpu-dirty-limit",
    "set_link",
    "set_password",
    "sev-inject-launch-secret",
    "snapshot-delete",
    "snapshot-load",
    "snapshot-save",
    "stop",
    "system_powerdown",
    "system_reset",
    "system_wakeup",
    "trace-event-set-state",
    "transaction",
    "watchdog-set-action",
    "x-blockdev-amend",
    "x-blockdev-change",
    "x-blockdev-set-iothread",
    "x-colo-lost-heartbeat",
    "x-exit-preconfig",
    "xen-colo-do-checkpoint",
    "xen-event-inject",
    "xen-load-devices-state",
    "xen-save-devices-state",
    "xen-set-global-dirty-log",
    "xen-set-replication",
    "yank",
];

/// Commands that QEMU also takes out of band.
const OUT_OF_BAND: &[&str] = &["migrate-pause", "migrate-recover", "query-yank", "yank"];

/// Commands that take file descriptors from what is passed along with them.
const TAKING_FDS: &[&str] = &["add-fd", "getfd"];

/// Human monitor commands whose text may hold a secret; of those only the first word is journaled.
const SECRET_HUMAN: &[&str] = &[
    "change",
    "expire_password",
    "object_add",
    "sendkey",
    "set_password",
];

/// Members that are secret: of which command, and which of its arguments (at any depth).
const SECRETS: &[(&str, &str)] = &[
    ("change-vnc-password", "password"),
    ("input-send-event", "events"),
    ("send-key", "keys"),
    ("set_password", "password"),
    ("sev-inject-launch-secret", "packet-header"),
    ("sev-inject-launch-secret", "secret"),
];

/// Members that are secret in whatever command they occur: a block device's `cookie` is a credential, and
/// the `data` of a QOM object of the type `secret` the secret itself.
const SECRET_ANYWHERE: &[&str] = &["cookie", "password"];

/// QOM types that hold a secret in `data`.
const SECRET_TYPES: &[&str] = &["secret", "secret_keyring"];

/// Properties whose value `qom-set` is not journaled.
const SECRET_PROPERTIES: &[&str] = &["cookie", "data", "password"];

/// What a command does, as far as the wire must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It only reads.
    Reading,
    /// It may change something.
    Effect,
}

/// What the command of that name does; one that is not known may change anything.
#[must_use]
pub fn classify(name: &str) -> Class {
    match READING.binary_search(&name) {
        Ok(_) => Class::Reading,
        Err(_) => Class::Effect,
    }
}

/// Whether the command is known at all.
#[must_use]
pub fn is_known(name: &str) -> bool {
    name == "qmp_capabilities"
        || READING.binary_search(&name).is_ok()
        || EFFECTS.binary_search(&name).is_ok()
}

/// Whether QEMU takes it out of band.
#[must_use]
pub fn may_go_out_of_band(name: &str) -> bool {
    OUT_OF_BAND.contains(&name)
}

/// Whether it takes file descriptors that are passed along with it.
#[must_use]
pub fn takes_fds(name: &str) -> bool {
    TAKING_FDS.contains(&name)
}

/// A command's arguments as they are journaled, as JSON text; and whether that is less than was sent: secrets are
/// left out, and so is what is longer than [`ARGUMENTS_SIZE_MAX`].
#[must_use]
pub(super) fn journaled(name: &str, arguments: &Value) -> (String, bool) {
    let mut arguments = arguments.clone();
    let mut redacted = redact(name, &mut arguments);
    let mut text = arguments.to_string();
    if text.len() > ARGUMENTS_SIZE_MAX {
        text = format!(r#"{{"omitted-bytes":{}}}"#, text.len());
        redacted = true;
    }
    (text, redacted)
}

/// Is there something among these arguments that is left out when they are journaled since it is secret?
#[must_use]
pub fn carries_secret(name: &str, arguments: &Map<String, Value>) -> bool {
    redact(name, &mut Value::Object(arguments.clone()))
}

/// Replaces what is secret; whether anything was.
fn redact(name: &str, arguments: &mut Value) -> bool {
    let Value::Object(members) = arguments else {
        return false;
    };
    match name {
        "human-monitor-command" => redact_human(members),
        "qom-set" => {
            let is_secret =
                text(members, "property").is_some_and(|one| SECRET_PROPERTIES.contains(&one));
            is_secret && hide(members, "value")
        }
        _ => redact_members(name, members),
    }
}

fn redact_members(name: &str, members: &mut Map<String, Value>) -> bool {
    let of_secret_type = ["qom-type", "qom_type"]
        .iter()
        .any(|key| text(members, key).is_some_and(|one| SECRET_TYPES.contains(&one)));
    let mut redacted = false;
    if of_secret_type {
        redacted |= hide(members, "data");
        // As QEMU before 6 took them.
        if let Some(Value::Object(props)) = members.get_mut("props") {
            redacted |= hide(props, "data");
        }
    }
    for (key, value) in members {
        let is_secret = SECRET_ANYWHERE.contains(&key.as_str()) || SECRETS.contains(&(name, key));
        redacted |= match value {
            Value::Null => false,
            value if is_secret => {
                *value = Value::from(REDACTED);
                true
            }
            value => redact_within(name, value),
        };
    }
    redacted
}

fn redact_within(name: &str, value: &mut Value) -> bool {
    match value {
        Value::Object(members) => redact_members(name, members),
        Value::Array(values) => values
            .iter_mut()
            .fold(false, |redacted, one| redact_within(name, one) | redacted),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn redact_human(members: &mut Map<String, Value>) -> bool {
    let Some(line) = text(members, "command-line") else {
        return false;
    };
    let word = line.split_whitespace().next().unwrap_or_default();
    if !SECRET_HUMAN.contains(&word) {
        return false;
    }
    let shown = format!("{word} {REDACTED}");
    members.insert("command-line".to_owned(), Value::from(shown));
    true
}

fn hide(members: &mut Map<String, Value>, key: &str) -> bool {
    match members.get_mut(key) {
        None => false,
        Some(value) => {
            *value = Value::from(REDACTED);
            true
        }
    }
}

fn text<'a>(members: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    members.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_lists_are_in_order_and_apart() {
        for list in [READING, EFFECTS] {
            assert!(list.is_sorted_by(|one, next| one < next));
        }
        assert!(!READING.iter().any(|name| EFFECTS.contains(name)));
        for name in TAKING_FDS {
            assert_eq!(classify(name), Class::Effect);
        }
        for name in OUT_OF_BAND {
            assert!(is_known(name));
        }
    }

    #[test]
    fn what_is_not_known_is_an_effect() {
        assert_eq!(classify("query-status"), Class::Reading);
        assert_eq!(classify("query-something-new"), Class::Effect);
        assert_eq!(classify("__com.example_query"), Class::Effect);
        assert_eq!(classify("human-monitor-command"), Class::Effect);
        assert_eq!(classify(""), Class::Effect);
    }

    #[test]
    fn secrets_are_not_journaled() {
        let secret = "hunter2";
        let cases = [
            (
                "set_password",
                json!({"protocol": "vnc", "password": secret}),
            ),
            ("change-vnc-password", json!({"password": secret})),
            (
                "object-add",
                json!({"qom-type": "secret", "id": "s", "data": secret}),
            ),
            (
                "object-add",
                json!({"qom-type": "secret", "id": "s", "props": {"data": secret}}),
            ),
            (
                "transaction",
                json!({"actions": [{"data": {"password": secret}}]}),
            ),
            (
                "blockdev-add",
                json!({"driver": "https", "file": {"cookie": secret}}),
            ),
            (
                "qom-set",
                json!({"path": "/objects/s", "property": "data", "value": secret}),
            ),
            (
                "human-monitor-command",
                json!({"command-line": "set_password vnc hunter2"}),
            ),
            (
                "human-monitor-command",
                json!({"command-line": "  object_add secret,data=hunter2"}),
            ),
            (
                "send-key",
                json!({"keys": [{"type": "qcode", "data": secret}]}),
            ),
            (
                "input-send-event",
                json!({"events": [{"type": "key", "data": secret}]}),
            ),
            (
                "sev-inject-launch-secret",
                json!({"packet-header": secret, "secret": secret}),
            ),
        ];
        for (name, arguments) in cases {
            let (text, redacted) = journaled(name, &arguments);
            assert!(!text.contains(secret), "{name}: {text}");
            assert!(redacted, "{name}: {text}");
            assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }

    #[test]
    fn the_rest_is_journaled_as_it_is() {
        let cases = [
            (
                "expire_password",
                json!({"protocol": "vnc", "time": "never"}),
            ),
            ("object-add", json!({"qom-type": "iothread", "id": "data"})),
            (
                "device_add",
                json!({"driver": "virtio-net-pci", "netdev": "n0"}),
            ),
            (
                "human-monitor-command",
                json!({"command-line": "info status"}),
            ),
            ("blockdev-add", json!({"driver": "luks", "key-secret": "s"})),
        ];
        for (name, arguments) in cases {
            assert_eq!(journaled(name, &arguments), (arguments.to_string(), false));
        }
    }

    #[test]
    fn long_arguments_are_left_out() {
        let arguments = json!({"data": "x".repeat(ARGUMENTS_SIZE_MAX)});
        let (text, redacted) = journaled("ringbuf-write", &arguments);
        assert_eq!(text, r#"{"omitted-bytes":4107}"#);
        assert!(redacted);
    }
}
