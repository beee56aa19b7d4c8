//! The door for fuzzers: a frame of a known application in, what it would be answered out.

use km_core::ids::SaeId;
use wiped::Wiped;

use crate::{
    Server,
    batch::{self, Reply},
    caller::Client,
};

/// The answer to `frame` as if it came over a connection of `application`; `None` when the
/// connection would end without one, or nobody is called so.
pub async fn answer(server: &Server, application: &SaeId, frame: &[u8]) -> Option<Wiped> {
    let client = Client::of(server, application)?;
    match batch::answer_frame(server, &client, frame).await {
        Reply::Send(answer) | Reply::Last(answer) | Reply::Turn(answer, _) => Some(answer),
        Reply::Close => None,
    }
}
