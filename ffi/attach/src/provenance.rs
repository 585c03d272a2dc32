//! Which adapter computed which part of a server's KV cache, and what has to happen when a request
//! meets KV of another one.
//!
//! Pure: knows no pointer and calls nothing. [`crate::server`] feeds it what the server does and
//! carries out what it answers.

/// An adapter as this process knows it. [`AS_STARTED`] is whatever the server was started with.
pub type AdapterId = u32;

/// The adapters of the server's own command line.
pub const AS_STARTED: AdapterId = 0;

/// The token number that stands for a row without a token: an image, a sound.
const NO_TOKEN: i32 = -1;

/// Makes the server process a prompt again from its start: larger than any position, and not -1,
/// which it aborts on.
pub const NOTHING_USABLE: i32 = 0x3fff_ffff;

/// What a sequence holds, as (position, token), in the order of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    entries: Vec<(i32, i32)>,
}

impl Log {
    fn push(&mut self, position: i32, token: Option<i32>) {
        // A row that comes again at a position takes the place of the old one: the server decodes a
        // part of a batch again.
        if self.entries.last().is_some_and(|last| last.0 >= position) && token.is_some() {
            self.entries.retain(|entry| entry.0 < position);
        }
        self.entries.push((position, token.unwrap_or(NO_TOKEN)));
    }

    fn remove(&mut self, from: i32, to: Option<i32>) {
        self.entries
            .retain(|(position, _)| *position < from || to.is_some_and(|to| *position >= to));
    }

    fn shift(&mut self, from: i32, to: Option<i32>, delta: i32) {
        for (position, _) in &mut self.entries {
            if *position >= from && to.is_none_or(|to| *position < to) {
                *position += delta;
            }
        }
        self.entries.sort_by_key(|entry| entry.0);
    }

    /// The tokens of the first `length` positions; none where one of them is unknown or has no
    /// token.
    pub fn prefix(&self, length: i32) -> Option<Vec<i32>> {
        let length = usize::try_from(length).ok()?;
        let entries = self.entries.get(..length)?;
        let whole = entries
            .iter()
            .enumerate()
            .all(|(i, (position, token))| *position as usize == i && *token >= 0);
        whole.then(|| entries.iter().map(|(_, token)| *token).collect())
    }

    /// The position behind the last.
    pub fn end(&self) -> i32 {
        self.entries.last().map_or(0, |entry| entry.0 + 1)
    }

    fn has_images(&self) -> bool {
        self.entries.iter().any(|(_, token)| *token == NO_TOKEN)
    }

    /// The entries, for a state that leaves the sequence.
    pub fn entries(&self) -> &[(i32, i32)] {
        &self.entries
    }

    /// A log out of the entries of a state that comes back.
    pub fn of(entries: Vec<(i32, i32)>) -> Self {
        Self { entries }
    }
}

/// Who computed the KV of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputedBy {
    /// There is none.
    #[default]
    Nobody,
    /// All of it by one adapter.
    One(AdapterId),
    /// Not known, or by several.
    Unknown,
}

/// What has to happen to a sequence after the server removed a part of it.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// A request begins on KV of another adapter: compute the KV of these tokens again with the
    /// live one.
    Replay(Vec<i32>),
    /// A request begins on KV of another adapter, and its tokens are not known.
    Lost,
}

/// One sequence of a context: what it holds, who computed it, and which adapter its request began
/// with.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    log: Log,
    computed_by: ComputedBy,
    pinned: Option<AdapterId>,
    /// In this turn the server queried where the sequence begins.
    queried: bool,
    /// In this turn the server removed the tail.
    begun: bool,
    /// The prompt of its request is not decoded to its end yet.
    reading: bool,
    /// Batches since the sequence was last in one.
    pub unseen: u32,
}

impl Sequence {
    /// The server starts to put a batch together.
    pub fn turn(&mut self) {
        self.queried = false;
        self.begun = false;
    }

    /// The server queries the smallest position of the sequence, which is how it judges what it can
    /// reuse for a new request.
    ///
    /// Returns the position that it gets: the real one, or [`NOTHING_USABLE`] where the KV is
    /// another adapter's and cannot be replayed.
    pub fn smallest_position(&mut self, real: i32, live: AdapterId) -> i32 {
        if self.begun {
            return real;
        }
        self.queried = true;
        let stale = self.computed_by != ComputedBy::One(live) && self.computed_by != ComputedBy::Nobody;
        // An empty log with KV is a state whose origin nobody wrote down.
        let length = self.log.entries.len();
        let lost = length == 0 || self.log.has_images() || self.log.prefix(length as i32).is_none();
        if stale && real >= 0 && lost {
            NOTHING_USABLE
        } else {
            real
        }
    }

    /// The server removed the positions `from..to` (to the end where `to` is none).
    ///
    /// While it puts a batch together, a removal to the end is how a prompt begins or goes on. It
    /// begins where nothing is kept or the server queried the smallest position before: a prompt
    /// that goes on does neither.
    pub fn removed(&mut self, from: i32, to: Option<i32>, in_turn: bool, live: AdapterId) -> After {
        let from = from.max(0);
        self.log.remove(from, to);
        if from == 0 && to.is_none() {
            self.computed_by = ComputedBy::Nobody;
        }
        if !in_turn || to.is_some() {
            return After::Nothing;
        }
        let begins = !self.begun && (from == 0 || self.queried);
        self.begun = true;
        if !begins {
            return After::Nothing;
        }
        self.pinned = Some(live);
        self.reading = true;
        self.unseen = 0;
        if from == 0 || self.computed_by == ComputedBy::One(live) || self.computed_by == ComputedBy::Nobody {
            return After::Nothing;
        }
        self.log.prefix(from).map_or(After::Lost, After::Replay)
    }

    /// The adapter that the request of this sequence began with, `live` for a sequence that was
    /// never seen to begin.
    pub fn adapter(&mut self, live: AdapterId) -> AdapterId {
        *self.pinned.get_or_insert(live)
    }

    /// The adapter of the request, where there is one.
    pub fn pinned(&self) -> Option<AdapterId> {
        self.pinned
    }

    /// Let go of the adapter that a request long over began with.
    pub fn unpin(&mut self) {
        self.pinned = None;
    }

    /// A row was decoded.
    pub fn decoded(&mut self, position: i32, token: Option<i32>, by: AdapterId) {
        self.log.push(position, token);
        self.computed_by = match self.computed_by {
            ComputedBy::Nobody => ComputedBy::One(by),
            ComputedBy::One(other) if other == by => ComputedBy::One(by),
            _ => ComputedBy::Unknown,
        };
        self.unseen = 0;
    }

    /// A row with an output was decoded. Returns whether it is the first of its request, which ends
    /// the prompt.
    pub fn answers(&mut self) -> bool {
        std::mem::take(&mut self.reading)
    }

    /// Everything was computed again.
    pub fn replayed(&mut self, tokens: &[i32], by: AdapterId) {
        self.log = Log::of((0..).zip(tokens.iter().copied()).collect());
        self.computed_by = ComputedBy::One(by);
    }

    /// The positions `from..to` moved by `delta`.
    pub fn shifted(&mut self, from: i32, to: Option<i32>, delta: i32) {
        self.log.shift(from.max(0), to, delta);
    }

    /// Take over the positions `from..to` of another sequence, and its request's adapter.
    pub fn copied(&mut self, other: &Self, from: i32, to: Option<i32>) {
        let inside = |position: i32| position >= from && to.is_none_or(|to| position < to);
        self.log.entries.extend(
            other
                .log
                .entries
                .iter()
                .filter(|(position, _)| inside(*position)),
        );
        self.log.entries.sort_by_key(|entry| entry.0);
        self.computed_by = if self.computed_by == ComputedBy::Nobody || self.computed_by == other.computed_by {
            other.computed_by
        } else {
            ComputedBy::Unknown
        };
        self.pinned = other.pinned;
        self.unseen = other.unseen;
    }

    /// A saved state was put in. A `part` (the window of a sliding-window model, a recurrent state)
    /// joins what is there.
    pub fn restored(&mut self, log: Log, computed_by: ComputedBy, part: bool) {
        if !part {
            self.log = log;
            self.computed_by = computed_by;
            return;
        }
        if log.entries.len() > self.log.entries.len() {
            self.log = log;
        }
        if self.computed_by != computed_by {
            self.computed_by = ComputedBy::Unknown;
        }
    }

    /// What the sequence holds.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Who computed it.
    pub fn computed_by(&self) -> ComputedBy {
        self.computed_by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(tokens: &[i32], by: AdapterId) -> Sequence {
        let mut sequence = Sequence::default();
        sequence.turn();
        assert_eq!(sequence.removed(0, None, true, by), After::Nothing);
        for (position, token) in (0..).zip(tokens) {
            sequence.decoded(position, Some(*token), by);
        }
        sequence
    }

    #[test]
    fn the_same_prompt_after_a_swap_is_replayed() {
        let mut sequence = decoded(&[7, 8, 9], 0);
        sequence.turn();
        assert_eq!(sequence.smallest_position(0, 1), 0);
        assert_eq!(
            sequence.removed(2, None, true, 1),
            After::Replay(vec![7, 8])
        );
        sequence.replayed(&[7, 8], 1);
        assert_eq!((sequence.adapter(1), sequence.computed_by()), (1, ComputedBy::One(1)));
    }

    #[test]
    fn a_request_keeps_the_adapter_it_began_with() {
        let mut sequence = decoded(&[7, 8], 0);
        // The rest of a long prompt, and a generated token: neither begins anything.
        sequence.turn();
        assert_eq!(sequence.removed(2, None, true, 1), After::Nothing);
        assert_eq!(
            sequence.smallest_position(0, 1),
            0,
            "queried for a checkpoint, after the removal"
        );
        sequence.turn();
        assert_eq!(sequence.adapter(1), 0);
        // A draft that was not accepted is removed outside of a turn.
        assert_eq!(sequence.removed(1, None, false, 1), After::Nothing);
        assert_eq!(sequence.adapter(1), 0);
    }

    #[test]
    fn a_retry_of_a_prompt_that_was_broken_off_begins_anew() {
        let mut sequence = decoded(&[7, 8], 0);
        sequence.turn();
        sequence.smallest_position(0, 1);
        assert_eq!(
            sequence.removed(2, None, true, 1),
            After::Replay(vec![7, 8])
        );
    }

    #[test]
    fn what_cannot_be_replayed_is_processed_by_the_server() {
        let mut sequence = decoded(&[7], 0);
        sequence.decoded(1, None, 0);
        sequence.turn();
        assert_eq!(sequence.smallest_position(0, 1), NOTHING_USABLE);
        assert_eq!(sequence.removed(0, None, true, 1), After::Nothing);
        let mut unknown = Sequence::default();
        unknown.restored(Log::default(), ComputedBy::Unknown, false);
        unknown.turn();
        assert_eq!(unknown.smallest_position(0, 0), NOTHING_USABLE);
        let mut fresh = decoded(&[7], 0);
        fresh.turn();
        assert_eq!(fresh.smallest_position(0, 0), 0);
    }

    #[test]
    fn a_stale_checkpoint_makes_its_sequence_stale() {
        let old = decoded(&[7, 8], 0);
        let mut sequence = decoded(&[7, 8, 9], 1);
        sequence.turn();
        sequence.smallest_position(2, 1);
        sequence.restored(old.log().clone(), old.computed_by(), true);
        assert_eq!(
            sequence.removed(2, None, true, 1),
            After::Replay(vec![7, 8])
        );
    }

    #[test]
    fn a_prompt_ends_once() {
        let mut sequence = decoded(&[7, 8], 0);
        assert!(sequence.answers() && !sequence.answers());
        // The next token, and the next request.
        sequence.turn();
        sequence.removed(2, None, true, 0);
        assert!(!sequence.answers());
        sequence.turn();
        sequence.smallest_position(0, 0);
        sequence.removed(1, None, true, 0);
        assert!(sequence.answers());
    }

    #[test]
    fn shifts_and_copies_keep_the_log_true() {
        let mut sequence = decoded(&[1, 2, 3, 4, 5], 0);
        sequence.removed(1, Some(3), false, 0);
        sequence.shifted(3, Some(5), -2);
        assert_eq!(sequence.log().prefix(3), Some(vec![1, 4, 5]));
        let mut copy = Sequence::default();
        copy.copied(&sequence, -1, None);
        assert_eq!(copy.log().prefix(3), Some(vec![1, 4, 5]));
assert_eq!(copy.computed_by(), ComputedBy::One(0));
assert_eq!(copy.pinned(), Some(0));
        assert_eq!(sequence.log().prefix(4), None);
        sequence.removed(-1, None, false, 0);
        assert_eq!(sequence.computed_by(), ComputedBy::Nobody);
    }

    #[test]
    fn rows_decoded_again_are_logged_once() {
        let mut sequence = decoded(&[1, 2, 3], 0);
        sequence.decoded(1, Some(2), 0);
        sequence.decoded(2, Some(3), 0);
        assert_eq!(sequence.log().prefix(3), Some(vec![1, 2, 3]));
    }
}
