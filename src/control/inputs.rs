//! The files that clients may name in a transfer: those in some folders, and nothing of any other.

use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::{Kind, Refusal};
use crate::request::{self, Fields, Transfer};

/// Fields that may name a folder: an adapter of PEFT or MLX, and kept prompts.
const FOLDERS: [&str; 3] = ["harvest", "oracle", "source_lora"];
/// Fields that hold a template, the name of one, or its file.
const TEMPLATES: [&str; 2] = ["chat_template", "source_chat_template"];

/// Folders whose files clients may name.
#[derive(Clone, Debug, Default)]
pub struct Inputs(Vec<PathBuf>);

impl Inputs {
    /// fails: a folder is not there; the error comes with its path
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, (PathBuf, io::Error)> {
        let whole = |folder: PathBuf| folder.canonicalize().map_err(|error| (folder, error));
        folders
            .into_iter()
            .map(whole)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Put the whole paths of files into the fields of a transfer, with links followed. A path that
    /// is not whole begins at one of the folders.
    ///
    /// fails: a file lies elsewhere, whether or not it exists; one is missing, or is neither a
    /// regular file nor, where that is meant, a folder
    pub fn resolve(&self, request: &mut Map<String, Value>) -> Result<(), Refusal> {
        for (field, _) in Transfer::rows() {
            let is_template = TEMPLATES.contains(&field.name);
            if field.kind != request::Kind::Path && !is_template {
                continue;
            }
            if let Some(Value::String(text)) = request.get_mut(field.name)
                && !(is_template && is_no_file(text))
            {
                let found = self.find(field.name, Path::new(text.as_str()))?;
                *text = found.to_str().map(str::to_owned).ok_or_else(|| {
                    refusal(Kind::Input, field.name, text, "its whole path is no UTF-8")
                })?;
            }
        }
        Ok(())
    }

    fn find(&self, field: &str, path: &Path) -> Result<PathBuf, Refusal> {
        let refuse = |kind, why| refusal(kind, field, &path.display().to_string(), why);
        // An absolute path takes the place of the folder.
        let places = self.0.iter().map(|folder| folder.join(path));
        let inside = |path: &Path| self.0.iter().any(|folder| path.starts_with(folder));
        let found = places.clone().find_map(|place| {
            let whole = place.canonicalize().ok()?;
            inside(&whole).then_some(whole)
        });
        let Some(found) = found else {
            let up = path.components().any(|part| part == Component::ParentDir);
            // One that lies here by its name and is not there; what a link leads to is not said.
            let missing = |place: PathBuf| inside(&place) && place.symlink_metadata().is_err();
            return Err(
                if !up && !path.as_os_str().is_empty() && places.clone().any(missing) {
                    refuse(Kind::NotFound, "there is no such file")
                } else {
                    let why = "it is in none of the folders whose files a transfer may name";
                    refuse(Kind::Forbidden, why).hint("the start of the server lists such folders")
                },
            );
        };
        let is_folder = FOLDERS.contains(&field) && found.is_dir();
        if found.is_file() || is_folder {
            Ok(found)
        } else {
            Err(refuse(Kind::Input, "it is no regular file"))
        }
    }
}

/// Whether a template is a text, or can only be the name of one.
fn is_no_file(text: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.contains("{{") || text.contains("{%") || text.chars().all(is_of_name)
}

fn refusal(kind: Kind, field: &str, path: &str, why: &str) -> Refusal {
    Refusal::new(kind, format!("{field:?} is {path:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    #[test]
    fn only_regular_files_in_the_folders_are_named_and_nothing_is_said_of_others() {
        let all = tempfile::tempdir().expect("a folder");
        let all = all.path().canonicalize().expect("it is there");
        let (inside, outside) = (all.join("in"), all.join("out"));
        for folder in [&inside, &outside, &inside.join("peft")] {
            std::fs::create_dir(folder).expect("a new folder");
            std::fs::write(folder.join("a.gguf"), "x").expect("writable");
        }
        symlink(outside.join("a.gguf"), inside.join("link")).expect("a link");
        symlink(outside.join("none"), inside.join("broken")).expect("a link");
        symlink(inside.join("a.gguf"), outside.join("back")).expect("a link");
        let pipe = inside.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        let inputs = Inputs::new([inside.clone()]).expect("it is there");
        let said = |field: &str, path: &str| {
            let path = path.replace("IN", inside.to_str().expect("text"));
            let path = path.replace("OUT", outside.to_str().expect("text"));
            let mut request = json!({ field: path })
                .as_object()
                .expect("an object")
                .clone();
            match inputs.resolve(&mut request) {
                Ok(()) => request[field]
                    .as_str()
                    .expect("text")
                    .replace(inside.to_str().expect("text"), "IN"),
                Err(refusal) => format!("{:?}", refusal.kind),
            }
        };
        for (field, path, right) in [
            ("source", "IN/a.gguf", "IN/a.gguf"),
            ("source", "a.gguf", "IN/a.gguf"),
            ("source", "peft/../a.gguf", "IN/a.gguf"),
            ("source", "OUT/back", "IN/a.gguf"),
            ("source", "peft", "Input"),
            ("source_lora", "peft", "IN/peft"),
            ("source", "pipe", "Input"),
            ("source", "none", "NotFound"),
            ("source", "IN/none", "NotFound"),
            ("source", "IN/../out/a.gguf", "Forbidden"),
            ("source", "IN/../out/none", "Forbidden"),
            ("source", "../out/a.gguf", "Forbidden"),
            ("source", "OUT/a.gguf", "Forbidden"),
            ("source", "OUT/none", "Forbidden"),
            ("source", "IN/link", "Forbidden"),
            ("source", "IN/broken", "Forbidden"),
            ("kit", "/dev/zero", "Forbidden"),
            ("seeds", "/etc/passwd", "Forbidden"),
            ("harvest", "/", "Forbidden"),
            ("eval", "", "Input"),
            ("chat_template", "chatml", "chatml"),
            ("chat_template", "{{ x }}", "{{ x }}"),
            ("chat_template", "a.gguf", "IN/a.gguf"),
            ("chat_template", "/etc/passwd", "Forbidden"),
            ("source_chat_template", "OUT/none", "Forbidden"),
            ("generator", "/etc/passwd", "/etc/passwd"),
        ] {
            assert_eq!(said(field, path), right, "{field} {path}");
        }
    }
}
