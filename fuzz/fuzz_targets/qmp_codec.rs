//! A QMP connection's bytes, however they are cut.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::qmp_codec::run(bytes);
});
