//! What another sidecar says, true or not.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::peer::run(bytes);
});
