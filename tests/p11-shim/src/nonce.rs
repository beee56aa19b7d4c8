//! A token that makes its own GCM nonces, as some HSMs do. Enter through [`install`].
//!
//! `QKM_SHIM_NONCE` says where they go: `writeback` (12 bytes, into the caller's buffer of zeros),
//! `append` (16 bytes, after the tag; given back as parameter) or `prepend` (12 bytes, before the
//! ciphertext; given back there). The real library gets them as if the caller had made them.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use cryptoki_sys::*;

use crate::lists;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Writeback,
    Append,
    Prepend,
}

/// What a session is in the middle of.
enum Begun {
    /// Encrypting under this nonce.
    Encrypt(Vec<u8>),
    /// Decrypting, to be begun when the data with the nonce is here.
    Decrypt { key: CK_OBJECT_HANDLE, aad: Vec<u8>, tag_bits: CK_ULONG },
}

static BEGUN: Mutex<Option<HashMap<CK_SESSION_HANDLE, Begun>>> = Mutex::new(None);

fn place() -> Option<Place> {
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    *PLACE.get_or_init(|| match std::env::var("QKM_SHIM_NONCE").ok()?.as_str() {
        "writeback" => Some(Place::Writeback),
        "append" => Some(Place::Append),
        "prepend" => Some(Place::Prepend),
        _ => None,
    })
}

/// Puts this token's functions into `list`, when it is to be one.
pub(crate) fn install(list: &mut CK_FUNCTION_LIST) {
    if place().is_some() {
        list.C_EncryptInit = Some(encrypt_init);
        list.C_Encrypt = Some(encrypt);
        list.C_DecryptInit = Some(decrypt_init);
        list.C_Decrypt = Some(decrypt);
    }
}

fn begin(session: CK_SESSION_HANDLE, begun: Begun) {
    let mut all = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().insert(session, begun);
}

fn take(session: CK_SESSION_HANDLE) -> Option<Begun> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.remove(&session)
}

/// The GCM parameters of a mechanism, or none of another mechanism.
///
/// # Safety
/// `mechanism` is valid, with parameters as its kind has them.
unsafe fn gcm(mechanism: CK_MECHANISM_PTR) -> Option<CK_GCM_PARAMS> {
    // SAFETY: by the caller.
    unsafe {
        let is_gcm = (*mechanism).mechanism == CKM_AES_GCM;
        is_gcm.then(|| *(*mechanism).pParameter.cast::<CK_GCM_PARAMS>())
    }
}

/// Begins with `iv` in place of the caller's.
///
/// # Safety
/// `params` has valid associated data, and `init` is of the real library.
unsafe fn init_with(
    init: unsafe extern "C" fn(CK_SESSION_HANDLE, CK_MECHANISM_PTR, CK_OBJECT_HANDLE) -> CK_RV,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    mut params: CK_GCM_PARAMS,
    iv: &mut [u8],
) -> CK_RV {
    params.pIv = iv.as_mut_ptr();
    params.ulIvLen = iv.len() as CK_ULONG;
    params.ulIvBits = params.ulIvLen * 8;
    let mut mechanism = CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: (&raw mut params).cast(),
        ulParameterLen: size_of::<CK_GCM_PARAMS>() as CK_ULONG,
    };
    // SAFETY: by the caller; `iv` and `params` outlive the call.
    unsafe { init(session, &raw mut mechanism, key) }
}

unsafe extern "C" fn encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(real) = lists().map(|lists| &lists.real) else { return CKR_GENERAL_ERROR };
    let (Some(init), Some(random)) = (real.C_EncryptInit, real.C_GenerateRandom) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's pointers, valid as the standard asks for, and a nonce of our own.
    unsafe {
        let Some(params) = gcm(mechanism) else { return init(session, mechanism, key) };
        let writeback = place() == Some(Place::Writeback);
        let zeros = |len| std::slice::from_raw_parts(params.pIv, len).iter().all(|b| *b == 0);
        let asked =
            if writeback { params.ulIvLen == 12 && zeros(12) } else { params.pIv.is_null() };
        if !asked {
            return CKR_MECHANISM_PARAM_INVALID;
        }
        let mut iv = vec![0; if place() == Some(Place::Append) { 16 } else { 12 }];
        let made = random(session, iv.as_mut_ptr(), iv.len() as CK_ULONG);
        if made != CKR_OK {
            return made;
        }
        let answer = init_with(init, session, key, params, &mut iv);
        if answer == CKR_OK && writeback {
            std::ptr::copy_nonoverlapping(iv.as_ptr(), params.pIv, iv.len());
        } else if answer == CKR_OK {
            begin(session, Begun::Encrypt(iv));
        }
        answer
    }
}

unsafe extern "C" fn encrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    len: CK_ULONG,
    out: CK_BYTE_PTR,
    written: CK_ULONG_PTR,
) -> CK_RV {
    let Some(real) = lists().and_then(|lists| lists.real.C_Encrypt) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let Some(Begun::Encrypt(iv)) = take(session) else {
        // SAFETY: the caller's arguments as they came.
        return unsafe { real(session, data, len, out, written) };
    };
    let more = iv.len() as CK_ULONG;
    // SAFETY: the caller's arguments, and room for the nonce within the length it gave.
    unsafe {
        if out.is_null() {
            let answer = real(session, data, len, out, written);
            *written += more;
            begin(session, Begun::Encrypt(iv));
            return answer;
        }
        if *written < more {
            return CKR_BUFFER_TOO_SMALL;
        }
        *written -= more;
        let before = if place() == Some(Place::Prepend) { iv.len() } else { 0 };
        let answer = real(session, data, len, out.add(before), written);
        if answer == CKR_OK {
            let at = if before > 0 { 0 } else { *written as usize };
            std::ptr::copy_nonoverlapping(iv.as_ptr(), out.add(at), iv.len());
            *written += more;
        }
        answer
    }
}

unsafe extern "C" fn decrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(init) = lists().and_then(|lists| lists.real.C_DecryptInit) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the caller's pointers, valid as the standard asks for.
    unsafe {
        match gcm(mechanism) {
            Some(params) if place() == Some(Place::Prepend) => {
                if !params.pIv.is_null() {
                    return CKR_MECHANISM_PARAM_INVALID;
                }
                let len = params.ulAADLen as usize;
                let aad = match len {
                    0 => Vec::new(),
                    len => std::slice::from_raw_parts(params.pAAD, len).to_vec(),
                };
                begin(session, Begun::Decrypt { key, aad, tag_bits: params.ulTagBits });
                CKR_OK
            }
            _ => init(session, mechanism, key),
        }
    }
}

unsafe extern "C" fn decrypt(
    session: CK_SESSION_HANDLE,
    sealed: CK_BYTE_PTR,
    len: CK_ULONG,
    out: CK_BYTE_PTR,
    written: CK_ULONG_PTR,
) -> CK_RV {
    let Some(real) = lists().map(|lists| &lists.real) else { return CKR_GENERAL_ERROR };
    let (Some(init), Some(decrypt)) = (real.C_DecryptInit, real.C_Decrypt) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let begun = take(session);
    let skip: CK_ULONG = if place() == Some(Place::Prepend) { 12 } else { 0 };
    if len < skip {
        return CKR_ENCRYPTED_DATA_LEN_RANGE;
    }
    // SAFETY: the caller's arguments; the nonce is within the data it gave.
    unsafe {
        if let Some(Begun::Decrypt { key, mut aad, tag_bits }) = begun {
            let mut iv = std::slice::from_raw_parts(sealed, skip as usize).to_vec();
            let params = CK_GCM_PARAMS {
                pIv: std::ptr::null_mut(),
                ulIvLen: 0,
                ulIvBits: 0,
                pAAD: aad.as_mut_ptr(),
                ulAADLen: aad.len() as CK_ULONG,
                ulTagBits: tag_bits,
            };
            let answer = init_with(init, session, key, params, &mut iv);
            if answer != CKR_OK {
                return answer;
            }
        }
        decrypt(session, sealed.add(skip as usize), len - skip, out, written)
    }
}
