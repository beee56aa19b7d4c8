//! Durable small commits per second of the embedded store: `store_load [DIR] [CALLERS] [COMMITS]`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use km_core::store::{Commit, Outcome, SqliteStore, Store};

/// CPU time of this process, user and system (Linux: clock ticks of 10 ms).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

async fn caller(store: Arc<SqliteStore>, caller: usize, commits: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(commits);
    for n in 0..commits {
        let key = format!("load/{caller:03}/{n:08}");
        let start = Instant::now();
        let answer = store.commit(Commit::new().absent(key.as_str()).put(key, [7u8; 96])).await;
        assert!(matches!(answer, Ok(Outcome::Committed(_))), "{answer:?}");
        took.push(start.elapsed());
    }
    took
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir: PathBuf = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let callers: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let commits: usize = args.next().map_or(Ok(100_000), |n| n.parse())?;
    let path = dir.join(format!("store-load-{}", std::process::id()));
    let store = Arc::new(SqliteStore::open(&path)?);

    let (start, busy) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|n| tokio::spawn(caller(Arc::clone(&store), n, commits / callers)))
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await?);
    }
    let (wall, busy) = (start.elapsed(), cpu() - busy);
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{callers} callers: {:.0} commits/s, {:.1} us CPU each, p50 {:.2} p99 {:.2} max {:.2} ms",
        took.len() as f64 / wall.as_secs_f64(),
        busy.as_secs_f64() * 1e6 / took.len() as f64,
        at(0.5),
        at(0.99),
        at(1.0),
    );

    let (start, reads) = (Instant::now(), 100_000);
    for n in 0..reads {
        let key = format!("load/{:03}/{:08}", n % callers, n / callers % (commits / callers));
        assert!(store.get(key.as_bytes()).await?.is_some());
    }
    println!("reads: {:.1} us each", start.elapsed().as_secs_f64() * 1e6 / reads as f64);
    drop(store);
    for suffix in ["", ".lock"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        std::fs::remove_file(name)?;
    }
    Ok(())
}
