//! Query Asynchronous Requests: the caller's operations in the background.

use kmip::op::query_asynchronous_requests::{Request, Response};

use crate::{context::Context, error::OpError, later};

pub(crate) async fn query_asynchronous_requests(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let Request { values, operations } = request;
    let mut requests = later::list(cx);
    if let Some(values) = values {
        requests.retain(|found| values.list.contains(&found.correlation_value));
    }
    if let Some(operations) = operations {
        requests.retain(|found| operations.list.contains(&found.operation));
    }
    Ok(Response { requests })
}
