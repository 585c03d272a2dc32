//! Turns a conversation into the text that a model was trained on.
//!
//! A [`ChatTemplate`] is a Jinja text, as a model file carries it. It renders as Jinja2 does in the
//! Python package `transformers`: the same white space, Python's `str` methods, Python's JSON,
//! `strftime_now`, `raise_exception`, loop controls and `{% generation %}`. `format` has the
//! formats that llama.cpp knows by name. [`PLAIN`] is for base models that have none.
//!
//! Templates come from untrusted files. One that runs too long or nests too deep is an error.
//!
//! Refuses to know: tokens, models, files and the clock.
//!
//! ```
//! use serde_json::json;
//! use translora_chat::{ChatTemplate, Rendering};
//!
//! let template = ChatTemplate::new(
//!     "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}\
//!      {% if add_generation_prompt %}<|assistant|>{% endif %}",
//!     "<s>",
//!     "</s>",
//! )?;
//! let messages = json!([{"role": "user", "content": "Hello"}]);
//! let rendering = Rendering { answer: true, ..Rendering::default() };
//! assert_eq!(template.render_with(&messages, &rendering)?, "<|user|>Hello</s>\n<|assistant|>");
//! # Ok::<(), translora_chat::TemplateError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod calls;
mod environment;
mod error;
mod formats;
mod messages;
mod methods;
mod python;
mod source;
mod template;
mod values;

pub use calls::{CallForm, ToolUse};
pub use error::TemplateError;
pub use formats::{PLAIN, format, format_names};
pub use template::{ChatTemplate, Rendering};
