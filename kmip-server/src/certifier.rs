//! The authority whose certificates clients may have, and which clients. Enter through
//! [`Certifier`].

use std::collections::BTreeSet;

use authority::{Authority, AuthorityError, BadRequest, Span};
use km_core::ids::SaeId;

use crate::{error::OpError, usage};

/// Who issues certificates, to whom, and for how long.
#[derive(Debug)]
pub struct Certifier {
    /// The authority.
    pub authority: Authority,
    /// Applications that may have certificates, of any name they ask for.
    pub applications: BTreeSet<SaeId>,
    /// How long a certificate is valid when nobody says it, and at most. It begins while one that is
    /// asked for without dates would be valid.
    pub days: u32,
}

impl Certifier {
    /// When a certificate is valid that is asked for with these dates, in seconds since 1970.
    pub(crate) fn span(
        &self,
        now: i64,
        from: Option<i64>,
        until: Option<i64>,
    ) -> Result<Span, OpError> {
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let usual = Span::days(seconds(now), self.days);
        let from = from.map_or(usual.from, seconds);
        if !(usual.from..=usual.until).contains(&from) {
            let text = format!("a certificate begins now or within {} days", self.days);
            return Err(OpError::Invalid(text));
        }
        let longest = Span::days(from, self.days).until;
        let until = until.map_or(longest, seconds);
        if until <= from || until > longest {
            let text = format!(
                "a certificate is valid for at most {} days, and ends after it begins",
                self.days
            );
            return Err(OpError::Invalid(text));
        }
        Ok(Span { from, until })
    }
}

impl From<BadRequest> for OpError {
    fn from(error: BadRequest) -> Self {
        Self::CertificateRequest(error.to_string())
    }
}

impl From<AuthorityError> for OpError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Request(error) => error.into(),
            AuthorityError::Object(error) => usage::used(error),
            AuthorityError::Random(error) => error.into(),
            error @ AuthorityError::Span(_) => Self::Invalid(error.to_string()),
            error => {
                tracing::error!(%error, "no certificate could be issued");
                Self::Internal("no certificate could be issued; see the server's log".to_owned())
            }
        }
    }
}
