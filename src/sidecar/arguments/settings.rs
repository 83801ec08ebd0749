//! What a migration is told beside its terms: capabilities, parameters, times.

use journal_format::record::{Capability, Parameter, PostcopyAfter, Settings};
use serde_json::{Map, Value};

use super::{ArgumentError, Arguments};
use crate::engine::MigrateOptions;
use crate::sidecar::observe_settings::plain;

const CAPABILITIES: &str = "an object of names with true or false";
const PARAMETERS: &str =
    "an object of names with strings, whole numbers (0 or more), true or false";
const POSTCOPY_AFTER: &str = "{\"seconds\": N} or {\"passes\": N}";

impl Arguments {
    /// All of it; what is absent is not wanted.
    pub(super) fn migrate_options(&mut self) -> Result<MigrateOptions, ArgumentError> {
        let capabilities = self.each("capabilities", CAPABILITIES, |name, value| {
            let state = value.as_bool()?;
            Some(Capability { name, state })
        })?;
        let parameters = self.each("parameters", PARAMETERS, |name, value| {
            let value = plain(value)?;
            Some(Parameter { name, value })
        })?;
        Ok(MigrateOptions {
            settings: Settings {
                capabilities,
                parameters,
            },
            postcopy_after: self.postcopy_after("postcopy-after")?,
            deadline: self.optional_number("deadline")?,
        })
    }

    /// The members of an object, in the order of their names.
    fn each<T>(
        &mut self,
        argument: &'static str,
        expected: &'static str,
        read: impl Fn(String, &Value) -> Option<T>,
    ) -> Result<Vec<T>, ArgumentError> {
        let Some(members) = self.optional_object(argument, expected)? else {
            return Ok(Vec::new());
        };
        let each = members.into_iter().map(|(name, value)| read(name, &value));
        let all: Option<Vec<T>> = each.collect();
        all.ok_or_else(|| self.invalid(argument, expected))
    }

    fn optional_object(
        &mut self,
        argument: &'static str,
        expected: &'static str,
    ) -> Result<Option<Map<String, Value>>, ArgumentError> {
        match self.values.remove(argument) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(other) => Err(self.wrong(argument, expected, &other)),
        }
    }

    fn postcopy_after(
        &mut self,
        argument: &'static str,
    ) -> Result<Option<PostcopyAfter>, ArgumentError> {
        let Some(members) = self.optional_object(argument, POSTCOPY_AFTER)? else {
            return Ok(None);
        };
        let mut members = members.into_iter();
        let count = |value: &Value| value.as_u64();
        let after = match (members.next(), members.next()) {
            (Some((unit, value)), None) => match unit.as_str() {
                "seconds" => count(&value).map(PostcopyAfter::Seconds),
                "passes" => count(&value).map(PostcopyAfter::Passes),
                _ => None,
            },
            _ => None,
        };
        match after {
            Some(after) => Ok(Some(after)),
            None => Err(self.invalid(argument, POSTCOPY_AFTER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Command, parse};
    use super::*;

    fn options(arguments: Value) -> Result<(bool, MigrateOptions), String> {
        let mut all = json!({"name": "vm", "peer": "/p", "uri": "unix:/m"});
        let arguments = arguments.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(arguments);
        match parse("migrate-domain", Some(all)) {
            Ok(Command::MigrateDomain(migrate)) => Ok((migrate.postcopy, migrate.options)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn settings_and_times() {
        let (postcopy, all) = options(json!({
            "capabilities": {"multifd": true, "auto-converge": false},
            "parameters": {"multifd-channels": 4, "tls-creds": "tls0", "block-incremental": true},
            "postcopy-after": {"passes": 3}, "deadline": 600,
        }))
        .unwrap();
        assert!(postcopy, "after some time is post-copy too");
        assert_eq!(
            all.settings.to_string(),
            "auto-converge off, multifd on, block-incremental true, multifd-channels 4, tls-creds 'tls0'"
        );
        assert_eq!(all.postcopy_after, Some(PostcopyAfter::Passes(3)));
        assert_eq!(all.deadline, Some(600));
        assert_eq!(options(json!({})), Ok((false, MigrateOptions::default())));
        let declined = options(json!({"postcopy": false, "postcopy-after": {"seconds": 3}}));
        assert!(!declined.unwrap().0);
    }

    #[test]
    fn one_error_that_names_the_argument() {
        for (arguments, expected) in [
            (
                json!({"capabilities": ["multifd"]}),
                "'capabilities' must be an object of names with true or false, not an array",
            ),
            (
                json!({"capabilities": {"multifd": 1}}),
                "'capabilities' must be an object of names with true or false",
            ),
            (
                json!({"parameters": {"multifd-channels": -1}}),
                "'parameters' must be an object of names with strings, whole numbers (0 or more), true or false",
            ),
            (
                json!({"parameters": {"tls-creds": null}}),
                "'parameters' must be an object of names with strings, whole numbers (0 or more), true or false",
            ),
            (
                json!({"postcopy-after": {"seconds": 1, "passes": 1}}),
                "'postcopy-after' must be {\"seconds\": N} or {\"passes\": N}",
            ),
            (
                json!({"postcopy-after": 5}),
                "'postcopy-after' must be {\"seconds\": N} or {\"passes\": N}, not a number",
            ),
            (
                json!({"deadline": "soon"}),
                "'deadline' must be a whole number, not a string",
            ),
        ] {
            let refused = options(arguments).unwrap_err();
            assert_eq!(refused, format!("migrate-domain: argument {expected}"));
        }
    }
}
