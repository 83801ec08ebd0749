use super::{arguments::QueryDecisions, link::Link};
use serde_json::Value;
use std::path::PathBuf;
#[derive(Clone, Debug)]
pub(crate) struct History;
impl History {
    pub(crate) fn new(_p: PathBuf, _l: Link) -> History {
        History
    }
    pub(crate) async fn decisions(&self, _q: QueryDecisions) -> Result<Value, String> {
        loop {}
    }
}
