//! Bytes as a sequence of inputs to the engine.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::engine::run(bytes);
});
