use super::AdaptersError;

/// The longest name of an adapter: its files are called after it, with a number and a verdict.
/// units: bytes
const NAME_BYTES_MAX: usize = 128;

/// Check what an adapter is to be called. A transfer's files are named after it, clients send it in
/// JSON and in paths, and people read it in lists.
///
/// fails: empty, too long, a control character, a slash, a dot first, white space at an end
pub fn check_name(name: &str) -> Result<(), AdaptersError> {
    let reason = match name {
        "" => "it is empty",
        name if name.len() > NAME_BYTES_MAX => "it is longer than 128 bytes",
        name if name.chars().any(char::is_control) => "it has a control character",
        name if name.contains('/') => "it has a slash",
        name if name.starts_with('.') => "it begins with a dot",
        name if name.trim() != name => "it begins or ends with white space",
        _ => return Ok(()),
    };
    Err(AdaptersError::Name {
        name: name.chars().take(NAME_BYTES_MAX).collect(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_printable_text_that_makes_a_file_name() {
        for name in [
            "task",
            "my task",
            "Überweisung",
            "a,b@1",
            "媽",
            "task.v2",
            &"x".repeat(128),
        ] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for name in [
            "",
            " ",
            " a",
            "a ",
            ".hidden",
            "a/b",
            "../x",
            "a\nb",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
