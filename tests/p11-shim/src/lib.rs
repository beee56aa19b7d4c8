//! A PKCS#11 library between a key manager and a real one that fails on command. For tests.
//!
//! Every call goes to the library that `QKM_SHIM_LIBRARY` names, unless the file that
//! `QKM_SHIM_CONTROL` names says otherwise ([`control`]). The file is read at every call, so a
//! test switches faults on and off while the key manager runs. It can also stand for a token that
//! makes its own nonces ([`nonce`]) or that has little room ([`room`]), and write down the keys that are
//! made ([`record`]).

#![allow(unsafe_code, non_snake_case, clippy::too_many_arguments)]

mod control;
mod nonce;
mod record;
mod room;

use std::sync::OnceLock;

use control::Order;
use cryptoki_sys::*;

/// The real library's functions, and ours: theirs, but for those that may fail.
struct Lists {
    real: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
    _library: libloading::Library,
}

// SAFETY: function pointers of a library that stays loaded; PKCS#11 functions may be called from
// any thread once the library is initialized for that.
unsafe impl Send for Lists {}
// SAFETY: as above, and nothing writes to them.
unsafe impl Sync for Lists {}

static LISTS: OnceLock<Option<Lists>> = OnceLock::new();

fn lists() -> Option<&'static Lists> {
    LISTS.get_or_init(load).as_ref()
}

fn load() -> Option<Lists> {
    let path = std::env::var_os("QKM_SHIM_LIBRARY")?;
    // SAFETY: the library's initializers are those of a PKCS#11 library, made to be loaded so.
    let library = unsafe { libloading::Library::new(path) }.ok()?;
    let mut list: CK_FUNCTION_LIST_PTR = std::ptr::null_mut();
    // SAFETY: the standard gives this symbol this type, and it writes one pointer to its list.
    let answer = unsafe {
        let get: libloading::Symbol<'_, unsafe extern "C" fn(CK_FUNCTION_LIST_PTR_PTR) -> CK_RV> =
            library.get(b"C_GetFunctionList\0").ok()?;
        get(&raw mut list)
    };
    if answer != CKR_OK || list.is_null() {
        return None;
    }
    // SAFETY: the library keeps the list for as long as it is loaded.
    let real = unsafe { *list };
    let mut ours = ours(&real);
    nonce::install(&mut ours);
    record::install(&mut ours);
    room::install(&mut ours);
    Some(Lists { real, ours, _library: library })
}

/// Our list of functions, the one symbol that is looked up by name.
///
/// # Safety
/// `list` must be a valid pointer, as the standard asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    let Some(lists) = lists() else { return CKR_GENERAL_ERROR };
    // SAFETY: the caller's pointer is valid, and nobody writes through the one it gets.
    unsafe { *list = (&raw const lists.ours).cast_mut() };
    CKR_OK
}

/// One function for each that may fail. After `->` stands the pointer to the length or the count
/// it answers, after `=>` what else befalls what it answers.
macro_rules! functions {
    ($($name:ident($($argument:ident: $kind:ty),*) $(-> $length:ident)? $(=> $more:ident($($of:ident),*))?;)*) => {
        $(unsafe extern "C" fn $name($($argument: $kind),*) -> CK_RV {
            let order = control::called(stringify!($name));
            if let Some(code) = order.and_then(Order::before) {
                return code;
            }
            let Some(real) = lists().and_then(|lists| lists.real.$name) else {
                return CKR_FUNCTION_NOT_SUPPORTED;
            };
            // SAFETY: the caller's arguments as they came.
            let answer = unsafe { real($($argument),*) };
            if let Some(_order) = order.filter(|_| answer == CKR_OK) {
                $(if !$length.is_null() {
                    // SAFETY: the real library has just written there.
                    unsafe { *$length = _order.bend(*$length) };
                })?
                // SAFETY: as above.
                $(unsafe { $more(_order, $($of),*) };)?
            }
            order.and_then(Order::after).unwrap_or(answer)
        })*

        fn ours(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
            let mut list = *real;
            $(list.$name = Some($name);)*
            list
        }
    };
}

/// # Safety
/// The real library has just written there.
unsafe fn mark(order: Order, info: CK_TOKEN_INFO_PTR) {
    // SAFETY: by the caller.
    unsafe { (*info).flags = order.mark((*info).flags) };
}

/// # Safety
/// The real library has just written `length` bytes there.
unsafe fn stick(order: Order, bytes: CK_BYTE_PTR, length: CK_ULONG) {
    // SAFETY: by the caller.
    order.stick(unsafe { std::slice::from_raw_parts_mut(bytes, length as usize) });
}

type Session = CK_SESSION_HANDLE;
type Object = CK_OBJECT_HANDLE;
type Mechanism = CK_MECHANISM_PTR;
type Template = CK_ATTRIBUTE_PTR;
type Bytes = CK_BYTE_PTR;
type Length = CK_ULONG_PTR;

functions! {
    C_Initialize(arguments: CK_VOID_PTR);
    C_Finalize(reserved: CK_VOID_PTR);
    C_GetInfo(info: CK_INFO_PTR);
    C_GetSlotList(present: CK_BBOOL, list: CK_SLOT_ID_PTR, count: Length) -> count;
    C_GetSlotInfo(slot: CK_SLOT_ID, info: CK_SLOT_INFO_PTR);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) => mark(info);
    C_GetMechanismList(slot: CK_SLOT_ID, list: CK_MECHANISM_TYPE_PTR, count: Length) -> count;
    C_GetMechanismInfo(slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, info: CK_MECHANISM_INFO_PTR);
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: CK_VOID_PTR, notify: CK_NOTIFY, session: CK_SESSION_HANDLE_PTR);
    C_CloseSession(session: Session);
    C_CloseAllSessions(slot: CK_SLOT_ID);
    C_GetSessionInfo(session: Session, info: CK_SESSION_INFO_PTR);
    C_Login(session: Session, user: CK_USER_TYPE, pin: CK_UTF8CHAR_PTR, length: CK_ULONG);
    C_Logout(session: Session);
    C_CreateObject(session: Session, template: Template, count: CK_ULONG, object: CK_OBJECT_HANDLE_PTR);
    C_CopyObject(session: Session, from: Object, template: Template, count: CK_ULONG, object: CK_OBJECT_HANDLE_PTR);
    C_DestroyObject(session: Session, object: Object);
    C_GetObjectSize(session: Session, object: Object, size: Length) -> size;
    C_GetAttributeValue(session: Session, object: Object, template: Template, count: CK_ULONG);
    C_SetAttributeValue(session: Session, object: Object, template: Template, count: CK_ULONG);
    C_FindObjectsInit(session: Session, template: Template, count: CK_ULONG);
    C_FindObjects(session: Session, objects: CK_OBJECT_HANDLE_PTR, most: CK_ULONG, count: Length) -> count;
    C_FindObjectsFinal(session: Session);
    C_EncryptInit(session: Session, mechanism: Mechanism, key: Object);
    C_Encrypt(session: Session, data: Bytes, length: CK_ULONG, sealed: Bytes, written: Length) -> written;
    C_DecryptInit(session: Session, mechanism: Mechanism, key: Object);
    C_Decrypt(session: Session, sealed: Bytes, length: CK_ULONG, data: Bytes, written: Length) -> written;
    C_DigestInit(session: Session, mechanism: Mechanism);
    C_Digest(session: Session, data: Bytes, length: CK_ULONG, digest: Bytes, written: Length) -> written;
    C_DigestUpdate(session: Session, data: Bytes, length: CK_ULONG);
    C_DigestKey(session: Session, key: Object);
    C_DigestFinal(session: Session, digest: Bytes, written: Length) -> written;
    C_SignInit(session: Session, mechanism: Mechanism, key: Object);
    C_Sign(session: Session, data: Bytes, length: CK_ULONG, signature: Bytes, written: Length) -> written;
    C_VerifyInit(session: Session, mechanism: Mechanism, key: Object);
    C_Verify(session: Session, data: Bytes, length: CK_ULONG, signature: Bytes, bytes: CK_ULONG);
    C_GenerateKey(session: Session, mechanism: Mechanism, template: Template, count: CK_ULONG, key: CK_OBJECT_HANDLE_PTR);
    C_GenerateKeyPair(session: Session, mechanism: Mechanism, public: Template, publics: CK_ULONG, private: Template, privates: CK_ULONG, key: CK_OBJECT_HANDLE_PTR, secret: CK_OBJECT_HANDLE_PTR);
    C_WrapKey(session: Session, mechanism: Mechanism, by: Object, key: Object, wrapped: Bytes, written: Length) -> written;
    C_UnwrapKey(session: Session, mechanism: Mechanism, by: Object, wrapped: Bytes, length: CK_ULONG, template: Template, count: CK_ULONG, key: CK_OBJECT_HANDLE_PTR);
    C_DeriveKey(session: Session, mechanism: Mechanism, from: Object, template: Template, count: CK_ULONG, key: CK_OBJECT_HANDLE_PTR);
    C_SeedRandom(session: Session, seed: Bytes, length: CK_ULONG);
    C_GenerateRandom(session: Session, bytes: Bytes, length: CK_ULONG) => stick(bytes, length);
}
