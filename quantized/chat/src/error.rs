use serde::{Deserialize, Serialize};

/// Why a conversation has no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The text is no Jinja template.
    #[error("the template does not compile: {0}")]
    Syntax(String),
    /// The template stopped, by `raise_exception` or by an operation that Jinja2 refuses too.
    #[error("{0}")]
    Refused(String),
    /// The template went on for too long, or nests too deep.
    #[error("the template does not come to an end: {0}")]
    Endless(String),
    /// The template is longer than any that is meant.
    #[error("the template has {bytes} bytes, and may have {bytes_max}")]
    Long {
        /// Its length.
        bytes: usize,
        /// The longest that is taken.
        bytes_max: usize,
    },
    /// The template wrote more than any conversation comes to.
    #[error("the template writes more than {bytes_max} bytes")]
    Much {
        /// The most that is taken.
        bytes_max: usize,
    },
    /// The process that compiles and renders the template ended in it.
    #[error("the template takes too much memory or nests too deep: its process ended ({0})")]
    Process(String),
    /// The template wrote nothing.
    #[error("the template writes nothing for this conversation")]
    Empty,
    /// The messages are no list of objects with a role.
    #[error("the messages are not a list of objects with a role")]
    Messages,
    /// The template takes text only, and a message holds something else.
    #[error("the template takes text only, and a message holds a part of type {0:?}")]
    Part(String),
    /// The template has no system turn, and no user turn follows that could hold its text.
    #[error("the template has no system turn, and no user turn follows that could hold its text")]
    System,
    /// An argument has the name of one that the template always gets.
    #[error("{0:?} cannot be an argument of the template: it is set already")]
    Reserved(String),
    /// There is no format of a name; the names that exist, with commas between.
    #[error("it is no file, and no chat template has this name; there are {0}")]
    Name(String),
}

impl TemplateError {
    /// There is neither a file nor a format of this name.
    pub fn unknown() -> Self {
        Self::Name(crate::format_names().collect::<Vec<_>>().join(", "))
    }
}
