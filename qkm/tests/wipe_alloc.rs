//! Freed memory holds nothing: this process, which runs on the wiping allocator, looks through
//! its own memory as the kernel shows it.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{File, read_to_string},
    os::unix::fs::FileExt,
};

use qkm::wipe_alloc::WipeAlloc;

#[global_allocator]
static MEMORY: WipeAlloc = WipeAlloc;

const LEN: usize = 48;

/// The pattern's bytes, computed one by one so that it is nowhere in memory as a whole.
fn byte(seed: u8, index: usize) -> u8 {
    (index as u8).wrapping_mul(97).wrapping_add(seed) ^ 0x5A
}

const PAGE: u64 = 4096;

/// For each page whether it was ever written: the heap reserves far more than it uses. To read a page makes it
/// look as if it was.
fn touched(from: u64, to: u64) -> Vec<bool> {
    let pages = File::open("/proc/self/pagemap").unwrap();
    let mut entries = vec![0u8; ((to - from) / PAGE * 8) as usize];
    let got = pages.read_at(&mut entries, from / PAGE * 8).unwrap();
    let (entries, _) = entries[..got].as_chunks::<8>();
    // In memory, or in the swap.
    entries.iter().map(|entry| u64::from_ne_bytes(*entry) >> 62 != 0).collect()
}

/// How often the pattern is in this process's writable memory.
fn occurrences(seed: u8) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut buffer = vec![0u8; 1 << 20];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + (1 << 20);
    let mut found = 0;
    for line in read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let (range, mode) = (words.next().unwrap(), words.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (hex(from), hex(to));
        if !mode.starts_with("rw") {
            continue;
        }
        let (mut at, touched) = (start, touched(start, end));
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let pages = touched.iter().skip(((at - start) / PAGE) as usize);
            if !pages.take(want / PAGE as usize + 1).any(|touched| *touched) {
                at += want as u64;
                continue;
            }
            let Ok(got) = memory.read_at(&mut buffer[..want], at) else { break };
            let hit = |window: &&[u8]| window.iter().enumerate().all(|(i, b)| *b == byte(seed, i));
            let places = buffer[..got].windows(LEN).enumerate().filter(|(_, w)| hit(w));
            // The copy in `buffer` shows other memory; `buffer` itself does not count.
            found += places.filter(|(i, _)| !own.contains(&(at + *i as u64))).count();
            at += got.saturating_sub(LEN).max(1) as u64;
            if got < want {
                break;
            }
        }
    }
    found
}

#[test]
fn freed_and_grown_vectors_leave_no_copy() {
    let seed = std::process::id() as u8 | 1;
    let mut key: Vec<u8> = Vec::with_capacity(LEN);
    key.extend((0..LEN).map(|index| byte(seed, index)));
    assert!(occurrences(seed) >= 1, "the search finds what is there");
    // Grows several times: each move frees the smaller block.
    for _ in 0..10 {
        key.reserve(key.capacity() * 2);
    }
    assert_eq!(std::hint::black_box(&key).len(), LEN);
    assert_eq!(occurrences(seed), 1, "only the live copy");
    drop(key);
    assert_eq!(occurrences(seed), 0, "nothing after release");
}
