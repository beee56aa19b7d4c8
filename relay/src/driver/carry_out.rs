//! What the session says is to be done, done.

use std::sync::atomic::Ordering::Relaxed;

use km_core::{
    ledger::Ledger, material::ClearBytes, peer::Fingerprint, provenance::Grade, run::RunSpec,
};
use tokio::sync::oneshot;

use super::{Driver, LinkError};
use crate::{
    copies,
    frame::{Frame, MAX_LIST, Rejection},
    hop::{HopFault, HopHead},
    kem,
    session::Action,
    work::{self, Done},
};

impl Driver<'_> {
    pub(super) fn carry_out(&mut self, actions: Vec<Action>) -> Result<(), LinkError> {
        actions.into_iter().try_for_each(|action| self.carry_out_one(action))
    }

    fn carry_out_one(&mut self, action: Action) -> Result<(), LinkError> {
        let (peer, done) = (self.peer, &self.done);
        let pool = &peer.pool;
        match action {
            Action::Send(frame) => frame.encode(&mut self.out),
            Action::Collect { number, ids, came } => {
                self.tasks.spawn(work::collect(peer.clone(), done.clone(), number, ids, came));
            }
            Action::Admit(agreed) => work::admit(peer, done, agreed),
            Action::Confirmed(numbers) => pool.confirm(&numbers),
            Action::Burn(numbers) => pool.burn_lacking(&numbers),
            Action::Refused { number, bytes, why } => self.refused(number, bytes, why),
            Action::TellKnown(numbers) => {
                let (have, lack) = numbers.iter().partition(|n| pool.has_block(**n));
                Frame::Known { have, lack }.encode(&mut self.out);
            }
            Action::TakeRun { request, run } => self.take_run(request, run),
            Action::AssignDone { request, result } => tell(self.asked.remove(&request), result),
            Action::EndRun { run, handed_out } => pool.run_ended(&run, handed_out),
            Action::TakeGiven(blocks) => pool.take_given(&blocks),
            Action::Give(count, grade) => self.give(count, grade),
            Action::PeerFloor(floor) => pool.peer_floor(floor),
            Action::PeerKeyTtl(ttl) => pool.peer_key_ttl(ttl),
            Action::Up => self.up(),
            Action::Borrow { request, span } => {
                self.tasks.spawn(work::borrow(peer, done.clone(), request, span));
            }
            Action::PadsTold(told) => {
                self.tasks.spawn(work::pads_told(peer, done.clone(), told));
            }
            Action::KemMake { id, set } => {
                self.spawn_whole(kem::make(peer.clone(), self.kem.clone(), done.clone(), id, set));
            }
            Action::KemSeal { id, set, public } => {
                self.tasks.spawn(kem::seal(peer.clone(), done.clone(), id, set, public));
            }
            Action::KemOpen { id, ciphertext } => {
                let (kem, done) = (self.kem.clone(), done.clone());
                self.spawn_whole(kem::open(peer.clone(), kem, done, id, ciphertext));
            }
            Action::Order(bytes) => pool.order(bytes),
            Action::Bar(certificates) => {
                pool.bar(&certificates);
                if pool.is_barred(&self.shown) {
                    return Err(LinkError::TakenOut);
                }
            }
            Action::PeerAccount(account) => self.peer_account(account),
            Action::PadsKnown(spans) => pool.pads_known(&spans),
            Action::Opened { head, material } => self.opened(head, material),
            Action::NotOpened(why) => self.not_opened(why),
            Action::Supply(ask) => peer.relay.supply(peer.config.cluster.clone(), ask),
            Action::Offered(offer) => {
                // Not cut off with the connection: what is being stored is stored.
                tokio::spawn(copies::take(peer.clone(), done.clone(), *offer));
            }
            Action::Placed { pad, placed } => tell(self.offered.remove(&pad), placed),
            Action::Answered { name, answer } => {
                peer.relay.answered(&peer.config.cluster, name, answer);
            }
        }
        Ok(())
    }

    fn up(&mut self) {
        let key = self.link_key.take();
        self.peer.handle.attach(self.turn, self.commands.clone(), key);
        self.peer.set_up(true);
        self.peer.pool.tell_pads();
        self.tell_gone();
    }

    fn give(&mut self, count: u16, grade: Grade) {
        let pool = self.peer.pool.clone();
        self.tasks.spawn(async move {
            if let Err(error) = pool.give(count, grade).await {
                tracing::warn!(%error, "cannot give blocks");
            }
        });
    }

    fn opened(&self, head: HopHead, material: ClearBytes) {
        let count = &self.peer.counters;
        count.hops_opened.fetch_add(1, Relaxed);
        count.hop_bytes_opened.fetch_add(material.len() as u64, Relaxed);
        self.peer.relay.opened(self.peer.config.cluster.clone(), head, material);
    }

    /// Which KMs of this cluster were taken out.
    pub(super) fn tell_gone(&mut self) {
        let gone: Vec<Fingerprint> = self.peer.gone.borrow().iter().copied().collect();
        for some in gone.chunks(MAX_LIST) {
            Frame::Gone(some.to_vec()).encode(&mut self.out);
        }
    }

    fn peer_account(&self, account: Ledger) {
        let pool = &self.peer.pool;
        let Some(agree) = pool.peer_account(account) else { return };
        let (peer, here, there) = (&self.peer.config.cluster, pool.account().pad, account.pad);
        match agree {
            true => tracing::info!(%peer, "the ends say the same of their pad again"),
            false => tracing::error!(%peer, here, there, alarm = "ledgers-differ",
                "the ends do not say the same of the pad they spent, in bits"),
        }
    }

    fn not_opened(&self, why: HopFault) {
        let peer = &self.peer.config.cluster;
        self.peer.counters.hops_refused.fetch_add(1, Relaxed);
        match why {
            HopFault::BadTag | HopFault::BadPad => {
                self.peer.counters.tampered.fetch_add(1, Relaxed);
                tracing::error!(%peer, %why, alarm = "hop-tampered", "relayed keys do not open");
            }
            why => tracing::warn!(%peer, %why, "relayed keys were refused"),
        }
    }

    fn refused(&self, number: u64, bytes: u64, why: Rejection) {
        self.peer.pool.rejected(bytes);
        let peer = &self.peer.config.cluster;
        if why == Rejection::Mismatch {
            self.peer.counters.mismatched.fetch_add(1, Relaxed);
            tracing::error!(%peer, block = number, alarm = "key-mismatch",
                "both ends hold different bits; the block is rejected");
        } else if why == Rejection::Path {
            self.peer.counters.given_up.fetch_add(1, Relaxed);
            tracing::error!(%peer, block = number, alarm = "relay-path",
                "the ends were told different ways of relayed keys; a node on the way altered it");
        } else if why == Rejection::Policy {
            self.peer.counters.given_up.fetch_add(1, Relaxed);
            tracing::error!(%peer, block = number, alarm = "combination-refused",
                "the ends are set to combine keys differently; set `combine` alike at both");
        } else {
            self.peer.counters.given_up.fetch_add(1, Relaxed);
            tracing::warn!(%peer, block = number, ?why, "a block was given up");
        }
    }

    /// Runs are taken in the order they came; only the wait for the disk is elsewhere.
    fn take_run(&mut self, request: u64, run: RunSpec) {
        let taken = self.peer.supply.accept(&self.peer.config.cluster, run);
        let done = self.done.clone();
        self.tasks.spawn(async move {
            let result = match taken {
                Ok(accepted) => accepted.durable().await,
                Err(error) => Err(error),
            };
            let result = work::assigned(result);
            let _ = done.send(Done::Send(Frame::AssignResult { request, result }));
        });
    }

    /// Beside the connection, but not cut off with it: it would leave a private key in the token.
    fn spawn_whole(&self, task: impl Future<Output = ()> + Send + 'static) {
        let storing = self.peer.storing.clone().try_read_owned();
        tokio::spawn(async move {
            let _storing = storing;
            task.await;
        });
    }
}

/// Whoever asked may have given up; a run that was asked for is burned then.
fn tell<T>(waiting: Option<oneshot::Sender<T>>, answer: T) {
    if let Some(waiting) = waiting {
        let _ = waiting.send(answer);
    }
}
