/// Pieces of chat templates.
const MARKERS: [&str; 18] = [
    "<|",
    "|>",
    "<｜",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<pad>",
    "### Instruction:",
    "### Response:",
    "<think>",
    "</think>",
    "<tool_call>",
];

/// The piece of a chat template that a text holds, if any. A generated input with one is a model
/// talking to itself; a row with one was written by another tool.
pub fn chat_marker(text: &str) -> Option<&'static str> {
    MARKERS.into_iter().find(|marker| text.contains(marker))
}
