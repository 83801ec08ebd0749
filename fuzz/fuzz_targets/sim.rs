//! One simulated migration, and what fails meanwhile.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::sim::run(bytes);
});
