//! What a run can be asked for: one table, which every door reads.
//!
//! The command line takes its flags from it; HTTP, the C ABI and the socket read JSON by it; the
//! reference prints it. A [`Plan`] is a request that was checked against it. Nothing else can make
//! one, so that no stage meets a value out of bounds.
//!
//! Pure data. Refuses to know: files, models, stages. Read by every room above `record`.
//!
//! ```
//! use translora::request::{Request, Transfer};
//!
//! let json = r#"{"source": "old.gguf", "source_lora": "l.gguf", "target": "new.gguf",
//!                "seeds": "s.jsonl", "out": "n.gguf", "flip_budget": 1.5}"#;
//! let refusal = Transfer::from_json(json).unwrap_err();
//! assert_eq!(
//!     refusal.to_string(),
//!     r#""flip_budget" is 1.5; it must be a number from 0 to 1"#
//! );
//! ```

mod choice;
mod field;
mod plan;
mod reference;
mod refusal;
mod table;

pub use choice::{
    FilterChoice, GeneratorChoice, LabelChoice, Learn, ObjectiveChoice, RowFormat, Schedule,
    TokenWeights,
};
pub use field::{Field, Kind, Wrong, text};
pub use plan::{Inputs, Plan, Request};
pub use reference::{Rows, page, rows_of};
pub use refusal::Refusal;
pub use table::{
    AnswerLength, Chat, DataFormat, Eval, Fields, InputLength, Kit, Machine, Run, Shape, Train,
    Training, Transfer,
};
