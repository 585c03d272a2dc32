/// A status code of the header. Codes are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Status {
    /// A null or misaligned pointer, a struct too small, a text that is not UTF-8.
    InvalidArgument = 1,
    /// Not an instance of this library, or one that was destroyed.
    BadHandle = 2,
    /// An earlier call on this instance panicked.
    Poisoned = 3,
    /// This call panicked.
    Panicked = 4,
    /// Somebody stopped it.
    Cancelled = 5,
    /// A file or value of the caller is at fault.
    Input = 6,
    /// Memory, disk or device.
    Machine = 7,
    /// A bug in the library.
    Internal = 8,
    /// Not the host's decode thread.
    WrongThread = 9,
    /// Called from inside a function of the host's table.
    Reentered = 10,
    /// The host's table lacks what the call needs.
    Unsupported = 11,
    /// The job has not ended, the queue is full, there is nothing to go back to.
    NotNow = 12,
}

impl Status {
    /// Every code, in the order of the header.
    pub const ALL: [Self; 12] = [
        Self::InvalidArgument,
        Self::BadHandle,
        Self::Poisoned,
        Self::Panicked,
        Self::Cancelled,
        Self::Input,
        Self::Machine,
        Self::Internal,
        Self::WrongThread,
        Self::Reentered,
        Self::Unsupported,
        Self::NotNow,
    ];

    pub(crate) fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as i32 == code)
    }
}

/// Why a call failed, as a host reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The code that the call returns.
    pub status: Status,
    /// What was wrong, and where.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            hint: String::new(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }
}
