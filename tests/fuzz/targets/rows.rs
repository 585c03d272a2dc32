//! A file of kept prompts of any bytes is refused, or its rows are there, and no row is out of time.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("translora-fuzz-{}.jsonl", std::process::id()));
    fs::write(&path, bytes).expect("a file is written");
    let Ok(contents) = translora_harvest::read(&path, 1000) else {
        return;
    };
    assert!(contents.rows.iter().all(|row| row.until > 1000));
    let later = translora_harvest::read(&path, u64::MAX).expect("the same file is as sound");
    assert!(later.rows.is_empty());
});
