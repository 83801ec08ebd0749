//! One batch: any bytes, and batches that are nearly right.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    phase_journal_fuzz::batch::run(bytes);
});
