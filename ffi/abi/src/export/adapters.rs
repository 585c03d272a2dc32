//! `translora.adapters/1` and `translora.hotswap/1`.

use super::{output, plugin, reply};
use crate::plugin::Plugin;
use crate::{c, gate, text};

pub(super) const fn table<P: Plugin>() -> c::Adapters1 {
    c::Adapters1 {
        struct_size: size_of::<c::Adapters1>() as u32,
        reserved: 0,
        base: Some(base::<P>),
        check: Some(check::<P>),
        list: Some(list::<P>),
    }
}

pub(super) const fn hotswap<P: Plugin>() -> c::Hotswap1 {
    c::Hotswap1 {
        struct_size: size_of::<c::Hotswap1>() as u32,
        reserved: 0,
        prepare: Some(prepare::<P>),
        commit: Some(commit::<P>),
        discard: Some(discard::<P>),
        rollback: Some(rollback::<P>),
        unload: Some(unload::<P>),
    }
}

unsafe extern "C" fn base<P: Plugin>(
    instance: *mut c::Instance,
    path: c::Text,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            plugin::<P>(living)?.base(text::read("path", path)?)
        })
    }
}

unsafe extern "C" fn check<P: Plugin>(
    instance: *mut c::Instance,
    path: c::Text,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments, outputs and `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            reply(out, || {
                plugin::<P>(living)?.check(text::read("path", path)?)
            })
        })
    }
}

unsafe extern "C" fn list<P: Plugin>(
    instance: *mut c::Instance,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for outputs and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            reply(out, || plugin::<P>(living)?.answers())
        })
    }
}

unsafe extern "C" fn prepare<P: Plugin>(
    instance: *mut c::Instance,
    name: c::Text,
    path: c::Text,
    out: *mut u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments, outputs and `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            output(out, || {
                living.host.can_swap()?;
                plugin::<P>(living)?.prepare(text::read("name", name)?, text::read("path", path)?)
            })
        })
    }
}

unsafe extern "C" fn commit<P: Plugin>(
    instance: *mut c::Instance,
    swap: u64,
    generation: *mut u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for outputs and for `error`.
    unsafe {
        gate::enter_decoding(instance, error, |living| {
            output(generation, || {
                plugin::<P>(living)?.commit(swap, &living.host)
            })
        })
    }
}

unsafe extern "C" fn discard<P: Plugin>(
    instance: *mut c::Instance,
    swap: u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rule for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            plugin::<P>(living)?.discard(swap)
        })
    }
}

unsafe extern "C" fn rollback<P: Plugin>(
    instance: *mut c::Instance,
    name: c::Text,
    generation: *mut u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments, outputs and `error`.
    unsafe {
        gate::enter_decoding(instance, error, |living| {
            output(generation, || {
                plugin::<P>(living)?.rollback(text::read("name", name)?, &living.host)
            })
        })
    }
}

unsafe extern "C" fn unload<P: Plugin>(
    instance: *mut c::Instance,
    name: c::Text,
    generation: *mut u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments, outputs and `error`.
    unsafe {
        gate::enter_decoding(instance, error, |living| {
            output(generation, || {
                plugin::<P>(living)?.unload(text::read("name", name)?, &living.host)
            })
        })
    }
}
