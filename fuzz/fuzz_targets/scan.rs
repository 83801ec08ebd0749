//! Any bytes as a segment, and real segments with any damage.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| phase_journal_fuzz::scan::run(bytes));
