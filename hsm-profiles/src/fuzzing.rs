//! The door for fuzzers: any bytes in, a panic when an invariant breaks.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process::{Asked, Told};
use crate::request::Request;
use crate::wire::{Inbox, Outbox};

/// Reads `data` as a KM and its HSM worker process read what the other sends.
///
/// # Panics
/// When a message that was read is not written as it would be read again.
pub fn worker_frames(data: &[u8]) {
    // What a KM writes is borrowed, and has another type than what its worker reads.
    stream::<Asked>(data, |_| {});
    stream::<Request>(data, |request| stable(&request));
    stream::<Told>(data, |told| stable(&told));
}

fn stream<T: DeserializeOwned>(data: &[u8], read: impl Fn(T)) {
    let mut inbox = Inbox::default();
    for part in data.chunks(97) {
        if !fill(&mut inbox, part) {
            return;
        }
        loop {
            match inbox.next::<T>() {
                Ok(Some(message)) => read(message),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn fill(inbox: &mut Inbox, mut part: &[u8]) -> bool {
    while !part.is_empty() {
        let Ok(room) = inbox.room() else { return false };
        let (now, later) = part.split_at(room.len().min(part.len()));
        room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        inbox.filled(now.len());
        part = later;
    }
    true
}

fn stable<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T) {
    let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
    // A message that was read fits into a frame: what is written is never longer.
    assert_eq!(outbox.push(message), Ok(()), "a message that was read is not written");
    assert!(fill(&mut inbox, outbox.waiting()));
    outbox.sent(outbox.waiting().len());
    assert!(outbox.waiting().is_empty(), "what was sent is sent again");
    let again = inbox.next::<T>();
    assert!(matches!(&again, Ok(Some(again)) if again == message), "a message is not stable");
}
