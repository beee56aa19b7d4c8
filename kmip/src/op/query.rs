//! Query: what a server can do. (KMIP 2.1, 6.1)

use super::create::ProtectionStorageMasks;
use super::delegated_login::ObjectGroups;
use super::set_defaults::DefaultsInformation;
use crate::attribute::RngParameters;
use crate::enums::*;
use crate::ttlv::Value;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// What is asked.
        functions: many QueryFunction = QueryFunction @ V1_0,
        /// Of objects in these groups (2.1).
        groups: opt ObjectGroups = ObjectGroups @ V2_1,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Response {
        /// Operations.
        operations: many OperationCode = Operation @ V1_0,
        /// Object types.
        object_types: many ObjectType = ObjectType @ V1_0,
        /// Who made the server.
        vendor_identification: opt String = VendorIdentification @ V1_0,
        /// Structure of the vendor's choice.
        server_information: opt Value = ServerInformation @ V1_0,
        /// Name spaces for which the server makes application data.
        application_namespaces: many String = ApplicationNamespace @ V1_0,
        /// Extensions.
        extensions: many ExtensionInformation = ExtensionInformation @ V1_1,
        /// Attestation types.
        attestation_types: many AttestationType = AttestationType @ V1_2,
        /// Random number generators.
        rngs: many RngParameters = RNGParameters @ V1_3,
        /// Profiles.
        profiles: many ProfileInformation = ProfileInformation @ V1_3,
        /// Validations.
        validations: many ValidationInformation = ValidationInformation @ V1_3,
        /// Capabilities.
        capabilities: many CapabilityInformation = CapabilityInformation @ V1_3,
        /// How clients register.
        client_registration_methods: many ClientRegistrationMethod =
            ClientRegistrationMethod @ V1_3,
        /// Default attributes by object type.
        defaults: opt DefaultsInformation = DefaultsInformation @ V2_0,
        /// Places an object may be kept in, one by one. This form of 2.0 rests on PyKMIP alone, which reads no
        /// other; the client library of s390-tools has that of 2.1 there too, and passes over this one.
        protection_storage_mask: many i32 = ProtectionStorageMask @ V2_0 ..= V2_0,
        /// The same in 2.1.
        protection_storage_masks: opt ProtectionStorageMasks = ProtectionStorageMasks @ V2_1,
    }
}

wire_struct! {
    /// A tag outside the standard.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ExtensionInformation {
        /// Name.
        name: one String = ExtensionName @ V1_1,
        /// Tag number.
        tag: opt i32 = ExtensionTag @ V1_1,
        /// Item type number.
        kind: opt i32 = ExtensionType @ V1_1,
    }
}

wire_struct! {
    /// A profile the server conforms to. Profiles are numbered as in KMIP Profiles.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ProfileInformation {
        /// Profile Name enumeration.
        name: one Value = ProfileName @ V1_3,
        /// Where the profile is served.
        server_uri: opt String = ServerURI @ V1_3,
        /// Port.
        server_port: opt i32 = ServerPort @ V1_3,
    }
}

wire_struct! {
    /// A validation of the server's cryptographic module.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ValidationInformation {
        /// Who validated.
        authority_type: one ValidationAuthorityType = ValidationAuthorityType @ V1_3,
        /// Country of the authority.
        authority_country: opt String = ValidationAuthorityCountry @ V1_3,
        /// Where to find the authority.
        authority_uri: opt String = ValidationAuthorityURI @ V1_3,
        /// Major version of the standard.
        version_major: one i32 = ValidationVersionMajor @ V1_3,
        /// Minor version of the standard.
        version_minor: opt i32 = ValidationVersionMinor @ V1_3,
        /// What was validated.
        kind: one ValidationType = ValidationType @ V1_3,
        /// Level.
        level: one i32 = ValidationLevel @ V1_3,
        /// Certificate number.
        certificate_identifier: opt String = ValidationCertificateIdentifier @ V1_3,
        /// Where to find the certificate.
        certificate_uri: opt String = ValidationCertificateURI @ V1_3,
        /// Vendor.
        vendor_uri: opt String = ValidationVendorURI @ V1_3,
        /// Validation profiles.
        profiles: many String = ValidationProfile @ V1_3,
    }
}

wire_struct! {
    /// Optional abilities of the server.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct CapabilityInformation {
        /// Streams long inputs.
        streaming: opt bool = StreamingCapability @ V1_3,
        /// Answers later.
        asynchronous: opt bool = AsynchronousCapability @ V1_3,
        /// Attests.
        attestation: opt bool = AttestationCapability @ V1_3,
        /// Undoes batches.
        batch_undo: opt bool = BatchUndoCapability @ V1_4,
        /// Continues batches.
        batch_continue: opt bool = BatchContinueCapability @ V1_4,
        /// How wrapped keys are taken in.
        unwrap_mode: opt UnwrapMode = UnwrapMode @ V1_3,
        /// What Destroy does.
        destroy_action: opt DestroyAction = DestroyAction @ V1_3,
        /// How data is made unreadable.
        shredding_algorithm: opt ShreddingAlgorithm = ShreddingAlgorithm @ V1_3,
        /// Whether clients share a generator.
        rng_mode: opt RngMode = RNGMode @ V1_3,
        /// Quantum-safe. Clients that read 2.0 strictly refuse it there.
        quantum_safe: opt bool = QuantumSafeCapability @ V2_1,
    }
}
