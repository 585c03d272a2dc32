use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{Event, Stage};
use crate::record::{Cancel, Clock};

/// What a job gets besides its plan.
pub struct Context<'a> {
    /// Stops the job wherever stopping is safe.
    pub cancel: Cancel,
    /// Where its events go.
    pub events: Events,
    /// Tells how long stages take.
    pub clock: &'a dyn Clock,
}

/// Where a job's events go. Sending never blocks: progress is dropped while too many events wait,
/// everything else is kept.
#[derive(Clone, Debug)]
pub struct Events {
    sender: Option<Sender<Event>>,
    queued_max: usize,
}

impl Events {
    /// Events and their reader. The reader ends when the last clone of the events is dropped.
    pub fn channel(queued_max: usize) -> (Self, Receiver<Event>) {
        let (sender, receiver) = unbounded();
        (
            Self {
                sender: Some(sender),
                queued_max,
            },
            receiver,
        )
    }

    /// Events that nobody reads.
    pub fn none() -> Self {
        Self {
            sender: None,
            queued_max: 0,
        }
    }

    pub(super) fn send(&self, event: Event) {
        let Some(sender) = &self.sender else { return };
        if matches!(event, Event::Progress { .. }) && sender.len() >= self.queued_max {
            return;
        }
        // A reader that went away does not stop the work.
        _ = sender.send(event);
    }

    pub(super) fn progress(&self, stage: Stage, done: u64, total: u64, note: impl Into<String>) {
        self.send(Event::Progress {
            stage,
            done,
            total,
            note: note.into(),
        });
    }

    pub(super) fn warn(&self, stage: Stage, text: impl Into<String>) {
        self.send(Event::Warning {
            stage,
            text: text.into(),
        });
    }

    pub(super) fn note(&self, stage: Stage, text: impl Into<String>) {
        self.send(Event::Note {
            stage,
            text: text.into(),
        });
    }

    pub(super) fn detail(&self, stage: Stage, text: impl Into<String>) {
        self.send(Event::Detail {
            stage,
            text: text.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_dropped_when_nobody_reads_and_results_never() {
        let (events, receiver) = Events::channel(3);
        for done in 0..9 {
            events.progress(Stage::Distill, done, 9, "");
        }
        events.warn(Stage::Distill, "kept");
        drop(events);
        let all: Vec<Event> = receiver.iter().collect();
        assert_eq!(all.len(), 4);
        assert!(matches!(&all[3], Event::Warning { text, .. } if text == "kept"));
        Events::none().warn(Stage::Open, "nobody hears this");
    }
}
