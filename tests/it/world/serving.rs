//! Serving: start lines and paths that cannot be meant.

use super::run;
use crate::toy::World;

/// 39: a slot that holds no conversation, however the context is shared out.
#[test]
fn a_context_that_no_conversation_fits_into_is_refused() {
    let world = World::new();
    for (context, slots, each) in [("8", "4", "each has 2"), ("1", "4", "each has 0")] {
        let words = [
            "serve", "-m", "old.json", "--port", "0", "-c", context, "-np", slots,
        ];
        let (status, said) = run(&world, &words);
        assert_eq!(status, 2, "{said}");
        let right = [each, "no conversation fits", "hint: raise -c, or lower -np"];
        assert!(right.iter().all(|words| said.contains(words)), "{said}");
    }
}

/// 44: the log of the router is of no use to a llama-server without one.
#[cfg(target_os = "linux")]
#[test]
fn flags_of_a_log_that_is_not_written_are_refused() {
    let world = World::new();
    let words = ["attach", "--log-level", "debug", "--", "llama-server"];
    let (status, said) = run(&world, &words);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("--control <PORT>"), "{said}");
}
