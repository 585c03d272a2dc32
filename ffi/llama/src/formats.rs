//! The formats of `translora_chat` are those of llama.cpp, name by name.

use std::ffi::{CStr, CString};

use llama_cpp_sys_2 as sys;
use serde_json::json;
use translora_chat::{ChatTemplate, format, format_names};

/// Roles and contents.
type Turns = &'static [(&'static str, &'static str)];

const USER: (&str, &str) = ("user", " What is it? ");
const SYSTEM: (&str, &str) = ("system", "\nBe brief. ");
const CONVERSATIONS: &[Turns] = &[
    &[USER],
    &[USER, ("assistant", " It is. ")],
    &[USER, ("assistant", "It is."), ("user", "Why?")],
    &[SYSTEM, USER],
    &[SYSTEM, USER, ("assistant", "It is."), ("user", "Why?")],
];

/// llama.cpp leaves out the system's text here; we put it in front of the user's.
const NO_SYSTEM: &[&str] = &["yandex"];

fn names() -> Vec<String> {
    let mut names = vec![std::ptr::null(); 256];
    // SAFETY: the buffer is as long as said.
    let count = unsafe { sys::llama_chat_builtin_templates(names.as_mut_ptr(), names.len()) };
    names.truncate(usize::try_from(count).unwrap());
    let owned = |name| {
        // SAFETY: llama.cpp filled in as many static strings as it says.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
    };
    names.into_iter().map(owned).collect()
}

fn theirs(name: &str, turns: Turns, answer: bool) -> String {
    let text = |text: &str| CString::new(text).unwrap();
    let owned: Vec<(CString, CString)> = turns
        .iter()
        .map(|(role, content)| (text(role), text(content)))
        .collect();
    let messages: Vec<sys::llama_chat_message> = owned
        .iter()
        .map(|(role, content)| sys::llama_chat_message {
            role: role.as_ptr(),
            content: content.as_ptr(),
        })
        .collect();
    let (name, mut buffer) = (text(name), vec![0_u8; 1 << 12]);
    // SAFETY: strings and messages outlive the call, and the buffer is as long as said.
    let written = unsafe {
        sys::llama_chat_apply_template(
            name.as_ptr(),
            messages.as_ptr(),
            messages.len(),
            answer,
            buffer.as_mut_ptr().cast(),
            i32::try_from(buffer.len()).unwrap(),
        )
    };
    buffer.truncate(usize::try_from(written).expect("llama.cpp knows its own names"));
    String::from_utf8(buffer).unwrap()
}

fn ours(name: &str, turns: Turns, answer: bool) -> String {
    let turns = turns
        .iter()
        .map(|(role, content)| json!({"role": role, "content": content}));
    let template = ChatTemplate::new(format(name).unwrap(), "", "").unwrap();
    template.render(&turns.collect::<Vec<_>>(), answer).unwrap()
}

#[test]
fn every_name_of_llama_cpp_renders_as_there() {
    let names = names();
    assert!(names.len() > 40);
    for name in &names {
        assert!(format(name).is_some(), "there is no format {name}");
        for turns in CONVERSATIONS {
            if NO_SYSTEM.contains(&name.as_str()) && turns[0].0 == "system" {
                continue;
            }
            let answers = if turns.last().unwrap().0 == "user" {
                &[true, false][..]
            } else {
                &[false]
            };
            for &answer in answers {
                assert_eq!(
                    ours(name, turns, answer),
                    theirs(name, turns, answer),
                    "{name} {turns:?}"
                );
            }
        }
    }
    let known = |name: &&str| *name == "plain" || names.iter().any(|other| other == name);
    assert!(format_names().all(|name| known(&name)));
}
