//! A quantum random number generator (QRNG) as a character device or FIFO. Enter through
//! [`Device::read`].
//!
//! One thread opens and reads, because both may block for ever; who asks waits no longer than the
//! deadline. Exactly the bytes asked for are read, and those that come too late are wiped.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use tokio::sync::oneshot;
use wiped::Wiped;

use crate::material::ClearBytes;

/// Major number of the kernel's own memory devices: null, zero, random, urandom.
const MEMORY_DEVICES: u64 = 1;

type Answer = Result<ClearBytes, String>;

enum Ask {
    Read { len: usize, reply: oneshot::Sender<Answer> },
    Close,
}

/// The device, opened at the first read and again after each failure.
#[derive(Debug)]
pub(super) struct Device {
    asks: SyncSender<Ask>,
    deadline: Duration,
}

impl Device {
    /// Starts the reading thread; the device is not touched yet. The thread ends after this is
    /// dropped, as soon as the device lets go of it.
    pub(super) fn new(path: PathBuf, deadline: Duration) -> std::io::Result<Self> {
        // One ask may wait while one is read.
        let (asks, waiting) = sync_channel(1);
        let name = "qrng".to_owned();
        std::thread::Builder::new().name(name).spawn(move || serve(&path, &waiting))?;
        Ok(Self { asks, deadline })
    }

    /// Exactly `len` bytes, read now.
    pub(super) async fn read(&self, len: usize) -> Answer {
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send(Ask::Read { len, reply }).is_err() {
            return Err("it still has not answered earlier reads".to_owned());
        }
        let late = format!("it gave less than {len} bytes within {:?}", self.deadline);
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answered) => answered.unwrap_or_else(|_| Err("its reader stopped".to_owned())),
            Err(_) => Err(late),
        }
    }

    /// Closes the device, because what waits in it is bad; the next read opens it anew.
    pub(super) fn close(&self) {
        // Who is too busy to hear it is inside a read that nobody waits for.
        drop(self.asks.try_send(Ask::Close));
    }
}

fn serve(path: &Path, asks: &Receiver<Ask>) {
    let mut device = None;
    for ask in asks {
        let Ask::Read { len, reply } = ask else {
            device = None;
            continue;
        };
        // Nobody waits any more: the bytes would be lost.
        if reply.is_closed() {
            continue;
        }
        let read = read(path, &mut device, len);
        if read.is_err() {
            device = None;
        }
        drop(reply.send(read));
        wiped::clear_registers();
    }
}

fn read(path: &Path, device: &mut Option<File>, len: usize) -> Answer {
    let file = match device {
        Some(file) => file,
        None => device.insert(open(path)?),
    };
    let mut bytes = Wiped::zeros(len);
    file.read_exact(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(bytes.into())
}

fn open(path: &Path) -> Result<File, String> {
    let file = File::open(path).map_err(|error| format!("it cannot be opened: {error}"))?;
    let meta = file.metadata().map_err(|error| format!("it cannot be looked at: {error}"))?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_fifo() {
        let text = "it is no character device or FIFO, and a file would give the same bytes again";
        return Err(text.to_owned());
    }
    // Linux puts the low 12 bits of the major number above the low 8 of the minor.
    if kind.is_char_device() && (meta.rdev() >> 8) & 0xfff == MEMORY_DEVICES {
        return Err("it is a device of the kernel itself, not a generator".to_owned());
    }
    Ok(file)
}
