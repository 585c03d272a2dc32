//! A world small enough for a test: two toy bases and one task, in a folder that goes away with the
//! test.

use std::fs;
use std::path::{Path, PathBuf};

use translora::engine::toy::world::{new_base, old_base, rows};
use translora::record::{Blame, InJson, Pair};

/// The files of one world.
pub struct World {
    /// Goes away with the world.
    _kept: tempfile::TempDir,
    pub folder: PathBuf,
    pub source: PathBuf,
    pub target: PathBuf,
    /// 300 rows of the task: what a source adapter and a kit are made from.
    pub train: PathBuf,
    /// 120 other rows.
    pub eval: PathBuf,
    pub seeds: PathBuf,
}

impl World {
    pub fn new() -> Self {
        let kept = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = kept.path();
        let world = Self {
            folder: folder.to_owned(),
            source: folder.join("old.json"),
            target: folder.join("new.json"),
            train: folder.join("train.jsonl"),
            eval: folder.join("eval.jsonl"),
            seeds: folder.join("seeds.jsonl"),
            _kept: kept,
        };
        fs::write(
            &world.source,
            serde_json::to_vec(&old_base()).expect("a base is JSON"),
        )
        .expect("writable");
        fs::write(
            &world.target,
            serde_json::to_vec(&new_base()).expect("a base is JSON"),
        )
        .expect("writable");
        let all = rows(425, 11);
        write_rows(&world.train, &all[..300]);
        write_rows(&world.eval, &all[300..420]);
        let seeds: Vec<Pair> = all[420..]
            .iter()
            .map(|row| Pair {
                completion: String::new(),
                ..row.clone()
            })
            .collect();
        write_rows(&world.seeds, &seeds);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Names in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).expect("the world is readable");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// Write rows as JSON lines.
pub fn write_rows(path: &Path, rows: &[Pair]) {
    let text: String = rows
        .iter()
        .map(|row| serde_json::to_string(row).expect("a row is JSON") + "\n")
        .collect();
    fs::write(path, text).expect("writable");
}

/// What to do about an error, as a program reads it.
pub fn remedy(error: &impl Blame) -> String {
    error.remedy().expect("something helps").words(&InJson)
}
