//! What a QEMU says of what jobs left in it, as the engine understands it.
//!
//! Invariant: as for `observe`: words that are not known stay as they are, what was not answered stays unread.
//! Not here: when to look (`monitor`).

use journal_format::record::{DumpStatus, QemuJobSeen, QemuJobStatus};
use serde_json::Value;

use crate::engine::NodeSeen;

/// Most jobs or nodes of one answer that are passed on.
const LISTED_MAX: usize = 4096;

/// The status in an answer to `query-dump`.
pub(crate) fn dump_status(answer: &Value) -> Option<DumpStatus> {
    answer.get("status")?.as_str().map(DumpStatus::from_qemu)
}

/// The jobs in an answer to `query-jobs`.
pub(crate) fn qemu_jobs(answer: &Value) -> Option<Vec<QemuJobSeen>> {
    let listed = answer.as_array()?.iter().take(LISTED_MAX);
    let one = |job: &Value| {
        let text = |name: &str| job.get(name)?.as_str().map(str::to_owned);
        Some(QemuJobSeen {
            id: text("id")?,
            status: text("status").map(|status| QemuJobStatus::from_qemu(&status)),
            error: text("error"),
        })
    };
    Some(listed.filter_map(one).collect())
}

/// The nodes in an answer to `query-named-block-nodes`.
pub(crate) fn nodes(answer: &Value) -> Option<Vec<NodeSeen>> {
    let listed = answer.as_array()?.iter().take(LISTED_MAX);
    let one = |node: &Value| {
        let depth = node.get("backing_file_depth").and_then(Value::as_u64);
        Some(NodeSeen {
            name: node.get("node-name")?.as_str()?.to_owned(),
            is_overlay: depth.is_some_and(|depth| depth > 0),
            size: node
                .get("image")
                .and_then(|image| image.get("virtual-size"))
                .and_then(Value::as_u64),
        })
    };
    Some(listed.filter_map(one).collect())
}

/// The ids in an answer to `query-block-exports`.
pub(crate) fn exports(answer: &Value) -> Option<Vec<String>> {
    let listed = answer.as_array()?.iter().take(LISTED_MAX);
    let id = |export: &Value| Some(export.get("id")?.as_str()?.to_owned());
    Some(listed.filter_map(id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_jobs_left_in_qemus_words() {
        assert_eq!(
            dump_status(&json!({"status": "active", "completed": 4096, "total": 8192})),
            Some(DumpStatus::Active)
        );
        assert_eq!(dump_status(&json!([])), None);
        let jobs = json!([
            {"id": "b0", "type": "backup", "status": "concluded", "error": "No space left"},
            {"id": "b1", "type": "mirror", "status": "dreaming"},
            {"type": "nameless"},
        ]);
        let jobs = qemu_jobs(&jobs).unwrap();
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[0].status, Some(QemuJobStatus::Concluded));
        assert_eq!(jobs[0].error.as_deref(), Some("No space left"));
        let newer = QemuJobStatus::Other("dreaming".to_owned());
        assert_eq!(jobs[1].status, Some(newer));
        assert_eq!(qemu_jobs(&json!({})), None);
        let graph = json!([
            {"node-name": "overlay", "backing_file_depth": 1, "image": {"virtual-size": 4096}},
            {"node-name": "base", "backing_file_depth": 0},
        ]);
        let graph = nodes(&graph).unwrap();
        assert_eq!((graph[0].is_overlay, graph[1].is_overlay), (true, false));
        assert_eq!((graph[0].size, graph[1].size), (Some(4096), None));
        let served =
            json!([{"id": "e0", "type": "nbd", "node-name": "base", "shutting-down": true}]);
        assert_eq!(exports(&served), Some(vec!["e0".to_owned()]));
        assert_eq!(exports(&json!({})), None);
    }
}
