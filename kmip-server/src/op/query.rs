//! Query: what this server can do.
//!
//! Asked for Object Groups (KMIP 2.1), it tells those defaults alone that hold for new objects in them.
//! Nothing else of what it tells depends on groups, and none is unknown to it: here a group comes into
//! being with its first object.

use kmip::{
    attribute::RngParameters,
    enums::{
        DestroyAction, ObjectType, OperationCode, QueryFunction, RngAlgorithm, ShreddingAlgorithm,
        UnwrapMode,
    },
    op::{
        query::{CapabilityInformation, Request, Response},
        set_defaults::DefaultsInformation,
    },
};

use std::sync::atomic::Ordering::Relaxed;

use crate::{Server, context::Context, error::OpError, house, profiles, qkd, storage};

const VENDOR: &str = concat!("qkm ", env!("CARGO_PKG_VERSION"));

/// The operations that need no configuration.
const OPERATIONS: [OperationCode; 54] = [
    OperationCode::DiscoverVersions,
    OperationCode::Query,
    OperationCode::Create,
    OperationCode::Register,
    OperationCode::Locate,
    OperationCode::Get,
    OperationCode::GetAttributes,
    OperationCode::GetAttributeList,
    OperationCode::AddAttribute,
    OperationCode::ModifyAttribute,
    OperationCode::DeleteAttribute,
    OperationCode::SetAttribute,
    OperationCode::AdjustAttribute,
    OperationCode::Check,
    OperationCode::ObtainLease,
    OperationCode::GetUsageAllocation,
    OperationCode::Activate,
    OperationCode::Revoke,
    OperationCode::Destroy,
    OperationCode::Archive,
    OperationCode::Recover,
    OperationCode::ReKey,
    OperationCode::Import,
    OperationCode::Export,
    OperationCode::Interop,
    OperationCode::Log,
    OperationCode::Ping,
    OperationCode::SetEndpointRole,
    OperationCode::CreateSplitKey,
    OperationCode::JoinSplitKey,
    OperationCode::CreateKeyPair,
    OperationCode::DeriveKey,
    OperationCode::Encrypt,
    OperationCode::Decrypt,
    OperationCode::Sign,
    OperationCode::SignatureVerify,
    OperationCode::Mac,
    OperationCode::MacVerify,
    OperationCode::Hash,
    OperationCode::RngRetrieve,
    OperationCode::RngSeed,
    OperationCode::ReKeyKeyPair,
    OperationCode::Validate,
    OperationCode::Poll,
    OperationCode::Cancel,
    OperationCode::Process,
    OperationCode::QueryAsynchronousRequests,
    OperationCode::Login,
    OperationCode::Logout,
    OperationCode::DelegatedLogin,
    OperationCode::Pkcs11,
    OperationCode::SetDefaults,
    OperationCode::SetConstraints,
    OperationCode::GetConstraints,
];
/// Those that need an authority.
const CERTIFICATION: [OperationCode; 2] = [OperationCode::Certify, OperationCode::ReCertify];

const OBJECT_TYPES: [ObjectType; 10] = [
    ObjectType::Certificate,
    ObjectType::SymmetricKey,
    ObjectType::PublicKey,
    ObjectType::PrivateKey,
    ObjectType::SecretData,
    ObjectType::OpaqueObject,
    ObjectType::SplitKey,
    ObjectType::Template,
    ObjectType::PgpKey,
    ObjectType::CertificateRequest,
];

/// The operations that this server has as it is configured.
pub(crate) fn operations(server: &Server) -> impl Iterator<Item = OperationCode> {
    let certification = server.certifier().is_some().then_some(CERTIFICATION);
    OPERATIONS.into_iter().chain(certification.into_iter().flatten())
}

pub(crate) async fn query(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    if request.functions.is_empty() {
        return Err(OpError::Missing("Query needs at least one Query Function"));
    }
    let mut response = Response::default();
    for function in request.functions {
        match function {
            QueryFunction::QueryOperations => {
                response.operations = operations(cx.server).collect();
            }
            QueryFunction::QueryObjects => response.object_types = OBJECT_TYPES.to_vec(),
            QueryFunction::QueryServerInformation => {
                response.vendor_identification = Some(VENDOR.to_owned());
            }
            QueryFunction::QueryApplicationNamespaces => {
                response.application_namespaces = vec![qkd::NAMESPACE.to_owned()];
            }
            QueryFunction::QueryRngs => response.rngs = vec![rng()],
            QueryFunction::QueryProfiles => {
                response.profiles = profiles::of(cx.version, cx.server.web.load(Relaxed));
            }
            QueryFunction::QueryDefaultsInformation => {
                let list = house::of(cx).await?.defaults_in(request.groups.as_ref());
                response.defaults = (!list.is_empty()).then_some(DefaultsInformation { list });
            }
            QueryFunction::QueryStorageProtectionMasks => {
                let offered = storage::offered(cx);
                response.protection_storage_mask = offered.masks.clone();
                response.protection_storage_masks = Some(offered);
            }
            QueryFunction::QueryCapabilities => response.capabilities = vec![capabilities()],
            // Nothing to say: no extensions, attestation, validations, registration.
            _ => {}
        }
    }
    tracing::debug!(caller = %cx.caller.application(), "query");
    Ok(response)
}

/// The generator of the HSM, whose kind PKCS#11 does not tell.
pub(crate) fn rng() -> RngParameters {
    RngParameters {
        algorithm: RngAlgorithm::Unspecified,
        cryptographic_algorithm: None,
        cryptographic_length: None,
        hashing_algorithm: None,
        drbg_algorithm: None,
        recommended_curve: None,
        fips186_variation: None,
        prediction_resistance: None,
    }
}

fn capabilities() -> CapabilityInformation {
    CapabilityInformation {
        streaming: Some(true),
        asynchronous: Some(true),
        attestation: Some(false),
        batch_undo: Some(true),
        batch_continue: Some(true),
        unwrap_mode: Some(UnwrapMode::NotProcessed),
        destroy_action: Some(DestroyAction::KeyMaterialDeleted),
        shredding_algorithm: Some(ShreddingAlgorithm::Unsupported),
        rng_mode: None,
        quantum_safe: None,
    }
}
