//! Files that are somewhere else: on a hub, on the web, in the store of another program. The hub
//! and the web are servers of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use translora::fetch::{FetchError, Finder, Wanted};
use translora::record::ContentHash;
use translora_gguf::Writer;

#[cfg(feature = "fetch")]
mod remote;
#[cfg(feature = "fetch")]
pub(crate) mod server;

/// A folder with everything that a finder looks at.
struct Home {
    folder: PathBuf,
    finder: Finder,
}

static HOMES: AtomicUsize = AtomicUsize::new(0);

impl Home {
    fn new(endpoint: &str) -> Self {
        let number = HOMES.fetch_add(1, Ordering::Relaxed);
        let folder = format!("translora-fetch-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        _ = fs::remove_dir_all(&folder);
        let finder = Finder {
            offline: false,
            endpoint: endpoint.to_owned(),
            token: None,
            hub_cache: folder.join("hub"),
            web_cache: folder.join("web"),
            ollama: vec![folder.join("none"), folder.join("ollama")],
            lm_studio: vec![folder.join("lmstudio")],
        };
        Self { folder, finder }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().expect("it is below")).expect("writable");
        fs::write(&path, bytes).expect("writable");
        path
    }

    fn find(&self, name: &str, wanted: Wanted) -> Result<PathBuf, FetchError> {
        self.finder.find(Path::new(name), wanted, &mut |_, _, _| {})
    }

    #[track_caller]
    fn refused(&self, name: &str, wanted: Wanted, says: &[&str]) {
        let error = self.find(name, wanted).expect_err(name).to_string();
        for word in says {
            assert!(error.contains(word), "{error}: {word:?} is not said");
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.folder);
    }
}

/// A GGUF with one tensor of some numbers.
fn model(numbers: u64) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama");
    writer.tensor_f32("a", &[numbers], &vec![0.5; numbers as usize]);
    writer.to_bytes().expect("it keeps the limits")
}

/// Put a model into Ollama's store as `ollama pull` does.
fn pull(home: &Home, manifest: &str, layers: &[(&str, &[u8])]) {
    let layers = layers.iter().map(|(kind, bytes)| {
        let hash = ContentHash::of(bytes);
        home.write(&format!("ollama/blobs/sha256-{hash}"), bytes);
        json!({ "mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": format!("sha256:{hash}"), "size": bytes.len() })
    });
    let layers: Vec<_> = layers.collect();
    let text = json!({ "schemaVersion": 2, "layers": layers }).to_string();
    home.write(&format!("ollama/manifests/{manifest}"), text.as_bytes());
}

#[test]
fn a_model_is_found_in_the_store_of_ollama() {
    let home = Home::new("");
    let (small, large, lora) = (model(4), model(40), model(2));
    let library = "registry.ollama.ai/library/llama3.2";
    pull(
        &home,
        &format!("{library}/1b"),
        &[("license", b"free"), ("model", &small)],
    );
    pull(
        &home,
        &format!("{library}/latest"),
        &[("model", &large), ("adapter", &lora)],
    );
    pull(&home, "registry.ollama.ai/me/mine/v1", &[("model", &large)]);
    pull(&home, "hf.co/a/b/Q4_K_M", &[("model", &small)]);
    for (name, wanted, bytes) in [
        ("ollama:llama3.2:1b", Wanted::Model, &small),
        ("ollama:llama3.2", Wanted::Model, &large),
        ("ollama:llama3.2", Wanted::Adapter, &lora),
        ("ollama:me/mine:v1", Wanted::Any, &large),
        ("ollama:hf.co/a/b:Q4_K_M", Wanted::Model, &small),
    ] {
        let found = home
            .find(name, wanted)
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(fs::read(found).expect("it is there") == *bytes, "{name}");
    }
    let known = "llama3.2:1b, llama3.2:latest, me/mine:v1";
    home.refused(
        "ollama:gemma3",
        Wanted::Model,
        &["ollama:gemma3", "no such model", known],
    );
    home.refused("ollama:llama3.2:1b", Wanted::Adapter, &["holds no adapter"]);
    let blob = home
        .find("ollama:me/mine:v1", Wanted::Model)
        .expect("it is there");
    fs::remove_file(&blob).expect("it is ours");
    home.refused(
        "ollama:me/mine:v1",
        Wanted::Model,
        &["there is no", "sha256-"],
    );
    home.write(
        "ollama/manifests/registry.ollama.ai/library/bad/latest",
        b"<html>",
    );
    home.refused("ollama:bad", Wanted::Model, &["no manifest of Ollama"]);
}

#[test]
fn a_model_is_found_in_the_store_of_lm_studio() {
    let home = Home::new("");
    let one = home.write("lmstudio/a/one/one-Q4_K_M.gguf", &model(4));
    home.write("lmstudio/a/one/mmproj-one.gguf", &model(4));
    home.write("lmstudio/a/two/two-Q4_K_M.gguf", &model(4));
    let large = home.write("lmstudio/a/two/two-Q8_0.gguf", &model(5));
    let find = |name| {
        home.find(name, Wanted::Model)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    assert_eq!(find("lmstudio:a/one"), one);
    assert_eq!(find("lmstudio:a/two/two-Q8_0.gguf"), large);
    let two = "a/two/two-Q4_K_M.gguf, a/two/two-Q8_0.gguf";
    home.refused("lmstudio:a/two", Wanted::Model, &["several models", two]);
    home.refused("lmstudio:a/three", Wanted::Model, &["no such model", two]);
}

#[test]
fn every_command_takes_such_names() {
    let home = Home::new("");
    pull(
        &home,
        "registry.ollama.ai/library/toy/latest",
        &[("model", &model(4))],
    );
    let run = |line: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_translora"))
            .args(line.split_whitespace())
            .env("OLLAMA_MODELS", home.folder.join("ollama"))
            .env("HOME", &home.folder)
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, out, err) = run("inspect ollama:toy --json");
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"what\":\"model\""), "{out}");
    assert!(out.contains("blobs/sha256-"), "{out}");
    for line in [
        "train -m ollama:other --data d.jsonl --out l.gguf",
        "eval -m ollama:other --data d.jsonl",
        "eval -m m.gguf --lora ollama:other --data d.jsonl",
        "kit -m ollama:other --lora l.gguf --data d.jsonl --out k.kit",
        "transfer --source ollama:other --source-lora l --target t --seeds s --out o",
        "transfer --source s --source-lora l --target ollama:other --seeds s --out o",
        "serve -m ollama:other",
        "serve -m m.gguf --lora ollama:other",
        "inspect ollama:other",
    ] {
        let (code, _, err) = run(line);
        assert_eq!(code, Some(2), "{line}: {err}");
        assert!(
            err.contains("Ollama has no such model here; there are toy:latest"),
            "{line}: {err}"
        );
        assert!(err.contains("hint: name one of those"), "{line}: {err}");
    }
}
