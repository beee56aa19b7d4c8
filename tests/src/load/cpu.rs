//! What processes use, from `/proc`.

use std::fs;

/// CPU time a process and its children that live have used, in microseconds: a KM and the worker
/// processes of its tokens.
pub fn used_us(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    // A thread may end meanwhile; its children then move to another.
    let children = tasks.flatten().filter_map(|task| {
        let listed = fs::read_to_string(task.path().join("children")).ok()?;
        Some(listed.split_whitespace().map(|pid| pid.parse().expect("a number")).collect())
    });
    let children: Vec<Vec<u32>> = children.collect();
    own_us(pid) + children.into_iter().flatten().map(own_us).sum::<u64>()
}

fn own_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after_name = stat.rsplit_once(')').expect("a name in parentheses").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    // utime and stime, fields 14 and 15 of proc(5); a tick is 10 ms on Linux.
    (ticks(11) + ticks(12)) * 10_000
}

/// Resident memory of a process, in MiB.
pub fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.split_whitespace().nth(1).expect("a value").parse().expect("a number");
    kib / 1024.0
}

/// Median of `rounds` appends of 4 KiB with fsync in `dir`, in microseconds.
pub fn fsync_median_us(dir: &std::path::Path, rounds: usize) -> u64 {
    use std::io::Write;
    let path = dir.join("fsync-probe");
    let mut file = fs::File::create(&path).expect("a writable directory");
    let mut times: Vec<u64> = (0..rounds)
        .map(|_| {
            file.write_all(&[0; 4096]).expect("room on the disk");
            let since = std::time::Instant::now();
            file.sync_data().expect("fsync");
            since.elapsed().as_micros() as u64
        })
        .collect();
    let _ = fs::remove_file(path);
    times.sort_unstable();
    times[rounds / 2]
}
