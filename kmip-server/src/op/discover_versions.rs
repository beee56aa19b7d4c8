//! Discover Versions: those both sides speak, newest first.

use kmip::{
    ProtocolVersion, Version,
    op::discover_versions::{Request, Response},
};

use crate::{context::Context, error::OpError};

pub(crate) async fn discover_versions(
    _: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let asked =
        |number: &ProtocolVersion| request.versions.is_empty() || request.versions.contains(number);
    let ours = Version::ALL.map(Version::number);
    Ok(Response { versions: ours.into_iter().filter(asked).collect() })
}
