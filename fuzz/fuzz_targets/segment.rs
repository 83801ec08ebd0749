//! One segment, and what a disk makes of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::segment::run(bytes);
});
