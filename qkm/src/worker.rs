//! The HSM worker process: this program once more, started by a key manager. The key manager
//! asks for it with [`program`]; the process itself enters through [`work`].

use hsm_profiles::Program;

use crate::{
    fault::{Code, Exit, Failure},
    hardening::{self, MemoryLock},
    logging,
};

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "hsm-worker";

/// The command that runs a worker. It is this very program, even when the file was replaced.
pub(crate) fn program(dumpable: bool, lock: MemoryLock, log: &str) -> Program {
    let mut arguments = vec!["--log".into(), log.into(), COMMAND.into()];
    arguments.extend(["--lock-memory".into(), lock.name().into()]);
    if dumpable {
        arguments.push("--dumpable".into());
    }
    Program { path: "/proc/self/exe".into(), arguments }
}

/// Serves one token until the key manager closes the socket.
pub(crate) fn work(dumpable: bool, lock: MemoryLock, log: &str) -> Result<Exit, Failure> {
    hardening::protect(dumpable)?;
    logging::start(log)?;
    hardening::lock_memory(lock)?;
    let served = hsm_profiles::serve_worker();
    served.map(|()| Exit::Done).map_err(|error| {
        Failure::new(Code::P001, format!("HSM worker: {error}"))
            .help("this command is started by `qkm serve`; the key manager starts it again")
    })
}
