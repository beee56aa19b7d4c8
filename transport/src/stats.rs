//! Counters of one listener, for metrics and tests.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Counters since start; `active` is a level.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// TCP connections accepted, refused ones included.
    pub accepted: AtomicU64,
    /// Closed at once because the connection limit was reached.
    pub refused_by_cap: AtomicU64,
    /// Connections open now, handshakes included.
    pub active: AtomicU64,
    /// Handshakes completed and handed to the handler.
    pub handshakes: AtomicU64,
    /// Of these, resumed sessions.
    pub resumed: AtomicU64,
    /// Failures of `accept` itself (for example out of file descriptors).
    pub accept_errors: AtomicU64,
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
}

impl ListenerStats {
    /// Handshakes that failed this way.
    pub fn failures(&self, kind: HandshakeFailure) -> u64 {
        self.failures[kind as usize].load(Relaxed)
    }

    pub(crate) fn failed(&self, kind: HandshakeFailure) {
        self.failures[kind as usize].fetch_add(1, Relaxed);
    }
}

/// Why a handshake did not end in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// Not finished within the deadline.
    Timeout,
    /// The client showed no certificate.
    NoCertificate,
    /// Issued by an authority that is not in the configured CA file, or badly signed.
    UnknownIssuer,
    /// The client's certificate is not valid now.
    Expired,
    /// The client's certificate is otherwise unusable (purpose, encoding, algorithm).
    BadCertificate,
    /// No common TLS version, algorithm or application protocol, or not TLS at all.
    Protocol,
    /// The client refused our certificate or broke off with an alert.
    RefusedByClient,
    /// The connection ended during the handshake.
    Closed,
}

impl HandshakeFailure {
    /// Every kind, in counter order.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::BadCertificate,
        Self::Protocol,
        Self::RefusedByClient,
        Self::Closed,
    ];

    /// A stable name for metric labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::BadCertificate => "bad_certificate",
            Self::Protocol => "protocol",
            Self::RefusedByClient => "refused_by_client",
            Self::Closed => "closed",
        }
    }

    pub(crate) fn of(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        match tls {
            None => Self::Closed,
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::PeerIncompatible(
                PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
            )) => Self::BadCertificate,
            Some(Error::InvalidCertificate(reason)) => Self::of_certificate(reason),
            Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => Self::Protocol,
            Some(Error::AlertReceived(_)) => Self::RefusedByClient,
            Some(_) => Self::Protocol,
        }
    }

    fn of_certificate(reason: &CertificateError) -> Self {
        match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            _ => Self::BadCertificate,
        }
    }
}
