//! Files at an address of the web, kept as long as the address has them.

use std::path::PathBuf;

use super::download::{Download, agent};
use super::stores::is_first;
use super::{FetchError, Finder, Progress};
use crate::record::ContentHash;

/// Bring the file at an address here, with the other parts where it is the first of a split model,
/// and with the configuration where it is an adapter in safetensors.
pub(super) fn find(
    finder: &Finder,
    url: &str,
    sha256: Option<ContentHash>,
    progress: Progress<'_>,
) -> Result<PathBuf, FetchError> {
    let page = format!("{}/", finder.endpoint);
    // The page of a file on a hub, where the file itself was meant.
    let address = match url
        .strip_prefix(&page)
        .and_then(|rest| rest.split_once("/blob/"))
    {
        Some((repo, file)) => format!("{page}{repo}/resolve/{file}"),
        None => url.to_owned(),
    };
    let path = address.split('?').next().unwrap_or(&address);
    let query = address.strip_prefix(path).unwrap_or_default();
    let (folder, file) = path.rsplit_once('/').unwrap_or((path, ""));
    let fetch = |file: &str, sha256, progress: Progress<'_>| {
        let address = format!("{folder}/{file}{query}");
        one(
            finder,
            &address,
            (&format!("{folder}{query}"), file),
            sha256,
            progress,
        )
    };
    let here = fetch(file, sha256, progress)?;
    for part in other_parts(file) {
        fetch(&part, None, progress)?;
    }
    if file.ends_with(".safetensors") {
        match fetch("adapter_config.json", None, progress) {
            Ok(_) | Err(FetchError::NotThere { .. } | FetchError::Offline { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(here)
}

fn one(
    finder: &Finder,
    url: &str,
    (folder, file): (&str, &str),
    sha256: Option<ContentHash>,
    progress: Progress<'_>,
) -> Result<PathBuf, FetchError> {
    let key = ContentHash::of(folder.as_bytes()).to_string();
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c,
        _ => '_',
    };
    let mut name: String = file.trim_start_matches('.').chars().map(plain).collect();
    if name.is_empty() {
        name = "file".into();
    }
    let mut to = finder.web_cache.join(&key[..32]);
    // A file with a checksum never changes: it has a place of its own.
    to.extend(sha256.map(|hash| hash.short()));
    to.push(name);
    if to.is_file() && (finder.offline || sha256.is_some()) {
        return Ok(to);
    }
    if finder.offline {
        return Err(FetchError::Offline {
            name: url.to_owned(),
        });
    }
    let mine = url.starts_with(&format!("{}/", finder.endpoint));
    Download {
        name: url,
        url,
        token: finder.token.as_deref().filter(|_| mine),
        bytes: None,
        sha256,
        to: &to,
        changes: sha256.is_none(),
    }
    .run(&agent(), progress)?;
    Ok(to)
}

/// The other parts of `NAME-00001-of-00003.gguf`.
fn other_parts(file: &str) -> Vec<String> {
    let split = file
        .strip_suffix(".gguf")
        .and_then(|stem| stem.split_once("-00001-of-"));
    let parts = split.and_then(|(stem, count)| Some((stem, count, count.parse::<u32>().ok()?)));
    match parts.filter(|_| is_first(file)) {
        Some((stem, count, parts)) if count.len() == 5 => (2..=parts)
            .map(|part| format!("{stem}-{part:05}-of-{count}.gguf"))
            .collect(),
        _ => Vec::new(),
    }
}
