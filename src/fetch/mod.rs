//! Find the file that a name stands for: on this disk, in the store of Ollama or LM Studio, on a
//! hub of models, at an address of the web.
//!
//! What is fetched is kept, goes on where it was cut off, and is compared with its checksum. Nothing
//! that was not asked for by such a name leaves the disk or comes to it.
//!
//! Refuses to know: what is in a file. Called by the program only, before anything else: no request
//! of a host, a client or a worker makes this machine fetch anything.

use std::env;
use std::path::{Path, PathBuf};

use crate::record::ContentHash;

#[cfg(feature = "fetch")]
mod download;
mod error;
#[cfg(feature = "fetch")]
mod hub;
mod stores;
#[cfg(feature = "fetch")]
mod web;

pub use error::FetchError;

/// What a file is wanted for: it decides which of several files a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A base model.
    Model,
    /// A file, or a folder with a configuration beside it.
    Adapter,
    /// A kit.
    Kit,
    /// Whatever it is.
    Any,
}

#[cfg(feature = "fetch")]
impl Wanted {
    fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Adapter => "adapter",
            Self::Kit => "kit",
            Self::Any => "file",
        }
    }
}

/// What a name says about where its file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'n> {
    /// It is the path of a file.
    Disk(&'n Path),
    /// `hf:OWNER/REPO[@REVISION][:FILE]`
    Hub {
        /// `OWNER/REPO`
        repo: &'n str,
        /// A branch, a tag or a commit.
        revision: &'n str,
        /// A file of the repository, or a word for a quantization.
        file: Option<&'n str>,
    },
    /// `https://…[#sha256=…]`
    Web {
        /// The address.
        url: &'n str,
        /// What the file must have.
        sha256: Option<ContentHash>,
    },
    /// `ollama:NAME[:TAG]`
    Ollama(&'n str),
    /// `lmstudio:PUBLISHER/REPO[/FILE]`
    LmStudio(&'n str),
}

impl<'n> Place<'n> {
    /// Take a name apart.
    ///
    /// fails: it begins like a name of a hub, a store or the web, and goes on otherwise
    pub fn of(name: &'n Path) -> Result<Self, FetchError> {
        let Some(text) = name.to_str() else {
            return Ok(Self::Disk(name));
        };
        if let Some(rest) = text.strip_prefix("hf:") {
            return hub_place(text, rest);
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return web_place(text);
        }
        let inside = |rest: &'n str| match rest.split('/').all(|part| !matches!(part, "" | "..")) {
            true => Ok(rest),
            false => Err(FetchError::name(
                text,
                "its parts are empty or lead out of the store",
            )),
        };
        if let Some(rest) = text.strip_prefix("ollama:") {
            return inside(rest).map(Self::Ollama);
        }
        if let Some(rest) = text.strip_prefix("lmstudio:") {
            return inside(rest).map(Self::LmStudio);
        }
        Ok(Self::Disk(name))
    }
}

fn hub_place<'n>(text: &str, rest: &'n str) -> Result<Place<'n>, FetchError> {
    let refuse = || FetchError::name(text, "it is not of the form hf:OWNER/REPO[:FILE]");
    let (place, file) = match rest.split_once(':') {
        Some((place, file)) => (place, Some(file)),
        None => (rest, None),
    };
    let (repo, revision) = place.split_once('@').unwrap_or((place, "main"));
    let word = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !word.is_empty() && !word.starts_with('.') && word.chars().all(plain)
    };
    let (owner, name) = repo.split_once('/').ok_or_else(refuse)?;
    let safe = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if word(owner) && word(name) && safe(revision) && file.is_none_or(safe) {
        Ok(Place::Hub {
            repo,
            revision,
            file,
        })
    } else {
        Err(refuse())
    }
}

fn web_place(text: &str) -> Result<Place<'_>, FetchError> {
    let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
    let sha256 = match fragment.strip_prefix("sha256=") {
        Some(hash) => Some(hash.parse().map_err(|_| {
            FetchError::name(text, "what follows #sha256= are not 64 digits of base 16")
        })?),
        None => None,
    };
    if let Some(rest) = url.strip_prefix("http://") {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        if !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            let why = "without TLS anyone on the way may change the file";
            return Err(FetchError::name(text, why));
        }
    }
    Ok(Place::Web { url, sha256 })
}

/// Progress of a download: the file's name, the bytes that are here, and of how many, where that is
/// known.
pub type Progress<'p> = &'p mut dyn FnMut(&str, u64, Option<u64>);

/// Where files may come from, and where fetched ones are kept.
#[derive(Clone, Debug)]
pub struct Finder {
    /// Nothing is fetched: what is not on this disk is an error.
    pub offline: bool,
    /// Address of the hub.
    pub endpoint: String,
    /// Sent to the hub, and to nobody else.
    pub token: Option<String>,
    /// The hub's files, as its own programs keep them.
    pub hub_cache: PathBuf,
    /// Files of the web.
    pub web_cache: PathBuf,
    /// Folders of models that Ollama keeps, in order.
    pub ollama: Vec<PathBuf>,
    /// Folders of models that LM Studio keeps, in order.
    pub lm_studio: Vec<PathBuf>,
}

impl Finder {
    /// Look where the usual variables of the environment say: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `XDG_CACHE_HOME`, `OLLAMA_MODELS`.
    pub fn from_env(offline: bool) -> Self {
        let text = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
        let home = env::home_dir().unwrap_or_else(|| PathBuf::from("."));
        let cache = text("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let hf_home = text("HF_HOME").map_or_else(|| cache.join("huggingface"), PathBuf::from);
        let on =
            |text: String| !matches!(text.to_lowercase().as_str(), "0" | "false" | "no" | "off");
        let token = || {
            let kept = std::fs::read_to_string(hf_home.join("token")).ok()?;
            Some(kept.trim().to_owned()).filter(|token| !token.is_empty())
        };
        Self {
            offline: offline || text("HF_HUB_OFFLINE").is_some_and(on),
            endpoint: text("HF_ENDPOINT").map_or_else(
                || "https://huggingface.co".to_owned(),
                |endpoint| endpoint.trim_end_matches('/').to_owned(),
            ),
            token: text("HF_TOKEN").or_else(token),
            hub_cache: text("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), PathBuf::from),
            web_cache: cache.join("translora/web"),
            ollama: match text("OLLAMA_MODELS") {
                Some(folder) => vec![folder.into()],
                None => vec![
                    home.join(".ollama/models"),
                    "/usr/share/ollama/.ollama/models".into(),
                ],
            },
            lm_studio: vec![
                home.join(".lmstudio/models"),
                home.join(".cache/lm-studio/models"),
            ],
        }
    }

    /// Find the file that a name stands for, and fetch it where it is not here. A path is returned
    /// as it is, whatever lies there.
    ///
    /// fails: the name stands for no file, for several, or for one that cannot be fetched whole
    pub fn find(
        &self,
        name: &Path,
        wanted: Wanted,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        match Place::of(name)? {
            Place::Disk(path) => Ok(path.to_owned()),
            Place::Ollama(model) => stores::ollama(&self.ollama, model, wanted),
            Place::LmStudio(model) => stores::lm_studio(&self.lm_studio, model),
            place => self.fetched(&place, wanted, progress),
        }
    }

    #[cfg(feature = "fetch")]
    fn fetched(
        &self,
        place: &Place<'_>,
        wanted: Wanted,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        match *place {
            Place::Hub {
                repo,
                revision,
                file,
            } => hub::find(self, (repo, revision, file), wanted, progress),
            Place::Web { url, sha256 } => web::find(self, url, sha256, progress),
            Place::Disk(path) => Ok(path.to_owned()),
            Place::Ollama(model) => stores::ollama(&self.ollama, model, wanted),
            Place::LmStudio(model) => stores::lm_studio(&self.lm_studio, model),
        }
    }

    #[cfg(not(feature = "fetch"))]
    fn fetched(&self, _: &Place<'_>, _: Wanted, _: Progress<'_>) -> Result<PathBuf, FetchError> {
        Err(FetchError::NotBuilt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub<'n>(repo: &'n str, revision: &'n str, file: Option<&'n str>) -> Place<'n> {
        Place::Hub {
            repo,
            revision,
            file,
        }
    }

    #[test]
    fn names_say_where_a_file_is() {
        let web = |url| Place::Web { url, sha256: None };
        let cases = [
            ("m.gguf", Place::Disk(Path::new("m.gguf"))),
            ("./hf:m", Place::Disk(Path::new("./hf:m"))),
            ("C:/m.gguf", Place::Disk(Path::new("C:/m.gguf"))),
            ("hf:a/b", hub("a/b", "main", None)),
            ("hf:a/b:Q4_K_M", hub("a/b", "main", Some("Q4_K_M"))),
            ("hf:a/b@v2:x/m.gguf", hub("a/b", "v2", Some("x/m.gguf"))),
            ("https://x.org/m.gguf", web("https://x.org/m.gguf")),
            ("http://localhost:8000/m", web("http://localhost:8000/m")),
            ("http://127.0.0.1/m", web("http://127.0.0.1/m")),
            ("ollama:llama3.2:1b", Place::Ollama("llama3.2:1b")),
            ("lmstudio:a/b/m.gguf", Place::LmStudio("a/b/m.gguf")),
        ];
        for (name, place) in cases {
            assert_eq!(Place::of(Path::new(name)).expect(name), place, "{name}");
        }
        let hash = ContentHash::of(b"abc");
        let name = format!("https://x.org/m#sha256={hash}");
        let (url, sha256) = ("https://x.org/m", Some(hash));
        assert_eq!(
            Place::of(Path::new(&name)).expect("sound"),
            Place::Web { url, sha256 }
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:../b",
            "hf:a/b:../../m",
            "hf:a/b@..:m",
            "hf:a/b?x",
            "http://example.org/m.gguf",
            "http://localhost.example.org/m.gguf",
            "https://x.org/m#sha256=12",
            "ollama:",
            "ollama:../x",
            "lmstudio:a/../b",
        ] {
            assert!(Place::of(Path::new(name)).is_err(), "{name}");
        }
    }
}
