use std::ptr::{null, null_mut};
use std::sync::Arc;

use super::offered::{self, Context};
use super::{Callbacks, Library, copied, view};
use crate::c;
use crate::failure::{Failure, Status};

/// An instance of a plugin; dropping it destroys it. thread: any
pub struct Instance {
    library: Arc<Library>,
    handle: *mut c::Instance,
    /// What the plugin's copy of the table points to.
    _host: Option<Box<Context>>,
}

// SAFETY: the handle is a number that the plugin looks up; the header lets its functions be called
// from any thread at the same time, and those of the decode thread are the caller's to call there,
// which the plugin checks.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The version of the ABI: major, minor.
    pub abi: (u32, u32),
    /// An earlier call panicked.
    pub poisoned: bool,
    /// The library's own version.
    pub version: String,
    /// The engine it was built with.
    pub engine: String,
}

impl Library {
    /// Make an instance.
    ///
    /// fails: as the plugin says
    pub fn create(self: &Arc<Self>, host: Option<Arc<dyn Callbacks>>) -> Result<Instance, Failure> {
        let host = host.map(Box::new);
        let table = host.as_deref().map(offered::table);
        let create = self.entry.create.ok_or_else(|| absent("create"))?;
        let mut handle = null_mut();
        let table = table.as_ref().map_or(null(), |table| &raw const *table);
        // SAFETY: the table is whole and its context lives until after destroy; the output is a
        // local.
        outcome(|error| unsafe { create(table, &raw mut handle, error) })?;
        Ok(Instance {
            library: Arc::clone(self),
            handle,
            _host: host,
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(destroy) = self.library.entry.destroy {
            // SAFETY: the handle came from create, and nobody else has it: no call is under way.
            unsafe { destroy(self.handle, null_mut()) };
        }
    }
}

impl Instance {
    /// The library behind it.
    pub fn library(&self) -> &Library {
        &self.library
    }

    pub(super) fn handle(&self) -> *mut c::Instance {
        self.handle
    }

    /// The table of a capability.
    ///
    /// fails: the library does not have it, or it is too small
    pub(super) fn table<T>(&self, id: &'static str) -> Result<&'static T, Failure> {
        self.library.table(id)?.ok_or_else(|| absent(id))
    }

    /// Ask what the library and this instance are.
    pub fn info(&self) -> Result<Info, Failure> {
        let info = self.library.entry.info.ok_or_else(|| absent("info"))?;
        let nothing = view("");
        let struct_size = size_of::<c::Info>() as u32;
        let mut out = c::Info {
            struct_size,
            abi_major: 0,
            abi_minor: 0,
            poisoned: 0,
            version: nothing,
            engine: nothing,
        };
        // SAFETY: the output is a whole struct that says its size.
        outcome(|error| unsafe { info(self.handle, &raw mut out, error) })?;
        // SAFETY: the header's texts in this struct live as long as the library, which stays.
        let (version, engine) = unsafe { (copied(out.version), copied(out.engine)) };
        Ok(Info {
            abi: (out.abi_major, out.abi_minor),
            poisoned: out.poisoned != 0,
            version,
            engine,
        })
    }

    /// Get a text back, by `translora.echo/1`.
    pub fn echo(&self, said: &str) -> Result<String, Failure> {
        let echo = self
            .table::<c::Echo1>(c::ECHO_1)?
            .echo
            .ok_or_else(|| absent("echo"))?;
        // SAFETY: the text is readable during the call; outputs are locals.
        text(|out, error| unsafe { echo(self.handle, view(said), out, error) })
    }

    /// Describe a file as a JSON object, by `translora.inspect/1`.
    pub fn inspect(&self, path: &str) -> Result<String, Failure> {
        let inspect = self
            .table::<c::Inspect1>(c::INSPECT_1)?
            .inspect
            .ok_or_else(|| absent("inspect"))?;
        // SAFETY: the path is readable during the call; outputs are locals.
        text(|out, error| unsafe { inspect(self.handle, view(path), out, error) })
    }
}

pub(super) fn absent(what: &str) -> Failure {
    Failure::new(Status::Unsupported, format!("this plugin has no {what}"))
}

/// Make a call that may fail, and take its error.
pub(super) fn outcome(call: impl FnOnce(*mut *mut c::Error) -> i32) -> Result<(), Failure> {
    let mut error: *mut c::Error = null_mut();
    let code = call(&raw mut error);
    if code == 0 {
        return Ok(());
    }
    let status = Status::from_code(code).unwrap_or(Status::Internal);
    if error.is_null() || !error.is_aligned() {
        return Err(Failure::new(
            status,
            format!("the plugin answered {status:?} ({code}) and did not say why"),
        ));
    }
    // SAFETY: written by a call that failed: an error of the plugin, valid until its release, which
    // is called once, here.
    let (message, hint) = unsafe {
        let said = (copied((*error).message), copied((*error).hint));
        ((*error).release)(error);
        said
    };
    Err(Failure {
        status,
        message,
        hint,
    })
}

/// Make a call that answers with a text.
pub(super) fn text(
    call: impl FnOnce(*mut *mut c::OwnedText, *mut *mut c::Error) -> i32,
) -> Result<String, Failure> {
    let mut out: *mut c::OwnedText = null_mut();
    outcome(|error| call(&raw mut out, error))?;
    if out.is_null() || !out.is_aligned() {
        return Err(Failure::new(
            Status::Internal,
            "the plugin succeeded and wrote no text",
        ));
    }
    // SAFETY: written by a call that succeeded: a text of the plugin, valid until its release,
    // which is called once, here.
    unsafe {
        let said = copied((*out).text);
        ((*out).release)(out);
        Ok(said)
    }
}
