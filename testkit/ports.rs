//! Ports of loopback that one test has to itself. Not a crate: tests of several crates include it. Enter
//! through [`base_port`].
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it, and a library takes it in")]

use std::{
    fs::{self, File},
    sync::Mutex,
};

/// Below those that the system gives to whoever asks for any.
const FIRST: u16 = 10_000;
const RANGES: u16 = 170;
/// Ports in a range: the largest demonstration takes fewer.
const LENGTH: u16 = 128;

/// The first of 128 ports that no other test takes while this process lives.
pub fn base_port() -> u16 {
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let dir = std::env::temp_dir().join("qkm-test-ports");
    fs::create_dir_all(&dir).expect("a directory for locks");
    // Ports that were used a moment ago may still be in use: not always the lowest first.
    let start = (std::process::id() % u32::from(RANGES)) as u16;
    for number in (0..RANGES).map(|step| (start + step) % RANGES) {
        let lock = File::create(dir.join(number.to_string())).expect("a file to lock");
        if lock.try_lock().is_ok() {
            TAKEN.lock().expect("no test panics here").push(lock);
            return FIRST + number * LENGTH;
        }
    }
    panic!("all {RANGES} ranges of ports are taken");
}
