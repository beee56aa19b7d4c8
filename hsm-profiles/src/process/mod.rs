//! Vendor libraries run in processes of their own, one for each token, so that a crash, a leak or
//! a hang never takes the KM along.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`inside`] | the worker process: its session threads read requests and write answers |
//! | `start` | starting a worker, and its first exchange |
//! | `line` | the KM's end of a running worker's socket: many requests under way at once |
//! | `member`, `state` | one token: starts its worker, and starts it again when it ends; how it stands |
//! | `members`, `sent` | several tokens: which one is asked, and what is asked again |
//!
//! The socket is one end of a private pair that the worker inherits as its standard input. The
//! configuration travels over it, and names the PIN's file; the worker reads the PIN itself.

pub(crate) mod inside;
mod line;
mod member;
mod members;
mod sent;
mod start;
mod state;

use km_core::hsm::{HsmError, HsmStatus};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::config::TokenConfig;
use crate::link::Known;
use crate::request::Request;
use crate::response::Response;

pub(crate) use members::Members;
pub use members::take_no_keks;
pub use start::Program;
pub use state::{Breaker, MemberStatus};

/// The monotonic clock that all processes of a machine share, in microseconds: an `Instant` cannot
/// be sent.
fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Since the machine started, so neither part is negative.
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// What a KM sends to its worker, as it is written.
#[derive(Serialize)]
enum Ask<'a> {
    /// The first message: which token.
    Open(&'a TokenConfig),
    /// To be begun before [`now_us`] is `until_us`, or not at all, however long it lies unread.
    Do { id: u64, until_us: u64, request: &'a Request },
}

/// [`Ask`] as it is read.
#[derive(Debug, Deserialize)]
pub(crate) enum Asked {
    Open(Box<TokenConfig>),
    Do { id: u64, until_us: u64, request: Request },
}

/// What a worker sends to its KM.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// The first message, when the token is open.
    Opened(Seen),
    /// The first message otherwise; the worker ends then.
    NotOpened {
        error: HsmError,
        for_good: bool,
    },
    Answer {
        id: u64,
        answer: Result<Response, HsmError>,
    },
    /// Something changed. Sent before the answers that were given after the change.
    Changed(Seen),
    /// A call of the library does not come back: the process is to be ended.
    Hangs,
}

/// The state of a token as its worker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) status: HsmStatus,
    pub(crate) known: Known,
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{PinSource, TokenSelector};
    use crate::wire::{Inbox, Outbox};

    #[test]
    fn what_is_written_is_what_is_read() {
        let text = "profile = 'softhsm2'\ntoken = { serial = '07' }\npin = { file = '/p' }\n\
                    library = '/l.so'\nenv = { SOFTHSM2_CONF = '/c' }\nsessions = 3\n";
        let config: TokenConfig = toml::from_str(text).unwrap();
        let request = Request::Random { len: 32 };
        let mut outbox = Outbox::default();
        outbox.push(&Ask::Open(&config)).unwrap();
        outbox.push(&Ask::Do { id: 7, until_us: 5000, request: &request }).unwrap();
        let mut inbox = Inbox::default();
        let count = outbox.waiting().len();
        inbox.room().unwrap()[..count].copy_from_slice(outbox.waiting());
        inbox.filled(count);
        let Some(Asked::Open(read)) = inbox.next().unwrap() else { panic!("no configuration") };
        assert_eq!(read.token, TokenSelector::Serial("07".into()));
        assert_eq!(read.pin, PinSource::File(PathBuf::from("/p")));
        assert_eq!((read.env, read.sessions), (config.env, Some(3)));
        let Some(Asked::Do { id: 7, until_us: 5000, request: read }) = inbox.next().unwrap() else {
            panic!("no request")
        };
        assert_eq!(read, request);
    }
}
