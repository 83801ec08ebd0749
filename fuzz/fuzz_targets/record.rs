//! One record's body.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::record::run(bytes);
});
