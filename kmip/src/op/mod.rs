//! Operations, one file each: `Request` and `Response` are the two payloads.
//!
//! [`Operation`] is what a request asks, [`Answer`] what a response carries; both are matched
//! plainly. To add an operation: one file, one line in the table below.

pub mod activate;
pub mod add_attribute;
pub mod adjust_attribute;
pub mod archive;
pub mod cancel;
pub mod certify;
pub mod check;
pub mod create;
pub mod create_key_pair;
pub mod create_split_key;
pub mod decrypt;
pub mod delegated_login;
pub mod delete_attribute;
pub mod derive_key;
pub mod destroy;
pub mod discover_versions;
pub mod encrypt;
pub mod export;
pub mod get;
pub mod get_attribute_list;
pub mod get_attributes;
pub mod get_constraints;
pub mod get_usage_allocation;
pub mod hash;
pub mod import;
pub mod interop;
pub mod join_split_key;
pub mod locate;
pub mod log;
pub mod login;
pub mod logout;
pub mod mac;
pub mod mac_verify;
pub mod modify_attribute;
pub mod notify;
pub mod obtain_lease;
pub mod ping;
pub mod pkcs11;
pub mod poll;
pub mod process;
pub mod put;
pub mod query;
pub mod query_asynchronous_requests;
pub mod recertify;
pub mod recover;
pub mod register;
pub mod rekey;
pub mod rekey_key_pair;
pub mod revoke;
pub mod rng_retrieve;
pub mod rng_seed;
pub mod set_attribute;
pub mod set_constraints;
pub mod set_defaults;
pub mod set_endpoint_role;
pub mod sign;
pub mod signature_verify;
pub mod validate;

use crate::enums::OperationCode;
use crate::tag::Tag;
use crate::ttlv::{Item, Result, Writer};
use crate::version::Version;
use crate::wire::{Field, SecretBytes};

/// An operation this room has no model for.
#[derive(Debug)]
pub struct Raw {
    /// Which one.
    pub code: OperationCode,
    /// The content of its payload, still TTLV.
    pub payload: SecretBytes,
}

macro_rules! operations {
    ($( $name:ident: $module:ident, )+) => {
        /// What a batch item asks. In a box: it passes through many hands, and the largest is far longer than
        /// most.
        #[derive(Debug)]
        pub enum Operation {
            $( #[doc = concat!("See [`", stringify!($module), "`].")]
               $name(Box<$module::Request>), )+
            /// Any other operation.
            Raw(Raw),
        }

        /// What a successful batch item answers.
        #[derive(Debug)]
        pub enum Answer {
            $( #[doc = concat!("See [`", stringify!($module), "`].")]
               $name(Box<$module::Response>), )+
            /// Any other operation.
            Raw(Raw),
        }

        operations!(@both Operation RequestPayload $($name)+);
        operations!(@both Answer ResponsePayload $($name)+);

        $(
            impl From<$module::Request> for Operation {
                fn from(request: $module::Request) -> Self { Self::$name(Box::new(request)) }
            }
            impl From<$module::Response> for Answer {
                fn from(response: $module::Response) -> Self { Self::$name(Box::new(response)) }
            }
        )+
    };
    (@both $enum:ident $tag:ident $($name:ident)+) => {
        impl $enum {
            /// The operation on the wire.
            pub fn code(&self) -> OperationCode {
                match self {
                    $( Self::$name(_) => OperationCode::$name, )+
                    Self::Raw(raw) => raw.code,
                }
            }

            /// Reads the payload of `code`.
            pub(crate) fn read(code: OperationCode, payload: &Item<'_>) -> Result<Self> {
                Ok(match code {
                    $( OperationCode::$name => Self::$name(Box::new(Field::read(payload)?)), )+
                    code => {
                        payload.children()?;
                        let payload = SecretBytes::copy_from(payload.body());
                        Self::Raw(Raw { code, payload })
                    }
                })
            }

            /// Writes the payload.
            pub(crate) fn write(&self, w: &mut Writer, version: Version) {
                match self {
                    $( Self::$name(payload) => payload.write(w, Tag::$tag, version), )+
                    Self::Raw(raw) => w.structure(Tag::$tag, |w| {
                        raw.payload.expose(|items| w.encoded(items));
                    }),
                }
            }

            /// Whether `version` has everything the payload cannot do without.
            pub(crate) fn payload_known(&self, version: Version) -> bool {
                match self {
                    $( Self::$name(payload) => payload.known(version), )+
                    Self::Raw(_) => true,
                }
            }
        }
    };
}

impl From<Raw> for Operation {
    fn from(raw: Raw) -> Self {
        Self::Raw(raw)
    }
}

impl Operation {
    /// Whether `version` has the operation and everything its payload cannot do without.
    pub fn known(&self, version: Version) -> bool {
        self.code().known(version) && self.payload_known(version)
    }
}

impl Answer {
    /// Whether the payload can be said in `version`. The operation itself is not asked about: a
    /// client that sent it knows it, as those do that try Discover Versions under 1.0.
    pub fn known(&self, version: Version) -> bool {
        self.payload_known(version)
    }
}

operations! {
    DiscoverVersions: discover_versions,
    Query: query,
    Create: create,
    Register: register,
    Locate: locate,
    Get: get,
    GetAttributes: get_attributes,
    GetAttributeList: get_attribute_list,
    AddAttribute: add_attribute,
    ModifyAttribute: modify_attribute,
    DeleteAttribute: delete_attribute,
    SetAttribute: set_attribute,
    AdjustAttribute: adjust_attribute,
    Check: check,
    ObtainLease: obtain_lease,
    GetUsageAllocation: get_usage_allocation,
    Activate: activate,
    Revoke: revoke,
    Destroy: destroy,
    SetEndpointRole: set_endpoint_role,
    Ping: ping,
    Log: log,
    Interop: interop,
    Export: export,
    Import: import,
    JoinSplitKey: join_split_key,
    CreateSplitKey: create_split_key,
    ReKey: rekey,
    Recover: recover,
    Archive: archive,
    CreateKeyPair: create_key_pair,
    DeriveKey: derive_key,
    Encrypt: encrypt,
    Decrypt: decrypt,
    Sign: sign,
    SignatureVerify: signature_verify,
    Mac: mac,
    MacVerify: mac_verify,
    Hash: hash,
    RngRetrieve: rng_retrieve,
    RngSeed: rng_seed,
    ReKeyKeyPair: rekey_key_pair,
    Certify: certify,
    ReCertify: recertify,
    Validate: validate,
    Poll: poll,
    Cancel: cancel,
    Process: process,
    QueryAsynchronousRequests: query_asynchronous_requests,
    Login: login,
    Logout: logout,
    DelegatedLogin: delegated_login,
    Pkcs11: pkcs11,
    SetDefaults: set_defaults,
    SetConstraints: set_constraints,
    GetConstraints: get_constraints,
    Notify: notify,
    Put: put,
}
