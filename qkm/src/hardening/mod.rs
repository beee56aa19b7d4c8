//! What a process that holds keys forbids itself. Enter through [`protect`], then [`lock_memory`].
//!
//! Clear keys are not only in buffers of our own: TLS and HTTP libraries hold them for a moment,
//! on the heap and on stacks. So the whole process is kept out of swap and dumps, not single
//! pages. Pages are locked when they are first touched: a lock on everything mapped would make
//! thread stacks and reserves resident, and a KM is to run in 200 MiB. For the same reason there
//! is no `MADV_DONTDUMP` or `MADV_WIPEONFORK` on single pages: nothing of this process is dumped,
//! and it forks only to run another program.

pub(crate) mod swap;

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};
use serde::Deserialize;

use crate::fault::{Code, Failure};

/// Which memory a core dump holds (core(5)): none. Children inherit it.
const COREDUMP_FILTER: &str = "/proc/self/coredump_filter";
/// The capability to lock memory without a limit (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;

/// No core dumps, and no debugger of the same user unless `dumpable`. Root can still look.
///
/// Call it first: memory written before may already be in a dump.
pub(crate) fn protect(dumpable: bool) -> Result<(), Failure> {
    let fail = |what: &str, error: rustix::io::Errno| {
        Failure::new(Code::P001, format!("cannot {what}: {error}"))
            .help("remove what keeps this process from lowering its own limits (seccomp, sandbox)")
    };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|e| fail("forbid core dumps", e))?;
    if !dumpable {
        // For tools of root that make dumps all the same; not every system lets us. The next step
        // takes the file away from us.
        drop(std::fs::write(COREDUMP_FILTER, "0"));
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| fail("keep debuggers out", e))?;
    }
    Ok(())
}

/// Whether the memory of the process is to be kept out of swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLock {
    /// Do not start where it cannot be.
    Require,
    /// Start with a warning where it cannot be.
    #[default]
    Try,
    /// Leave it: swap is encrypted, or there is none.
    Off,
}

impl MemoryLock {
    /// As the configuration and the command line say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Try => "try",
            Self::Off => "off",
        }
    }
}

/// Locks the memory of the process, what it takes later included. Says in the log what came of it.
///
/// # Errors
/// When it is required and not possible.
pub(crate) fn lock_memory(wish: MemoryLock) -> Result<(), Failure> {
    if wish == MemoryLock::Off {
        return Ok(());
    }
    let Err(why) = lock() else { return Ok(()) };
    if wish == MemoryLock::Require {
        return Err(Failure::new(Code::P002, why));
    }
    let swap = swap::state();
    tracing::warn!(alarm = "memory-not-locked", %why, %swap, "clear keys may reach the swap");
    Ok(())
}

/// Why the memory is not locked now.
pub(crate) fn lock() -> Result<(), String> {
    // A limit reached later would fail any allocation, and with it the process: all or nothing.
    let limit = getrlimit(Resource::Memlock);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if !may_lock_any_amount() && (limit.maximum.is_some() || set_memlock(raised).is_err()) {
        let kib = limit.maximum.unwrap_or_default() >> 10;
        return Err(format!(
            "this process may lock only {kib} KiB of memory: set LimitMEMLOCK=infinity (systemd), \
             `ulimit -l unlimited`, or give it CAP_IPC_LOCK"
        ));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| format!("the kernel does not lock the memory: {error}"))
}

fn set_memlock(limit: Rlimit) -> rustix::io::Result<()> {
    setrlimit(Resource::Memlock, limit)
}

fn may_lock_any_amount() -> bool {
    let capabilities = status_line("CapEff:").and_then(|hex| u64::from_str_radix(&hex, 16).ok());
    capabilities.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

/// Bytes of this process that are locked. They count mapped, not only touched, memory.
pub(crate) fn locked_bytes() -> Option<u64> {
    let kib: u64 = status_line("VmLck:")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// A value of `/proc/self/status`.
pub(crate) fn status_line(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn all_memory_is_locked_or_the_reason_told() {
        assert_eq!(locked_bytes(), Some(0));
        match lock() {
            Ok(()) => {
                let before = locked_bytes().unwrap();
                assert!(before > 1 << 20, "{before}");
                // Mapped by itself, since it is large.
                let later = vec![1u8; 64 << 20];
                assert!(locked_bytes().unwrap() >= before + later.len() as u64);
            }
            Err(why) => assert!(why.contains("LimitMEMLOCK") && !may_lock_any_amount(), "{why}"),
        }
    }

    #[test]
    fn core_dumps_and_debuggers_are_kept_out() {
        let filter = || std::fs::read_to_string(COREDUMP_FILTER).unwrap();
        assert_ne!(filter().trim(), "00000000");
        protect(false).unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(filter().trim(), "00000000");
    }
}
