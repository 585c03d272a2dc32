//! Split models: the parts together are the model, and what is wrong with one is said by name.

use std::path::{Path, PathBuf};

use translora_gguf::{FileError, Parts, Writer};

const BYTES_MAX: u64 = 1 << 20;

/// A folder that goes away with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("the folder is writable");
    }
}

/// Part `number` of `count` as llama.cpp writes them, with one tensor.
fn part(number: u16, count: u16, tensor: &str) -> Vec<u8> {
    let mut writer = Writer::new();
    if number == 1 {
        writer.set("general.architecture", "llama");
    }
    writer
        .set("split.no", number - 1)
        .set("split.count", count)
        .set("split.tensors.count", i32::from(count));
    writer.tensor_f32(
        tensor,
        &[2, u64::from(number)],
        &vec![1.0; 2 * usize::from(number)],
    );
    writer.to_bytes().expect("it keeps the limits")
}

fn three(folder: &Folder) {
    for (number, tensor) in [(1, "a"), (2, "b"), (3, "c")] {
        folder.write(
            &format!("m-0000{number}-of-00003.gguf"),
            &part(number, 3, tensor),
        );
    }
}

#[test]
fn the_parts_together_are_the_model() {
    let folder = Folder::new();
    three(&folder);
    let first = folder.path("m-00001-of-00003.gguf");
    let parts = Parts::open(&first, BYTES_MAX).expect("all three are there");
    let names: Vec<&str> = parts.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(parts.tensor("c").map(|t| t.shape.clone()), Some(vec![2, 3]));
    let sizes = parts.paths().iter().map(|path| {
        let file = path.metadata().expect("it is there");
        file.len()
    });
    assert_eq!(parts.bytes(), sizes.sum::<u64>());
    for (tensor, path) in parts.paths().iter().enumerate() {
        assert_eq!(parts.path_of(tensor), Some(path.as_path()));
    }
    assert_eq!(parts.path_of(3), None);
    assert_eq!(
        Parts::files(&first, BYTES_MAX).expect("whole"),
        parts.paths()
    );
    // What is no model is a file by itself.
    let data = Path::new("data-00001-of-x.gguf");
    assert_eq!(Parts::files(data, BYTES_MAX).expect("not opened"), [data]);
}

/// What is done to the folder with the three parts; the file that is opened; what the error says.
type Case = (fn(&Folder), &'static str, &'static str);

const FIRST: &str = "m-00001-of-00003.gguf";
const SECOND: &str = "m-00002-of-00003.gguf";
const THIRD: &str = "m-00003-of-00003.gguf";

const BROKEN: &[Case] = &[
    (
        |folder| std::fs::remove_file(folder.path(THIRD)).expect("it is there"),
        FIRST,
        "part 3 of 3 of this model is missing: there is no ",
    ),
    (
        |_| {},
        SECOND,
        "is part 2 of 3 of a model, and not the first",
    ),
    (
        |folder| folder.write("m.gguf", &part(1, 3, "a")),
        "m.gguf",
        "was renamed: its name must be NAME-00001-of-00003.gguf",
    ),
    (
        |folder| folder.write(SECOND, &part(3, 3, "b")),
        FIRST,
        "m-00002-of-00003.gguf is no part of this model: it says that it is part 3 of 3",
    ),
    (
        |folder| folder.write(SECOND, &part(2, 4, "b")),
        FIRST,
        "it says that it is part 2 of 4",
    ),
    (
        |folder| {
            let mut whole = Writer::new();
            whole.tensor_f32("b", &[2], &[1.0, 2.0]);
            folder.write(SECOND, &whole.to_bytes().expect("it keeps the limits"));
        },
        FIRST,
        "it is a model of its own",
    ),
    (
        |folder| folder.write(SECOND, &part(2, 3, "a")),
        FIRST,
        "another part holds the tensor a too",
    ),
    (
        |folder| {
            let mut other = Writer::new();
            other
                .set("general.architecture", "qwen2")
                .set("split.no", 1_u16)
                .set("split.count", 3_u16);
            folder.write(SECOND, &other.to_bytes().expect("it keeps the limits"));
        },
        FIRST,
        "its architecture is qwen2",
    ),
    (
        |folder| {
            let mut empty = Writer::new();
            empty.set("split.no", 2_u16).set("split.count", 3_u16);
            folder.write(THIRD, &empty.to_bytes().expect("it keeps the limits"));
        },
        FIRST,
        "it says that all parts hold 3 tensors together, and they hold 2",
    ),
    (
        |folder| folder.write(THIRD, &part(3, 3, "c")[..150]),
        FIRST,
        "truncated",
    ),
    (
        |folder| folder.write(THIRD, b"<!doctype html>"),
        FIRST,
        "m-00003-of-00003.gguf: this is a web page, and no GGUF file",
    ),
];

#[test]
fn what_is_wrong_with_a_part_is_said_by_name() {
    for (break_it, opened, says) in BROKEN {
        let folder = Folder::new();
        three(&folder);
        break_it(&folder);
        let error = Parts::open(&folder.path(opened), BYTES_MAX).expect_err(says);
        assert!(matches!(error, FileError::Split(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}, not {says:?}");
    }
}
