//! Files of a repository on a hub, kept as the hub's own programs keep them.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;

use super::download::{Download, agent, status_error, unreachable};
use super::stores::is_first;
use super::{FetchError, Finder, Progress, Wanted};
use crate::record::ContentHash;

/// The quantization that llama-server takes where none is named.
const USUAL: &str = "q4_k_m";
/// What makes a folder an adapter of PEFT or MLX.
const CONFIGURATION: &str = "adapter_config.json";
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapters.safetensors"];
/// What is read beside an adapter, where it is there.
const BESIDE: [&str; 3] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// What the hub says of a repository at one revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: ContentHash,
    size: u64,
}

/// What a name stands for: files to bring, and which of them, or their folder, is meant.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    files: Vec<String>,
    /// None: the folder.
    main: Option<String>,
}

pub(super) fn find(
    finder: &Finder,
    (repo, revision, file): (&str, &str, Option<&str>),
    wanted: Wanted,
    progress: Progress<'_>,
) -> Result<PathBuf, FetchError> {
    let mut name = format!("hf:{repo}");
    if revision != "main" {
        name += &format!("@{revision}");
    }
    name.extend(file.map(|file| format!(":{file}")));
    let place = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
    let cache = Cache::new(finder.hub_cache.clone());
    let kept = cache.repo(place.clone());
    if finder.offline {
        return offline(
            &finder.hub_cache.join(place.folder_name()),
            revision,
            &name,
            file,
            wanted,
        );
    }
    let api = ApiBuilder::from_cache(cache)
        .with_endpoint(finder.endpoint.clone())
        .with_token(finder.token.clone())
        .with_progress(false)
        .build()
        .map_err(|error| FetchError::Answer {
            name: name.clone(),
            why: error.to_string(),
        })?;
    let remote = api.repo(place);
    let info = ask(finder, &remote, &name, repo)?;
    let names: Vec<String> = info
        .siblings
        .iter()
        .map(|file| file.rfilename.clone())
        .collect();
    let chosen = choose(&name, &names, file, wanted)?;
    let pinned = Repo::with_revision(repo.to_owned(), RepoType::Model, info.sha.clone());
    let pinned = api.repo(pinned);
    for sibling in info
        .siblings
        .iter()
        .filter(|file| chosen.files.contains(&file.rfilename))
    {
        bring(
            finder,
            &name,
            &pinned,
            (&kept, &info.sha),
            sibling,
            progress,
        )?;
    }
    let refs = finder.hub_cache.clone();
    kept.create_ref(&info.sha)
        .map_err(|e| FetchError::io(&refs, e))?;
    let folder = kept.pointer_path(&info.sha);
    Ok(chosen
        .main
        .map_or_else(|| folder.clone(), |file| folder.join(file)))
}

/// Ask what files there are, with their checksums.
fn ask(finder: &Finder, remote: &ApiRepo, name: &str, repo: &str) -> Result<Info, FetchError> {
    let url = format!("{}/{repo}", finder.endpoint);
    let mut response = match remote.info_request().query("blobs", "true").call() {
        Ok(response) => response,
        Err(ureq::Error::StatusCode(status)) => {
            return Err(status_error(name, &url, status, finder.token.is_some()));
        }
        Err(error) => return Err(unreachable(name, &url, &error)),
    };
    let answer = |why: String| FetchError::Answer {
        name: name.to_owned(),
        why,
    };
    let info: Info = response
        .body_mut()
        .read_json()
        .map_err(|error| answer(error.to_string()))?;
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let sound = |file: &Sibling| {
        file.rfilename
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."))
            && file.blob_id.as_deref().is_none_or(hex)
    };
    if hex(&info.sha) && info.siblings.iter().all(sound) {
        Ok(info)
    } else {
        Err(answer("it names files that no repository has".into()))
    }
}

/// Fetch one file into the cache, and point to it from the snapshot.
fn bring(
    finder: &Finder,
    name: &str,
    pinned: &ApiRepo,
    (kept, commit): (&CacheRepo, &str),
    file: &Sibling,
    progress: Progress<'_>,
) -> Result<(), FetchError> {
    let pointer = kept.pointer_path(commit).join(&file.rfilename);
    if pointer.is_file() {
        return Ok(());
    }
    let etag = match (&file.lfs, &file.blob_id) {
        (Some(lfs), _) => lfs.sha256.to_string(),
        (None, Some(blob)) => blob.clone(),
        (None, None) => {
            return Err(FetchError::Answer {
                name: name.to_owned(),
                why: format!("it tells no checksum of {}", file.rfilename),
            });
        }
    };
    let blob = kept.blob_path(&etag);
    if !blob.is_file() {
        Download {
            name,
            url: &pinned.url(&file.rfilename),
            token: finder.token.as_deref(),
            bytes: file.lfs.as_ref().map(|lfs| lfs.size).or(file.size),
            sha256: file.lfs.as_ref().map(|lfs| lfs.sha256),
            to: &blob,
            changes: false,
        }
        .run(&agent(), progress)?;
    }
    let folder = pointer.parent().unwrap_or(&pointer);
    fs::create_dir_all(folder).map_err(|e| FetchError::io(folder, e))?;
    // A pointer to a blob that is gone is made anew.
    _ = fs::remove_file(&pointer);
    let up = "../".repeat(2 + file.rfilename.matches('/').count());
    link(&PathBuf::from(format!("{up}blobs/{etag}")), &blob, &pointer)
        .map_err(|e| FetchError::io(&pointer, e))
}

#[cfg(unix)]
fn link(relative: &Path, _: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, pointer)
}

#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, pointer: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, pointer)
}

/// What was fetched before.
fn offline(
    folder: &Path,
    revision: &str,
    name: &str,
    file: Option<&str>,
    wanted: Wanted,
) -> Result<PathBuf, FetchError> {
    let missing = || FetchError::Offline {
        name: name.to_owned(),
    };
    let commit = fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    let names = super::stores::names_below(&snapshot);
    if names.is_empty() {
        return Err(missing());
    }
    let chosen = choose(name, &names, file, wanted)?;
    Ok(chosen
        .main
        .map_or_else(|| snapshot.clone(), |file| snapshot.join(file)))
}

/// Choose among the files of a repository.
fn choose(
    name: &str,
    files: &[String],
    file: Option<&str>,
    wanted: Wanted,
) -> Result<Chosen, FetchError> {
    let one = |main: &str| Chosen {
        files: parts(files, main),
        main: Some(main.to_owned()),
    };
    let has = |file: &str| files.iter().any(|known| known == file);
    let models: Vec<&String> = files
        .iter()
        .filter(|file| file.ends_with(".gguf") && is_first(file))
        .collect();
    let which = |why: String, files: Vec<&String>| FetchError::Which {
        name: name.to_owned(),
        why,
        files: files.into_iter().cloned().collect(),
    };
    let of_quantization = |word: &str| -> Vec<&String> {
        let word = word.to_lowercase();
        let named = |file: &&&String| file.to_lowercase().contains(&word);
        models.iter().filter(named).copied().collect()
    };
    if let Some(file) = file {
        if has(file) {
            return Ok(one(file));
        }
        return match of_quantization(file)[..] {
            [model] => Ok(one(model)),
            [] => Err(which(format!("there is no {file}"), files.iter().collect())),
            _ => Err(which(
                format!("{file} is part of several names"),
                of_quantization(file),
            )),
        };
    }
    let weights = WEIGHTS.iter().find(|weights| has(weights));
    if let (Wanted::Adapter | Wanted::Any, Some(weights), true) =
        (wanted, weights, has(CONFIGURATION))
    {
        let beside = BESIDE.iter().filter(|file| has(file));
        let always = [CONFIGURATION, *weights];
        let files = always.iter().chain(beside);
        return Ok(Chosen {
            files: files.map(|file| (*file).to_owned()).collect(),
            main: None,
        });
    }
    let kits: Vec<&String> = files.iter().filter(|file| file.ends_with(".kit")).collect();
    if let (Wanted::Kit | Wanted::Any, [kit]) = (wanted, &kits[..]) {
        return Ok(one(kit));
    }
    match (&models[..], &of_quantization(USUAL)[..]) {
        ([model], _) | (_, [model]) => Ok(one(model)),
        ([], _) => Err(which(
            format!("no {} in GGUF or safetensors is there", wanted.noun()),
            files.iter().collect(),
        )),
        _ => Err(which("it is not said which file".into(), models)),
    }
}

/// The file, or all parts of a split model of which it is the first.
fn parts(files: &[String], main: &str) -> Vec<String> {
    let split = main
        .split_once("-00001-of-")
        .map(|(stem, count)| (format!("{stem}-"), format!("-of-{count}")));
    let Some((stem, count)) = split else {
        return vec![main.to_owned()];
    };
    let mine = |file: &&String| file.starts_with(&stem) && file.ends_with(&count);
    files.iter().filter(mine).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files, the one that is named, what for; what is fetched, and which of it is meant.
    type Case<'c> = (
        &'c [&'c str],
        Option<&'c str>,
        Wanted,
        &'c [&'c str],
        Option<&'c str>,
    );
    /// Files, the one that is named, what for; what the refusal says.
    type Refused<'c> = (&'c [&'c str], Option<&'c str>, Wanted, &'c [&'c str]);

    fn chosen(files: &[&str], file: Option<&str>, wanted: Wanted) -> Result<Chosen, String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose("hf:a/b", &files, file, wanted).map_err(|error| error.to_string())
    }

    #[test]
    fn one_file_of_a_repository_is_chosen_or_all_are_named() {
        let many = [
            "README.md",
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "mmproj-m-f16.gguf",
            "big/m-f16-00001-of-00002.gguf",
            "big/m-f16-00002-of-00002.gguf",
        ];
        let peft = [
            "adapter_config.json",
            "adapter_model.safetensors",
            "tokenizer.json",
            "README.md",
        ];
        let two = ["a-Q8_0.gguf", "b-Q8_0.gguf"];
        let parts = &many[4..];
        let cases: &[Case<'_>] = &[
            (&many, None, Wanted::Model, &many[1..2], Some(many[1])),
            (
                &many,
                Some("q8_0"),
                Wanted::Model,
                &many[2..3],
                Some(many[2]),
            ),
            (
                &many,
                Some("mmproj-m-f16.gguf"),
                Wanted::Model,
                &many[3..4],
                Some(many[3]),
            ),
            (&many, Some("F16"), Wanted::Model, parts, Some(parts[0])),
            (&many, Some(parts[0]), Wanted::Model, parts, Some(parts[0])),
            (&peft, None, Wanted::Adapter, &peft[..3], None),
            (
                &["x.gguf"],
                None,
                Wanted::Adapter,
                &["x.gguf"],
                Some("x.gguf"),
            ),
            (
                &["x.gguf", "t.kit"],
                None,
                Wanted::Kit,
                &["t.kit"],
                Some("t.kit"),
            ),
        ];
        for (files, file, wanted, fetched, main) in cases {
            let chosen = chosen(files, *file, *wanted).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(chosen.files, *fetched, "{file:?}");
            assert_eq!(chosen.main.as_deref(), *main, "{file:?}");
        }
        let refusals: &[Refused<'_>] = &[
            (
                &two,
                None,
                Wanted::Model,
                &["not said which file", "a-Q8_0.gguf, b-Q8_0.gguf"],
            ),
            (
                &two,
                Some("Q8_0"),
                Wanted::Model,
                &["several names", "a-Q8_0.gguf"],
            ),
            (
                &two,
                Some("Q2_K"),
                Wanted::Model,
                &["there is no Q2_K", "b-Q8_0.gguf"],
            ),
            (
                &peft,
                None,
                Wanted::Model,
                &["no model", "adapter_config.json"],
            ),
        ];
        for (files, file, wanted, says) in refusals {
            let error = chosen(files, *file, *wanted).expect_err("several or none");
            assert!(
                says.iter().all(|word| error.contains(word)),
                "{error}, not {says:?}"
            );
        }
    }
}
