//! Faults that a build with the feature `faults` makes on purpose, one at a time, named by
//! `TRANSLORA_FAULT`: they show which case of tests/attach notices what (`scripts/check/attach
//! --faults`). Other builds have none.

/// True where this process is to be wrong in the way of this name.
#[cfg(feature = "faults")]
pub fn on(name: &str) -> bool {
    static FAULT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    FAULT.get_or_init(|| std::env::var("TRANSLORA_FAULT").unwrap_or_default()) == name
}

/// See above: never.
#[cfg(not(feature = "faults"))]
pub const fn on(_: &str) -> bool {
    false
}
