//! Waits for something that can only be looked at, with a deadline.
//!
//! Invariant: the condition is looked at once more after the deadline, so that a machine that slept
//! does not turn something that happened into a failure.
//!
//! Not here: waits that the system can do itself (a read with a timeout, a channel).

use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Between two looks. Short against a tick of the guest (10 ms), long against a look.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until `look` finds something, and returns it.
///
/// # Errors
/// What `look` returns as an error, at once; [`Error::Deadline`] if nothing was found in `timeout`.
pub fn until<T>(
    waiting_for: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        let late = begun.elapsed() >= timeout;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if late {
            return Err(Error::Deadline {
                waiting_for: waiting_for.to_owned(),
                after: timeout,
                logs: String::new(),
            });
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_comes_later() {
        let mut looks = 0;
        let found = until("third look", Duration::from_secs(10), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn gives_up_and_says_on_what() {
        let nothing: Result<(), Error> = until("rain", Duration::from_millis(5), || Ok(None));
        assert_eq!(nothing.unwrap_err().to_string(), "no rain after 5ms");
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let failed: Result<(), Error> = until("answer", Duration::from_secs(600), || {
            Err(Error::Malformed {
                from: "test".into(),
                problem: "none".into(),
            })
        });
        assert!(matches!(failed.unwrap_err(), Error::Malformed { .. }));
    }
}
