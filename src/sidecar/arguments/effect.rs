//! A QMP command that a manager wants to run in a phase of its job.

use serde_json::{Map, Value};

use crate::engine::ManagerEffect;
use crate::qmp;

const EXPECTED: &str = "an array of objects with 'execute' and perhaps 'arguments'";
/// What is sent is what is in the journal, which keeps no secrets.
const NO_SECRETS: &str =
    "commands without secrets: name a file, or send them over the domain's monitor before";

/// One of the commands of `phase-enter`; the error says what they must be.
pub(super) fn parse(value: Value) -> Result<ManagerEffect, &'static str> {
    let Value::Object(mut fields) = value else {
        return Err(EXPECTED);
    };
    let Some(Value::String(execute)) = fields.remove("execute") else {
        return Err(EXPECTED);
    };
    let arguments = match fields.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(EXPECTED),
    };
    if !fields.is_empty() {
        return Err(EXPECTED);
    }
    if qmp::carries_secret(&execute, &arguments) {
        return Err(NO_SECRETS);
    }
    Ok(ManagerEffect { execute, arguments })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_is_refused_wherever_it_is() {
        let secrets = [
            json!({"execute": "object-add", "arguments": {"qom-type": "secret", "id": "s", "data": "x"}}),
            json!({"execute": "blockdev-add", "arguments": {
                "driver": "nbd", "node-name": "n",
                "server": {"type": "inet", "host": "h", "port": "1", "password": "x"}}}),
        ];
        for secret in secrets {
            assert_eq!(parse(secret).unwrap_err(), NO_SECRETS);
        }
        let plain = json!({"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "n"}});
        assert_eq!(parse(plain).unwrap().execute, "blockdev-add");
    }
}
