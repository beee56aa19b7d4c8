//! `qkm node drain`.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    super::{
        admin::{Request, print, send},
        hsm::Custodian,
    },
    find, nodes, path,
};
use crate::fault::{Code, Exit, Failure};

const LOOK: Duration = Duration::from_millis(300);

pub(super) fn drain(
    name: &str,
    undo: bool,
    wait_s: u64,
    custodian: &Custodian,
) -> Result<Exit, Failure> {
    let path = path(name, if undo { "undrain" } else { "drain" });
    let shown = custodian.certificate.clone().zip(custodian.key.clone());
    send(&custodian.admin.config.config, shown, Request::Change(&path, &json!({})))?;
    if undo {
        print(&format!("{name} works again"));
        return Ok(Exit::Done);
    }
    let until = Instant::now() + Duration::from_secs(wait_s);
    loop {
        let node = find(&nodes(&custodian.admin)?, name)?;
        if node["drained"] == Value::Bool(true) || node["alive"] == Value::Bool(false) {
            print(&format!("{name} is drained: it can be stopped"));
            return Ok(Exit::Done);
        }
        if Instant::now() >= until {
            let text =
                format!("{name} drains, and is not through after {wait_s} s: do not stop it yet");
            return Err(Failure::new(Code::J001, text).help("`qkm node show` says `drained` then"));
        }
        thread::sleep(LOOK);
    }
}
