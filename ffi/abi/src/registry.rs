//! The living instances. A handle is a number that is looked up here and never dereferenced, so a
//! stale one is an error and not a crash. Numbers are never used twice.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::c;
use crate::failure::{Failure, Status};
use crate::table::HostTable;

/// One instance: the plugin's state, what the host offered, and whether a call panicked.
pub(crate) struct Living {
    pub(crate) plugin: Box<dyn Any + Send + Sync>,
    pub(crate) host: HostTable,
    pub(crate) poisoned: AtomicBool,
    /// A call that belongs on the decode thread is under way.
    pub(crate) decoding: AtomicBool,
}

static NEXT: AtomicUsize = AtomicUsize::new(1);
static LIVING: RwLock<Option<HashMap<usize, Arc<Living>>>> = RwLock::new(None);

pub(crate) fn insert(living: Living) -> *mut c::Instance {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    LIVING
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .insert(number, Arc::new(living));
    std::ptr::without_provenance_mut(number)
}

pub(crate) fn find(handle: *mut c::Instance) -> Result<Arc<Living>, Failure> {
    let living = LIVING.read().unwrap_or_else(PoisonError::into_inner);
    living
        .as_ref()
        .and_then(|map| map.get(&handle.addr()))
        .cloned()
        .ok_or_else(|| stale(handle))
}

pub(crate) fn remove(handle: *mut c::Instance) -> Result<Arc<Living>, Failure> {
    let mut living = LIVING.write().unwrap_or_else(PoisonError::into_inner);
    living
        .as_mut()
        .and_then(|map| map.remove(&handle.addr()))
        .ok_or_else(|| stale(handle))
}

fn stale(handle: *mut c::Instance) -> Failure {
    let what = if handle.is_null() {
        "the instance is null"
    } else {
        "no such instance: it was destroyed, or never created here"
    };
    Failure::new(Status::BadHandle, what)
}
