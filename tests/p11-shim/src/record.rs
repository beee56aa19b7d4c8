//! Writes down the keys that the real library makes, so that a test knows what to look for. Enter
//! through [`install`].
//!
//! `QKM_SHIM_RECORD` names the file; each line is a key in hexadecimal. A key is made so that it can
//! be read, read, and closed again: sensitive and unextractable are what a key may become later.

use std::io::Write;
use std::path::PathBuf;

use cryptoki_sys::*;

use crate::lists;

/// The longest key that is written down, in bytes.
const LONGEST: usize = 512;

/// Puts these functions into `list`, when keys are to be written down.
pub(crate) fn install(list: &mut CK_FUNCTION_LIST) {
    if file().is_some() {
        list.C_GenerateKey = Some(generate_key);
        list.C_GenerateKeyPair = Some(generate_key_pair);
    }
}

fn file() -> Option<PathBuf> {
    std::env::var_os("QKM_SHIM_RECORD").map(PathBuf::from)
}

static NO: CK_BBOOL = CK_FALSE;
static YES: CK_BBOOL = CK_TRUE;

fn flag(kind: CK_ATTRIBUTE_TYPE, value: &'static CK_BBOOL) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_: kind, pValue: (&raw const *value).cast_mut().cast(), ulValueLen: 1 }
}

/// The template of a key that can be read, and what to set once it was.
///
/// # Safety
/// The caller's template, valid as the standard asks for.
unsafe fn readable(
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
) -> (Vec<CK_ATTRIBUTE>, Vec<CK_ATTRIBUTE>) {
    let closes = |a: &CK_ATTRIBUTE| [CKA_SENSITIVE, CKA_EXTRACTABLE].contains(&a.type_);
    // SAFETY: by the caller.
    let asked = unsafe { std::slice::from_raw_parts(template, count as usize) };
    let mut open: Vec<_> = asked.iter().copied().filter(|a| !closes(a)).collect();
    open.extend([flag(CKA_SENSITIVE, &NO), flag(CKA_EXTRACTABLE, &YES)]);
    (open, asked.iter().copied().filter(closes).collect())
}

/// Reads the key, writes it down, and closes it.
///
/// # Safety
/// `key` is one that was just made in `session`.
unsafe fn record(
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mut close: Vec<CK_ATTRIBUTE>,
) -> CK_RV {
    let Some(real) = lists().map(|lists| &lists.real) else { return CKR_GENERAL_ERROR };
    let (Some(get), Some(set), Some(file)) =
        (real.C_GetAttributeValue, real.C_SetAttributeValue, file())
    else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let mut value = [0u8; LONGEST];
    let mut wanted = CK_ATTRIBUTE {
        type_: CKA_VALUE,
        pValue: value.as_mut_ptr().cast(),
        ulValueLen: LONGEST as CK_ULONG,
    };
    // SAFETY: room for the value, and a template of whole attributes.
    let (read, closed) = unsafe {
        (
            get(session, key, &raw mut wanted, 1),
            set(session, key, close.as_mut_ptr(), close.len() as CK_ULONG),
        )
    };
    if read != CKR_OK || closed != CKR_OK {
        return read.max(closed);
    }
    let bytes = value.get(..wanted.ulValueLen as usize).unwrap_or_default();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let opened = std::fs::File::options().create(true).append(true).open(file);
    match opened.and_then(|mut file| file.write_all(format!("{hex}\n").as_bytes())) {
        Ok(()) => CKR_OK,
        Err(_) => CKR_FUNCTION_FAILED,
    }
}

unsafe extern "C" fn generate_key(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
    key: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_GenerateKey) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's arguments, with a template of our own.
    unsafe {
        let (mut open, close) = readable(template, count);
        match real(session, mechanism, open.as_mut_ptr(), open.len() as CK_ULONG, key) {
            CKR_OK => record(session, *key, close),
            error => error,
        }
    }
}

unsafe extern "C" fn generate_key_pair(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    public: CK_ATTRIBUTE_PTR,
    publics: CK_ULONG,
    private: CK_ATTRIBUTE_PTR,
    privates: CK_ULONG,
    key: CK_OBJECT_HANDLE_PTR,
    secret: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_GenerateKeyPair) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's arguments, with a template of our own.
    unsafe {
        let (mut open, close) = readable(private, privates);
        let (open, count) = (open.as_mut_ptr(), open.len() as CK_ULONG);
        match real(session, mechanism, public, publics, open, count, key, secret) {
            CKR_OK => record(session, *secret, close),
            error => error,
        }
    }
}
