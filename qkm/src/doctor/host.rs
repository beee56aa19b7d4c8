//! What the host must forbid so that clear keys stay in memory. Enter through [`check`].
//!
//! Looked at from this process, which protects itself as the server does. A service manager may
//! give the server other limits.

use rustix::process::{Resource, getrlimit};

use super::{Level, Report};
use crate::{
    config::Config,
    hardening::{
        self, MemoryLock,
        swap::{self, Swap},
    },
};

pub(super) fn check(config: &Config, report: &mut Report) {
    core_dumps(config, report);
    debuggers(config, report);
    memory(config, report);
}

fn core_dumps(config: &Config, report: &mut Report) {
    if config.dumpable {
        // A handler behind a pipe gets dumps in spite of the limit (core(5)).
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        if let Some(handler) = pattern.trim().strip_prefix('|') {
            return report.warn(format!(
                "core dumps go to {handler:?}, and [debug] dumpable = true lets them hold keys: \
                 take it out"
            ));
        }
    }
    match getrlimit(Resource::Core).maximum {
        Some(0) => report.ok("core dumps: none of this process, and none of the server"),
        limit => report.warn(format!("core dumps of this process are allowed (limit {limit:?})")),
    }
}

fn debuggers(config: &Config, report: &mut Report) {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let restricted = scope.is_some_and(|scope| scope.trim() != "0");
    match (config.dumpable, restricted) {
        (false, _) => report.ok("debuggers: only root's can look into the server"),
        (true, true) => report.warn(
            "debuggers: [debug] dumpable = true; Yama lets only parents look into the server",
        ),
        (true, false) => report.warn(
            "debuggers: [debug] dumpable = true lets every process of the same user read the \
             server's memory: take it out",
        ),
    }
}

fn memory(config: &Config, report: &mut Report) {
    let swap = swap::state();
    let refused = match config.memory_lock {
        MemoryLock::Off => Err("[memory] lock is off".to_owned()),
        MemoryLock::Require | MemoryLock::Try => hardening::lock(),
    };
    match refused {
        Ok(()) => {
            let mib = hardening::locked_bytes().unwrap_or_default() >> 20;
            report.ok(format!("memory is locked ({mib} MiB mapped by this process); {swap}"));
        }
        Err(why) => {
            let level = match (config.memory_lock, &swap) {
                (MemoryLock::Require, _) => Level::Failure,
                (_, Swap::None | Swap::Protected) => Level::Ok,
                (_, Swap::Open(_) | Swap::Unknown) => Level::Warning,
            };
            report.say(level, format!("memory is not locked: {why}; {swap}"));
        }
    }
}
