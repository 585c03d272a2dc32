//! Transfers to the model that is served: each goes into the folder of adapters and live under the
//! name of its request. They outlast the process.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde_json::{Map, Value};

use super::backend::{Terms, check_name, swap};
use super::folder;
use super::http::App;
use super::live::Registry;
use super::state::Store;
use super::{Config, Say};
use crate::control::{self, Job, Kept, Kind, Lasting, Refusal, Transfers};
use crate::record::{Clock, InJson, Remedy};

/// The queue, with what earlier processes left in it; none without a folder for adapters.
pub(super) fn queue(
    config: &Config,
    clock: &Arc<dyn Clock>,
    say: &Say,
    store: Option<&Arc<Store>>,
    registry: &Registry,
) -> Option<Arc<Transfers>> {
    let (folder, store) = (config.folder.as_deref()?, Arc::clone(store?));
    control::sweep(folder);
    let past = past(folder, store.state().transfers, registry);
    let unfinished: Vec<String> = past
        .iter()
        .filter(|kept| kept.interrupted)
        .map(|kept| format!("{:?}", kept.job.name.as_deref().unwrap_or_default()))
        .collect();
    if !unfinished.is_empty() {
        let names = unfinished.join(", ");
        say(&if config.resume_transfers {
            format!("transfers that ended with the server are taken up: {names}")
        } else {
            format!(
                "transfers ended with the server before: {names}; a start that resumes transfers takes them \
                 up, and so does the same request with \"resume\": true"
            )
        });
    }
    let keep = move |all| {
        let kept = store.update(|state| state.transfers = all);
        kept.map_err(|error| error.to_string())
    };
    let lasting = Lasting {
        past,
        keep: Box::new(keep),
    };
    let (clock, say) = (Arc::clone(clock), Arc::clone(say));
    Some(Transfers::new(config.jobs.clone(), clock, say, lasting))
}

/// The transfers of earlier processes, with those of which only a journal is left.
fn past(folder: &Path, kept: Vec<Kept>, registry: &Registry) -> Vec<Kept> {
    let ended = |kept: Kept| {
        let out = kept.job.out.clone();
        let refused = folder::refused(&out);
        let adapter = match (out.exists(), refused.exists()) {
            (true, _) => Some((out.clone(), true)),
            (false, true) => Some((refused, false)),
            _ => None,
        };
        let mut kept = kept.ended(adapter);
        let live = |name: &String| registry.get(name).filter(|named| named.live.path == out);
        if kept.job.generation.is_none()
            && let Some(live) = kept.job.name.as_ref().and_then(live)
        {
            kept.job.generation = Some(live.live.number.to_string());
        }
        kept
    };
    let mut all: Vec<Kept> = kept.into_iter().map(ended).collect();
    for (name, out) in folder::unfinished(folder).unwrap_or_default() {
        if !all.iter().any(|kept| kept.job.out == out) {
            let last = all.iter().map(|kept| kept.job.id).max();
            all.push(Kept::found(last.unwrap_or(0) + 1, &name, out));
        }
    }
    all
}

/// Take up what ended with the server before.
pub(super) fn resume(app: &Arc<App>) {
    let interrupted = app.transfers.iter().flat_map(|queue| queue.interrupted());
    for kept in interrupted {
        let name = kept.job.name.unwrap_or_default();
        let mut request = kept.request;
        request.insert("resume".into(), true.into());
        if let Err(refusal) = start(app, name.clone(), request) {
            (app.say)(&format!(
                "warning: the transfer of {name:?} is not taken up: {refusal}"
            ));
        }
    }
}

pub(super) fn transfers(app: &App) -> Result<&Arc<Transfers>, Refusal> {
    app.transfers.as_ref().ok_or_else(|| {
        let hint = Remedy::add("adapters").words(&InJson);
        let message = "this server was started without a folder of adapters";
        Refusal::new(Kind::Forbidden, message).hint(hint)
    })
}

/// Queue a transfer to the model that is served; its adapter goes into the folder of adapters, and
/// live under `name`.
pub(super) fn start(
    app: &Arc<App>,
    name: String,
    mut request: Map<String, Value>,
) -> Result<Job, Refusal> {
    let transfers = transfers(app)?;
    check_name(&name, &app.name)?;
    for (field, why) in [
        ("target", "the target is the model that is served"),
        ("out", "the adapter is put into the folder of adapters"),
    ] {
        if request.contains_key(field) {
            let message = format!("leave {field:?} out: {why}");
            return Err(Refusal::new(Kind::Input, message));
        }
    }
    // As it was requested: what is taken up is requested anew.
    let fields = request.clone();
    app.inputs.resolve(&mut request)?;
    if let Some(path) = app.base.replaced() {
        let message = format!(
            "{} is another file than the one that is served: a transfer to it would be judged on \
             another base",
            name_of(path)
        );
        return Err(Refusal::new(Kind::Conflict, message).hint("restart the server"));
    }
    let whole = |path: &Path| {
        let refuse = |error| Refusal::new(Kind::Internal, format!("{}: {error}", name_of(path)));
        path.canonicalize().map_err(refuse)
    };
    let folder = whole(app.config.folder.as_deref().unwrap_or(Path::new(".")))?;
    // Held until the transfer is queued, so that no two get the same file.
    let _naming = app.naming.lock().unwrap_or_else(PoisonError::into_inner);
    let resumes = request.get("resume") == Some(&true.into());
    let begun = resumes.then(|| transfers.to_resume(&name)).flatten();
    let out = begun.unwrap_or_else(|| free_name(&folder, &name, transfers));
    request.insert("target".into(), text(&whole(&app.config.model)?)?.into());
    request.insert("out".into(), text(&out)?.into());
    let (owner, called) = (Arc::clone(app), name.clone());
    let make_live = move |adapter| {
        if owner.stopping.load(Ordering::SeqCst) {
            return Err("the server is shutting down".into());
        }
        swap(&owner, &called, adapter, Terms::default())
            .map(|number| number.to_string())
            .map_err(|error| error.to_string())
    };
    let plan = control::request(request)?;
    transfers.start(&plan, fields, Some(name), make_live)
}

/// `NAME@1.gguf`, or the next number that neither lies in the folder, begun or ended, nor is
/// promised: nothing is overwritten.
fn free_name(folder: &Path, name: &str, transfers: &Transfers) -> PathBuf {
    let free = |path: &PathBuf| {
        !path.exists()
            && !folder::refused(path).exists()
            && !folder::journal(path).exists()
            && !transfers.promises(path)
    };
    let mut all = (1_u64..).map(|number| folder.join(format!("{name}@{number}.gguf")));
    all.find(free).expect("numbers do not end")
}

fn text(path: &Path) -> Result<&str, Refusal> {
    path.to_str().ok_or_else(|| {
        let message = format!("{}: the path is not UTF-8", name_of(path));
        Refusal::new(Kind::Internal, message)
    })
}

/// A file without the folders of this machine.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}
