//! What of an answer may be sent already: no half characters, and nothing that may be the beginning
//! of a stop string.

/// The text of one answer as its tokens come in.
pub(super) struct Text {
    bytes: Vec<u8>,
    /// Bytes that were released.
    sent: usize,
    stops: Vec<String>,
}

/// What one more token brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Grown {
    /// Text that is free to go.
    pub text: String,
    /// The stop string that came up; it and what follows it are no part of the text.
    pub stop: Option<String>,
}

impl Text {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            bytes: Vec::new(),
            sent: 0,
            stops,
        }
    }

    /// Add the bytes of a token.
    pub(super) fn push(&mut self, piece: &[u8]) -> Grown {
        self.bytes.extend_from_slice(piece);
        let open = &self.bytes[self.sent..];
        let found = self
            .stops
            .iter()
            .filter_map(|stop| find(open, stop.as_bytes()).map(|at| (at, stop.clone())));
        if let Some((at, stop)) = found.min_by_key(|(at, _)| *at) {
            return Grown {
                text: self.release(at),
                stop: Some(stop),
            };
        }
        let held = self
            .stops
            .iter()
            .map(|stop| begun(open, stop.as_bytes()))
            .max()
            .unwrap_or(0);
        let free = whole(&open[..open.len() - held]);
        Grown {
            text: self.release(free),
            stop: None,
        }
    }

    /// The rest, after the last token.
    pub(super) fn finish(&mut self) -> String {
        self.release(self.bytes.len() - self.sent)
    }

    fn release(&mut self, count: usize) -> String {
        let text = String::from_utf8_lossy(&self.bytes[self.sent..self.sent + count]).into_owned();
        self.sent += count;
        text
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    (!word.is_empty())
        .then(|| text.windows(word.len()).position(|window| window == word))
        .flatten()
}

/// Bytes at the end of `text` that `word` begins with.
fn begun(text: &[u8], word: &[u8]) -> usize {
    (1..word.len().min(text.len() + 1))
        .rev()
        .find(|&count| text.ends_with(&word[..count]))
        .unwrap_or(0)
}

/// Bytes up to a character that is not all there yet. What can never become one counts as there.
fn whole(text: &[u8]) -> usize {
    let start = text.len().saturating_sub(3);
    let lead = (start..text.len())
        .rev()
        .find(|&at| text[at] & 0xc0 != 0x80);
    let Some(at) = lead else { return text.len() };
    match std::str::from_utf8(&text[at..]) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() == 0 => at,
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
        let mut text = Text::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut said = Vec::new();
        for piece in pieces {
            let grown = text.push(piece);
            said.push(grown.text);
            if grown.stop.is_some() {
                return (said, grown.stop);
            }
        }
        said.push(text.finish());
        (said, None)
    }

    #[test]
    fn half_a_character_waits() {
        let bytes = "a🤗é".as_bytes();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(all(&[], &single).0, ["a", "", "", "", "🤗", "", "é", ""]);
        assert_eq!(all(&[], &[b"x\xf0\x9f", b"y"]).0, ["x", "\u{fffd}y", ""]);
        assert_eq!(all(&[], &[b"x\xf0\x9f"]).0, ["x", "\u{fffd}"]);
        assert_eq!(
            all(&[], &[b"\x80\x80\x80\x80"]).0.concat().chars().count(),
            4
        );
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_never_sent() {
        assert_eq!(
            all(&["User:"], &[b"hello U", b"ser", b": x"]),
            (
                vec!["hello ".into(), String::new(), String::new()],
                Some("User:".into())
            )
        );
        assert_eq!(
            all(&["User:"], &[b"hello U", b"se", b"less"]).0,
            ["hello ", "", "Useless", ""]
        );
        assert_eq!(
            all(&["aab"], &[b"aa", b"ab"]),
            (vec![String::new(), "a".into()], Some("aab".into()))
        );
        assert_eq!(
            all(&["é"], &[b"x\xc3", b"\xa9y"]),
            (vec!["x".into(), String::new()], Some("é".into()))
        );
    }

    #[test]
    fn the_first_of_two_stop_strings_counts() {
        assert_eq!(
            all(&["c", "bc"], &[b"abc"]),
            (vec!["a".into()], Some("bc".into()))
        );
        assert_eq!(all(&["\n"], &[b"one", b" two"]).0.concat(), "one two");
    }
}
