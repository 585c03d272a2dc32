use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from; stages that report seconds are handed one and never read the system's.
pub trait Clock: Send + Sync {
    /// Monotonic time since some fixed start.
    fn elapsed(&self) -> Duration;
    /// Wall-clock seconds since 1970, for provenance only.
    fn unix_seconds(&self) -> u64;
    /// The most memory that this process has held so far; none where nobody looks. units: bytes
    fn peak_bytes(&self) -> Option<u64> {
        None
    }
}

/// The machine's own clock.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one clock that is read")]
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one clock that is read")]
    fn unix_seconds(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs())
    }
}

/// A clock that moves only when it is set.
#[derive(Default)]
pub struct TestClock(Mutex<Duration>);

impl TestClock {
    /// Move it forward.
    pub fn advance(&self, by: Duration) {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) += by;
    }
}

impl Clock for TestClock {
    fn elapsed(&self) -> Duration {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn unix_seconds(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_clock_moves_only_when_told() {
        let clock = TestClock::default();
        assert_eq!(clock.elapsed(), Duration::ZERO);
        clock.advance(Duration::from_secs(3));
        assert_eq!(clock.elapsed(), Duration::from_secs(3));
        assert_eq!(clock.unix_seconds(), 0);
    }
}
