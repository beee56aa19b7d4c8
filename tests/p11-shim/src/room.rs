//! A token with room for few objects of sessions. Enter through [`install`].
//!
//! `QKM_SHIM_ROOM` says for how many; one more than that is answered with `CKR_DEVICE_MEMORY`. They go
//! when they are destroyed, or with their session.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cryptoki_sys::*;

use crate::lists;

/// The objects that are there, and the session of each.
static OBJECTS: Mutex<Option<HashMap<CK_OBJECT_HANDLE, CK_SESSION_HANDLE>>> = Mutex::new(None);

fn room() -> Option<usize> {
    static ROOM: OnceLock<Option<usize>> = OnceLock::new();
    *ROOM.get_or_init(|| std::env::var("QKM_SHIM_ROOM").ok()?.parse().ok())
}

/// Puts this token's functions into `list`, when it is to be one.
pub(crate) fn install(list: &mut CK_FUNCTION_LIST) {
    if room().is_some() {
        list.C_CreateObject = Some(create);
        list.C_UnwrapKey = Some(unwrap);
        list.C_DestroyObject = Some(destroy);
        list.C_CloseSession = Some(close);
    }
}

fn objects() -> MutexGuard<'static, Option<HashMap<CK_OBJECT_HANDLE, CK_SESSION_HANDLE>>> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an object where there is room.
///
/// # Safety
/// `make` writes to `object`, as the standard asks for.
unsafe fn made(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE_PTR,
    make: impl FnOnce() -> CK_RV,
) -> CK_RV {
    let mut all = objects();
    let all = all.get_or_insert_default();
    if room().is_some_and(|room| all.len() >= room) {
        return CKR_DEVICE_MEMORY;
    }
    let answer = make();
    if answer == CKR_OK {
        // SAFETY: by the caller.
        all.insert(unsafe { *object }, session);
    }
    answer
}

unsafe extern "C" fn create(
    session: CK_SESSION_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
    object: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_CreateObject) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's arguments as they came.
    unsafe { made(session, object, || real(session, template, count, object)) }
}

unsafe extern "C" fn unwrap(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    by: CK_OBJECT_HANDLE,
    wrapped: CK_BYTE_PTR,
    length: CK_ULONG,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
    key: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_UnwrapKey) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let make = || {
        // SAFETY: the caller's arguments as they came.
        unsafe { real(session, mechanism, by, wrapped, length, template, count, key) }
    };
    // SAFETY: the caller's pointer, valid as the standard asks for.
    unsafe { made(session, key, make) }
}

unsafe extern "C" fn destroy(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_DestroyObject) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    objects().get_or_insert_default().remove(&object);
    // SAFETY: numbers.
    unsafe { real(session, object) }
}

unsafe extern "C" fn close(session: CK_SESSION_HANDLE) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_CloseSession) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    objects().get_or_insert_default().retain(|_, of| *of != session);
    // SAFETY: a number.
    unsafe { real(session) }
}
