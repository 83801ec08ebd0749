//! What a QEMU says it is told about migrations.
//!
//! Invariant: what is no plain value is left out: it can be neither told nor put back.
//! Not here: when to ask (`monitor`), what follows (the engine).

use journal_format::record::{Capability, Parameter, ParameterValue, Settings};
use serde_json::Value;

/// From the answers to `query-migrate-capabilities` and `query-migrate-parameters`, in the order of their names;
/// `None` if one of them is no such answer.
pub(crate) fn settings(capabilities: &Value, parameters: &Value) -> Option<Settings> {
    let capability = |one: &Value| {
        Some(Capability {
            name: one.get("capability")?.as_str()?.to_owned(),
            state: one.get("state")?.as_bool()?,
        })
    };
    let capabilities: Option<Vec<Capability>> =
        capabilities.as_array()?.iter().map(capability).collect();
    let parameter = |(name, value): (&String, &Value)| {
        Some(Parameter {
            name: name.clone(),
            value: plain(value)?,
        })
    };
    let mut settings = Settings {
        capabilities: capabilities?,
        parameters: parameters
            .as_object()?
            .iter()
            .filter_map(parameter)
            .collect(),
    };
    settings
        .capabilities
        .sort_by(|one, other| one.name.cmp(&other.name));
    Some(settings)
}

/// A value that a parameter can be told.
pub(crate) fn plain(value: &Value) -> Option<ParameterValue> {
    match value {
        Value::Bool(value) => Some(ParameterValue::Bool(*value)),
        Value::Number(value) => value.as_u64().map(ParameterValue::Number),
        Value::String(value) => Some(ParameterValue::Text(value.clone())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_values_in_order() {
        let capabilities = json!([
            {"capability": "multifd", "state": false},
            {"capability": "events", "state": true},
        ]);
        let parameters = json!({"tls-creds": "", "downtime-limit": 300, "block-incremental": false,
            "block-bitmap-mapping": [], "x": -1, "y": 0.5});
        let seen = settings(&capabilities, &parameters).unwrap();
        assert_eq!(
            seen.to_string(),
            "events on, multifd off, block-incremental false, downtime-limit 300, tls-creds ''"
        );
        assert_eq!(settings(&json!({}), &parameters), None);
        assert_eq!(
            settings(&json!([{"capability": "events"}]), &parameters),
            None
        );
    }
}
