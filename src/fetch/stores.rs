//! The stores of other programs on this disk.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{FetchError, Wanted};

/// What a model's manifest lists.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// The longest manifest that is read. units: bytes
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// How deep a store is searched for names. units: folders
const DEPTH_MAX: usize = 6;

/// Find the blob of a model, or of the adapter that comes with it.
///
/// source: Ollama, `types/model/name.go` and `manifest/paths.go`
pub(super) fn ollama(
    roots: &[PathBuf],
    model: &str,
    wanted: Wanted,
) -> Result<PathBuf, FetchError> {
    let name = format!("ollama:{model}");
    let Some((root, path)) = roots.iter().find_map(|root| {
        let path = root.join("manifests").join(manifest_of(model));
        path.is_file().then_some((root, path))
    }) else {
        return Err(FetchError::NotInStore {
            name,
            store: "Ollama",
            known: roots.iter().flat_map(|root| ollama_names(root)).collect(),
        });
    };
    let broken = |why: String| FetchError::Store {
        path: path.clone(),
        why,
    };
    let text = translora_gguf::read_file(&path, MANIFEST_BYTES_MAX)
        .map_err(|error| broken(error.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| broken(format!("this is no manifest of Ollama: {error}")))?;
    let kind = match wanted {
        Wanted::Adapter => "adapter",
        Wanted::Model | Wanted::Kit | Wanted::Any => "model",
    };
    let media_type = format!("application/vnd.ollama.image.{kind}");
    let layer = manifest
        .layers
        .iter()
        .find(|layer| layer.media_type == media_type)
        .ok_or_else(|| broken(format!("{model} holds no {kind}")))?;
    let digest = layer.digest.strip_prefix("sha256:");
    let digest = digest.filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let digest = digest.ok_or_else(|| broken("a layer has no SHA-256".into()))?;
    let blob = root.join("blobs").join(format!("sha256-{digest}"));
    if blob.is_file() {
        Ok(blob)
    } else {
        Err(broken(format!("there is no {}", blob.display())))
    }
}

/// The manifest of `[HOST/][NAMESPACE/]NAME[:TAG]`, within the folder of manifests.
fn manifest_of(model: &str) -> PathBuf {
    let (model, tag) = match model.rsplit_once(':') {
        Some((model, tag)) if !tag.contains('/') => (model, tag),
        _ => (model, "latest"),
    };
    let path: PathBuf = match model.split('/').collect::<Vec<_>>()[..] {
        [name] => ["registry.ollama.ai", "library", name].iter().collect(),
        [namespace, name] => ["registry.ollama.ai", namespace, name].iter().collect(),
        _ => model.into(),
    };
    path.join(tag)
}

/// The names that Ollama has here, as it writes them.
fn ollama_names(root: &Path) -> Vec<String> {
    let manifests = root.join("manifests");
    let mut found = Vec::new();
    files(&manifests, DEPTH_MAX, &mut found);
    let mut names: Vec<String> = found
        .iter()
        .filter_map(|path| {
            let path = path.strip_prefix(&manifests).ok()?.to_str()?;
            let (model, tag) = path.rsplit_once('/')?;
            let model = model.strip_prefix("registry.ollama.ai/").unwrap_or(model);
            let model = model.strip_prefix("library/").unwrap_or(model);
            Some(format!("{model}:{tag}"))
        })
        .collect();
    names.sort();
    names
}

/// Find a file, or the only GGUF of a folder.
pub(super) fn lm_studio(roots: &[PathBuf], model: &str) -> Result<PathBuf, FetchError> {
    let name = format!("lmstudio:{model}");
    if let Some(file) = roots
        .iter()
        .map(|root| root.join(model))
        .find(|path| path.is_file())
    {
        return Ok(file);
    }
    let known: Vec<(String, PathBuf)> = roots.iter().flat_map(|root| ggufs(root)).collect();
    let inside = format!("{model}/");
    let mine = known.iter().filter(|(name, _)| name.starts_with(&inside));
    let firsts: Vec<&(String, PathBuf)> = mine.filter(|(name, _)| is_first(name)).collect();
    let names = |list: &mut dyn Iterator<Item = &(String, PathBuf)>| {
        list.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    match firsts[..] {
        [(_, path)] => Ok(path.clone()),
        [] => Err(FetchError::NotInStore {
            name,
            store: "LM Studio",
            known: names(&mut known.iter()),
        }),
        _ => Err(FetchError::Which {
            name,
            why: "this is a folder of several models".into(),
            files: names(&mut firsts.into_iter()),
        }),
    }
}

/// Neither a later part of a split model, nor what only makes a model see.
pub(super) fn is_first(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let part = file.strip_suffix(".gguf").and_then(|stem| {
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (_, number) = stem.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (digits(count) && digits(number)).then_some(number)
    });
    part.is_none_or(|number| number == "00001") && !file.to_lowercase().contains("mmproj")
}

/// The GGUF files below a folder by their names within it.
fn ggufs(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    files(root, DEPTH_MAX, &mut found);
    found.sort();
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root).ok()?.to_str()?.to_owned();
        name.ends_with(".gguf").then_some((name, path))
    };
    found.into_iter().filter_map(named).collect()
}

fn files(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && depth > 0 {
            files(&path, depth - 1, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// The names of all files below a folder, within it.
#[cfg(feature = "fetch")]
pub(super) fn names_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    files(root, DEPTH_MAX, &mut found);
    found.sort();
    let name = |path: PathBuf| Some(path.strip_prefix(root).ok()?.to_str()?.to_owned());
    found.into_iter().filter_map(name).collect()
}
