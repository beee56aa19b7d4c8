//! Who sits in the middle of a link: a [`Robber`] has no keys and moves bytes, a [`Reader`] has those of
//! both ends and moves messages.

#![allow(unreachable_pub)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use relay::{
    frame::{Frame, Frames},
    hop::{HopFrame, Lock, Piece},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use transport::{
    ListenerLimits, ListenerStats, Profile, ServerStream, Shutdown, ShutdownHandle, TlsClient,
    TlsFiles,
};

fn listen() -> TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// What is done to one piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    Drop,
    Repeat,
    Swap,
    Flip,
    /// What was seen on another link takes its place.
    Splice,
}

/// A trick, and what was seen elsewhere.
type Planned = (Trick, Vec<u8>);

/// What a robber shares with the tasks of his connections.
#[derive(Default)]
struct Plot {
    /// The trick to be played on the next piece, by direction (to the server first).
    next: Mutex<[Option<Planned>; 2]>,
    seen: Mutex<[Vec<u8>; 2]>,
}

pub struct Robber {
    pub address: SocketAddr,
    plot: Arc<Plot>,
}

impl Robber {
    pub fn before(server: SocketAddr) -> Self {
        let listener = listen();
        let (address, plot) = (listener.local_addr().unwrap(), Arc::new(Plot::default()));
        let plotting = plot.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(server).await else { continue };
                let ((from_near, to_near), (from_far, to_far)) =
                    (near.into_split(), far.into_split());
                let (one, other) = (plotting.clone(), plotting.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = one.carry(0, from_near, to_far) => {}
                        () = other.carry(1, from_far, to_near) => {}
                    }
                });
            }
        });
        Self { address, plot }
    }

    /// Plays a trick on the next piece in one direction.
    pub fn play(&self, trick: Trick, to_server: bool, other: &Robber) {
        let at = usize::from(!to_server);
        let elsewhere = other.plot.seen.lock().unwrap()[at].clone();
        self.plot.next.lock().unwrap()[at] = Some((trick, elsewhere));
    }
}

impl Plot {
    async fn carry(
        &self,
        at: usize,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) {
        let mut buffer = vec![0; 16 << 10];
        let mut held = None;
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            let mut piece = buffer[..count].to_vec();
            self.seen.lock().unwrap()[at] = piece.clone();
            let trick = self.next.lock().unwrap()[at].take();
            match trick {
                None => {}
                Some((Trick::Drop, _)) => continue,
                Some((Trick::Repeat, _)) => piece.extend_from_within(..),
                Some((Trick::Swap, _)) => {
                    held = Some(piece);
                    continue;
                }
                // In the middle of it, behind the head of a TLS record.
                Some((Trick::Flip, _)) => piece[count / 2] ^= 4,
                Some((Trick::Splice, elsewhere)) => piece = elsewhere,
            }
            piece.extend(held.take().unwrap_or_default());
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

/// Most messages he remembers of one link.
const REMEMBERED: usize = 64;

struct Mind {
    evil: AtomicBool,
    played: AtomicU64,
    dice: Mutex<Dice>,
    remembered: Mutex<VecDeque<Vec<u8>>>,
    elsewhere: Mutex<Vec<Arc<Mind>>>,
    /// Bytes of pad that genuine batches named, and counters under hop keys; what named them twice.
    spent: Mutex<BTreeMap<(u64, u64, u16), u16>>,
    counters: Mutex<BTreeSet<(Piece, u64)>>,
    twice: Mutex<Vec<String>>,
}

pub struct Reader {
    pub address: SocketAddr,
    mind: Arc<Mind>,
    _stop: ShutdownHandle,
}

impl Reader {
    /// He answers with one certificate and dials the server with another.
    pub fn between(server: SocketAddr, answers: &TlsFiles, dials: &TlsFiles, seed: u64) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let mind = Arc::new(Mind {
            evil: AtomicBool::new(false),
            played: AtomicU64::new(0),
            dice: Mutex::new(Dice(seed)),
            remembered: Mutex::default(),
            elsewhere: Mutex::default(),
            spent: Mutex::default(),
            counters: Mutex::default(),
            twice: Mutex::default(),
        });
        let client = transport::client_config(dials, Profile::KmLink).unwrap();
        let (stop, shutdown) = Shutdown::pair();
        let reading = mind.clone();
        let meet = move |near: ServerStream, _| {
            let (mind, client) = (reading.clone(), client.clone());
            async move {
                let client = TlsClient::new(&format!("localhost:{}", server.port()), None, client);
                let far = client.unwrap().connect(Duration::from_secs(5)).await;
                let Ok((far, _)) = far else { return };
                let (from_near, to_near) = tokio::io::split(near);
                let (from_far, to_far) = tokio::io::split(far);
                tokio::select! {
                    () = mind.carry(from_near, to_far) => {}
                    () = mind.carry(from_far, to_near) => {}
                }
            }
        };
        tokio::spawn(transport::serve(
            listener,
            transport::server_config(answers, Profile::KmLink).unwrap(),
            ListenerLimits::default(),
            Arc::new(ListenerStats::default()),
            meet,
            shutdown,
        ));
        Self { address, mind, _stop: stop }
    }

    /// Each may use what the others saw.
    pub fn share(readers: &[Reader]) {
        for reader in readers {
            let others = readers.iter().filter(|other| !Arc::ptr_eq(&other.mind, &reader.mind));
            *reader.mind.elsewhere.lock().unwrap() = others.map(|o| o.mind.clone()).collect();
        }
    }

    pub fn set_evil(&self, evil: bool) {
        self.mind.evil.store(evil, Relaxed);
    }

    /// Tricks played.
    pub fn played(&self) -> u64 {
        self.mind.played.load(Relaxed)
    }

    pub fn assert_no_pad_was_named_twice(&self) {
        assert_eq!(*self.mind.twice.lock().unwrap(), Vec::<String>::new());
    }
}

impl Mind {
    async fn carry(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let (mut frames, mut buffer) = (Frames::default(), vec![0; 64 << 10]);
        let mut held = Vec::new();
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            frames.push(&buffer[..count]);
            let mut out = Vec::new();
            while let Ok(Some(frame)) = frames.next_frame() {
                self.pass(&frame, &mut held, &mut out);
            }
            if to.write_all(&out).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    }

    fn pass(&self, frame: &Frame, held: &mut Vec<u8>, out: &mut Vec<u8>) {
        if let Frame::Hop(frame) = frame {
            self.watch(frame);
        }
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        // Without a greeting there is no link to attack; pings only show that it lives.
        if matches!(frame, Frame::Hello(_) | Frame::Ping(_) | Frame::Pong(_)) {
            return out.append(&mut bytes);
        }
        self.remember(&bytes);
        let trick = match self.evil.load(Relaxed) {
            true => self.dice.lock().unwrap().roll(20),
            false => 20,
        };
        self.played.fetch_add(u64::from(trick < 6), Relaxed);
        match trick {
            0 => return,
            1 => out.extend_from_slice(&bytes),
            2 => return held.append(&mut bytes),
            // The frame's own length aside, any bit.
            3 => {
                let bit =
                    40 + self.dice.lock().unwrap().roll((bytes.len() as u64 - 5) * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            4 => out.extend(self.something(&[])),
            5 => out.extend(self.something(&self.elsewhere.lock().unwrap())),
            _ => {}
        }
        out.append(&mut bytes);
        out.append(held);
    }

    fn remember(&self, bytes: &[u8]) {
        let mut remembered = self.remembered.lock().unwrap();
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(bytes.to_vec());
    }

    /// A message of earlier: of this link, or of others.
    fn something(&self, of: &[Arc<Mind>]) -> Vec<u8> {
        let mut dice = self.dice.lock().unwrap();
        let mind = match of.len() as u64 {
            0 => self,
            count => &of[dice.roll(count) as usize],
        };
        let remembered = mind.remembered.lock().unwrap();
        match remembered.len() as u64 {
            0 => Vec::new(),
            count => remembered[dice.roll(count) as usize].clone(),
        }
    }

    /// What the ends themselves send, before any trick.
    fn watch(&self, frame: &HopFrame) {
        match &frame.lock {
            Lock::Otp(pieces) | Lock::Given(pieces) => {
                pieces.iter().for_each(|piece| self.spend(piece));
            }
            // Its key is of the connection, and his two have none in common.
            Lock::Link { .. } => {}
            Lock::Aes { key, counter } => {
                if *counter == 0 {
                    self.spend(key);
                }
                if !self.counters.lock().unwrap().insert((*key, *counter)) {
                    self.twice.lock().unwrap().push(format!("{key:?} counter {counter}"));
                }
            }
        }
    }

    fn spend(&self, piece: &Piece) {
        let Piece { span, at, len } = *piece;
        let block = (u64::from(span.block.pool.bits()), span.block.number);
        let (first, last) = (span.offset + at, span.offset + at + len);
        let mut spent = self.spent.lock().unwrap();
        let before = spent.range((block.0, block.1, 0)..(block.0, block.1, last)).next_back();
        if before.is_some_and(|(_, end)| *end > first) {
            self.twice.lock().unwrap().push(format!("{piece:?} after {before:?}"));
        }
        spent.insert((block.0, block.1, first), last);
    }
}
