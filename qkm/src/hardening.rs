//! What a process that holds keys forbids itself. Enter through [`protect`].

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::fault::{Code, Failure};

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
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| fail("keep debuggers out", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn core_dumps_and_debuggers_are_kept_out() {
        protect(false).unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
