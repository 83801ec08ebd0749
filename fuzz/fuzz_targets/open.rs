//! A journal's directory through the real opening.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::open::run(bytes);
});
