//! Changes as they happen. A watch goes on over another member when its own is lost.

use std::{sync::Arc, time::Duration};

use km_core::store::{Event, StoreError, Version};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{
    Keys, behind,
    channel::{CallError, Channel, Stream},
    client::{Client, ONE_TRY, refused},
    proto::{WatchCreateRequest, WatchEvent, WatchRequest, WatchResponse},
};

/// Events that wait for a watcher; more wait in the engine.
const WAITING: usize = 64;
const PAUSE: Duration = Duration::from_millis(200);

struct Watch {
    client: Arc<Client>,
    keys: Keys,
    prefix: Vec<u8>,
    /// The first revision not told of yet.
    next: i64,
}

/// On return everything that happens from now on will be told.
pub(super) async fn start(
    client: Arc<Client>,
    keys: Keys,
    prefix: &[u8],
) -> Result<Receiver<Event>, StoreError> {
    let mut watch = Watch { client, prefix: keys.data(prefix), keys, next: 0 };
    let (channel, stream, now) = watch.open().await.map_err(refused)?;
    watch.next = now + 1;
    let (events, watched) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            () = watch.run(channel, stream, &events) => {}
            () = events.closed() => {}
        }
    });
    Ok(watched)
}

impl Watch {
    /// A stream that begins at `next` (0: now), and the revision it was made at.
    async fn open(&self) -> Result<(Arc<Channel>, Stream, i64), CallError> {
        let channel = self.client.channel().await?;
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: behind(&self.prefix),
            start_revision: self.next,
        };
        let asked = async {
            let request = WatchRequest { create: Some(create) };
            let mut stream = channel.open("Watch/Watch", &request, false).await?;
            let first = stream.next::<WatchResponse>().await?;
            Ok((stream, first))
        };
        let answer = match tokio::time::timeout(ONE_TRY, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Broken("a watch was not made in time".into())),
        };
        match answer {
            Ok((stream, Some(first))) if first.created && !first.canceled => {
                Ok((channel, stream, first.header.map_or(0, |header| header.revision)))
            }
            Ok(_) => Err(CallError::Broken("a watch was refused".into())),
            Err(error) => {
                self.client.leave(&channel).await;
                Err(error)
            }
        }
    }

    async fn run(&mut self, channel: Arc<Channel>, stream: Stream, events: &Sender<Event>) {
        let (mut channel, mut stream) = (channel, stream);
        loop {
            match stream.next::<WatchResponse>().await {
                Ok(Some(said)) if said.compact_revision > 0 => {
                    let _ = events.send(Event::Compacted).await;
                    return;
                }
                Ok(Some(said)) if !said.canceled => {
                    for event in said.events {
                        if !self.tell(event, events).await {
                            return;
                        }
                    }
                    continue;
                }
                Ok(_) | Err(_) => self.client.leave(&channel).await,
            }
            (channel, stream) = loop {
                tokio::time::sleep(PAUSE).await;
                if let Ok((channel, stream, _)) = self.open().await {
                    break (channel, stream);
                }
            };
        }
    }

    /// Whether anybody listens.
    async fn tell(&mut self, event: WatchEvent, events: &Sender<Event>) -> bool {
        let Some(pair) = event.kv else { return true };
        // All of one revision comes in one message.
        self.next = self.next.max(pair.mod_revision + 1);
        let told = match event.kind {
            0 => Event::Put(self.keys.record(pair)),
            _ => {
                let version = Version(pair.mod_revision.unsigned_abs());
                Event::Deleted(self.keys.own(&pair.key), version)
            }
        };
        events.send(told).await.is_ok()
    }
}
