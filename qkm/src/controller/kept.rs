//! Orders of operators on disk, so that a restart does not put back what they took out.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use control::Orders;

use crate::fault::{Code, Failure};

/// No file of orders is longer, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What was ordered before; nothing when there is no file.
pub(super) fn read(path: &Path) -> Result<Orders, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::new(Code::N001, format!("cannot read {}: {what}", path.display()))
            .help("put the file aside, start, and give the orders again")
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Orders::default()),
        Err(error) => return Err(wrong(&error)),
        Ok(meta) if meta.len() > MAX_BYTES => return Err(wrong(&"it is too long")),
        Ok(_) => {}
    }
    let text = fs::read(path).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

/// Replaces what was ordered before; durable when it returns.
pub(super) fn write(path: &Path, orders: &Orders) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| {
        Failure::new(Code::N001, format!("cannot write {}: {error}", path.display()))
            .help("the order holds until the controller ends; check the directory of `orders`")
    };
    let fresh = path.with_extension("new");
    let text = serde_json::to_vec_pretty(orders).map_err(|error| wrong(error.into()))?;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&fresh, path)).map_err(wrong)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back_and_a_damaged_file_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.json");
        assert_eq!(read(&path).unwrap(), Orders::default());
        let orders: Orders = serde_json::from_str(
            r#"{"parts":{"km/b":{"state":{"out-of-service":"suspended"},"at_ms":1}},
                "pins":[{"pin":{"between":["a","d"],"via":["c"]},"ended":false,"at_ms":2}]}"#,
        )
        .unwrap();
        write(&path, &orders).unwrap();
        assert_eq!(read(&path).unwrap(), orders);
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path).unwrap_err().code(), Code::N001);
    }
}
