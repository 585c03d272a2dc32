//! Bring one file here: it goes on where it was cut off, and is compared with its checksum before
//! it gets its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};

use super::{FetchError, Progress};
use crate::record::ContentHash;

/// How often a connection may be cut without a byte having arrived.
const TRIES: u32 = 4;
/// The wait before the second try; it doubles with each.
const WAIT: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 1 << 16;

/// A file that is somewhere else.
pub(super) struct Download<'d> {
    /// The name as it was asked for.
    pub name: &'d str,
    pub url: &'d str,
    pub token: Option<&'d str>,
    pub bytes: Option<u64>,
    pub sha256: Option<ContentHash>,
    /// Where it goes.
    pub to: &'d Path,
    /// What lies at the address may change: its ETag is kept beside it.
    pub changes: bool,
}

/// How one connection ended.
enum Ended {
    Whole,
    /// The file that is here is still the one at the address.
    Unchanged,
    /// It may be tried again.
    Cut(FetchError),
}

pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .timeout_connect(Some(CONNECT))
        .user_agent(concat!("translora/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A path with a suffix to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Download<'_> {
    /// Bring the file here, unless the one that is here is still the same.
    ///
    /// fails: after a few cuts, with what arrived kept for the next time; what is not the file is
    /// removed
    pub fn run(&self, agent: &Agent, progress: Progress<'_>) -> Result<(), FetchError> {
        let part = beside(self.to, ".part");
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| FetchError::Io { path, source }
        };
        let folder = self.to.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(io(folder))?;
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(&part)
            .map_err(io(&part))?;
        // Another process that fetches the same file is waited for.
        file.lock().map_err(io(&part))?;
        if !self.changes && self.to.is_file() {
            return fs::remove_file(&part).map_err(io(&part));
        }
        let mut failures = 0;
        loop {
            let before = file.metadata().map_err(io(&part))?.len();
            match self.once(agent, &mut file, progress)? {
                Ended::Whole => break,
                Ended::Unchanged => return fs::remove_file(&part).map_err(io(&part)),
                Ended::Cut(error) => {
                    let after = file.metadata().map_err(io(&part))?.len();
                    failures = if after > before { 0 } else { failures + 1 };
                    if failures == TRIES {
                        return Err(error);
                    }
                    thread::sleep(WAIT * 2_u32.pow(failures));
                }
            }
        }
        self.check(&part)?;
        fs::rename(&part, self.to).map_err(io(self.to))?;
        if self.changes {
            let (new, kept) = (beside(self.to, ".part.etag"), beside(self.to, ".etag"));
            fs::rename(&new, &kept).map_err(io(&kept))?;
        }
        Ok(())
    }

    /// The ETag that is kept in a file beside the one that is fetched.
    fn etag(&self, suffix: &str) -> Option<String> {
        let kept = fs::read_to_string(beside(self.to, suffix)).ok()?;
        self.changes.then_some(kept).filter(|etag| !etag.is_empty())
    }

    /// Ask once, and take what arrives.
    fn once(
        &self,
        agent: &Agent,
        file: &mut File,
        progress: Progress<'_>,
    ) -> Result<Ended, FetchError> {
        let part = beside(self.to, ".part");
        let here = file.metadata().map_err(|e| FetchError::io(&part, e))?.len();
        let mut request = agent.get(self.url).header("accept-encoding", "identity");
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let goes_on = here > 0 && (!self.changes || self.etag(".part.etag").is_some());
        if goes_on {
            request = request.header("range", format!("bytes={here}-"));
            if let Some(etag) = self.etag(".part.etag") {
                request = request.header("if-range", etag);
            }
        } else if let Some(etag) = self.etag(".etag").filter(|_| self.to.is_file()) {
            request = request.header("if-none-match", etag);
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Ended::Cut(self.unreachable(&error))),
        };
        let begins = match response.status().as_u16() {
            200 => 0,
            206 if goes_on && starts_at(response.headers(), here) => here,
            304 => return Ok(Ended::Unchanged),
            // What is here is no beginning of what is there.
            206 | 416 => {
                file.set_len(0).map_err(|e| FetchError::io(&part, e))?;
                return Ok(Ended::Cut(self.cut(
                    0,
                    None,
                    "it answered with another part",
                )));
            }
            status @ (429 | 500..) => return Ok(Ended::Cut(self.status(status))),
            status => return Err(self.status(status)),
        };
        file.set_len(begins).map_err(|e| FetchError::io(&part, e))?;
        self.take(response, begins, file, progress)
    }

    /// Write what arrives behind what is here.
    fn take(
        &self,
        response: Response<ureq::Body>,
        begins: u64,
        file: &mut File,
        progress: Progress<'_>,
    ) -> Result<Ended, FetchError> {
        let (part, etag) = (beside(self.to, ".part"), beside(self.to, ".part.etag"));
        let headers = response.headers();
        if text(headers, "content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(FetchError::Answer {
                name: self.name.to_owned(),
                why: format!("{} is a web page", self.url),
            });
        }
        let rest: Option<u64> = text(headers, "content-length").and_then(|n| n.parse().ok());
        let total = rest.map(|rest| begins + rest).or(self.bytes);
        if self.changes && begins == 0 {
            let kept = text(headers, "etag").filter(|etag| !etag.starts_with("W/"));
            fs::write(&etag, kept.unwrap_or_default()).map_err(|e| FetchError::io(&etag, e))?;
        }
        let (mut here, mut piece) = (begins, vec![0; CHUNK_BYTES]);
        let mut body = response.into_body().into_reader();
        let file_name = self.to.file_name().unwrap_or_default().to_string_lossy();
        let shown = self.url.rsplit('/').next().unwrap_or(&file_name);
        loop {
            progress(shown, here, total);
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    file.write_all(&piece[..n])
                        .map_err(|e| FetchError::io(&part, e))?;
                    here += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Ended::Cut(self.cut(here, total, &error.to_string()))),
            }
        }
        Ok(match total {
            Some(total) if here < total => Ended::Cut(self.cut(here, Some(total), "it ended")),
            _ => Ended::Whole,
        })
    }

    /// Compare size and hash of what arrived with what they should be; what differs is removed.
    fn check(&self, part: &Path) -> Result<(), FetchError> {
        let mut wrong = None;
        let found = part.metadata().map_err(|e| FetchError::io(part, e))?.len();
        if let Some(expected) = self.bytes.filter(|bytes| *bytes != found) {
            wrong = Some(("size", expected.to_string(), found.to_string()));
        } else if let Some(expected) = self.sha256 {
            let found = hash(part).map_err(|e| FetchError::io(part, e))?;
            if found != expected {
                wrong = Some(("SHA-256", expected.to_string(), found.to_string()));
            }
        }
        let Some((what, expected, found)) = wrong else {
            return Ok(());
        };
        fs::remove_file(part).map_err(|e| FetchError::io(part, e))?;
        Err(FetchError::Checksum {
            name: self.name.to_owned(),
            what,
            expected,
            found,
        })
    }

    fn status(&self, status: u16) -> FetchError {
        status_error(self.name, self.url, status, self.token.is_some())
    }

    fn unreachable(&self, error: &ureq::Error) -> FetchError {
        unreachable(self.name, self.url, error)
    }

    fn cut(&self, bytes: u64, of: Option<u64>, why: &str) -> FetchError {
        FetchError::Cut {
            name: self.name.to_owned(),
            bytes,
            of,
            why: why.to_owned(),
        }
    }
}

/// What a status says that is no success.
pub(super) fn status_error(name: &str, url: &str, status: u16, token: bool) -> FetchError {
    let (name, url) = (name.to_owned(), url.to_owned());
    match status {
        401 | 403 => FetchError::Denied {
            name,
            status,
            token,
        },
        404 | 410 => FetchError::NotThere { name, url },
        status => FetchError::Status { name, url, status },
    }
}

pub(super) fn unreachable(name: &str, url: &str, error: &ureq::Error) -> FetchError {
    let host = url.split('/').nth(2).unwrap_or(url);
    FetchError::Unreachable {
        name: name.to_owned(),
        host: host.to_owned(),
        why: error.to_string(),
    }
}

fn hash(path: &Path) -> io::Result<ContentHash> {
    let mut file = File::open(path)?;
    ContentHash::of_chunks(std::iter::from_fn(|| {
        let mut piece = vec![0; CHUNK_BYTES];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(n) => {
                piece.truncate(n);
                Some(Ok(piece))
            }
            Err(error) => Some(Err(error)),
        }
    }))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The part of a file that a server sends begins here: `bytes 100-199/200`.
fn starts_at(headers: &HeaderMap, here: u64) -> bool {
    let range = text(headers, "content-range").and_then(|range| range.strip_prefix("bytes "));
    let start = range.and_then(|range| range.split('-').next());
    start.and_then(|start| start.parse().ok()) == Some(here)
}
