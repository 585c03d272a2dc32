//! Lines in the server's log.

use std::io::Write;

/// Write one line to standard error, where the server logs.
pub fn say(line: &str) {
    // A closed standard error is no reason to fail.
    _ = writeln!(std::io::stderr(), "translora: {line}");
}
