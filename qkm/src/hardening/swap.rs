//! Where the kernel may write memory it has no room for. Enter through [`state`].

use std::{fmt, path::Path};

/// The swap areas in use now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    /// There is none.
    None,
    /// All of it is in memory or encrypted.
    Protected,
    /// These are on disk, and not known to be encrypted.
    Open(Vec<String>),
    /// The kernel does not say.
    Unknown,
}

impl fmt::Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no swap now"),
            Self::Protected => f.write_str("all swap is encrypted or in memory"),
            Self::Open(areas) => write!(f, "not known to be encrypted: {}", areas.join(", ")),
            Self::Unknown => f.write_str("the kernel does not tell its swap areas"),
        }
    }
}

/// What `/proc/swaps` lists.
pub(crate) fn state() -> Swap {
    let Ok(table) = std::fs::read_to_string("/proc/swaps") else { return Swap::Unknown };
    read(&table, |device| {
        let uuid = Path::new("/sys/class/block").join(device).join("dm/uuid");
        std::fs::read_to_string(uuid).unwrap_or_default()
    })
}

/// `uuid_of` gives the device mapper's name for a block device.
fn read(table: &str, uuid_of: impl Fn(&str) -> String) -> Swap {
    let areas: Vec<&str> =
        table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let is_open = |area: &&&str| {
        let resolved = std::fs::canonicalize(area).unwrap_or_else(|_| area.into());
        let device = resolved.file_name().unwrap_or_default().to_string_lossy();
        !device.starts_with("zram") && !uuid_of(&device).starts_with("CRYPT-")
    };
    let open: Vec<String> = areas.iter().filter(is_open).map(|area| (*area).to_owned()).collect();
    match (areas.is_empty(), open.is_empty()) {
        (true, _) => Swap::None,
        (false, true) => Swap::Protected,
        (false, false) => Swap::Open(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encrypted_areas_and_those_in_memory_are_protected() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        let uuid_of = |device: &str| match device {
            "dm-7" => "CRYPT-PLAIN-swap".to_owned(),
            "dm-8" => "LVM-abc".to_owned(),
            _ => String::new(),
        };
        let of = |lines: &str| read(&format!("{head}{lines}"), uuid_of);
        let line = |path: &str| format!("{path} partition\t1048572\t0\t-2\n");
        assert_eq!(of(""), Swap::None);
        assert_eq!(of(&(line("/dev/zram0") + &line("/dev/dm-7"))), Swap::Protected);
        for open in ["/dev/dm-8", "/dev/sda2", "/swapfile"] {
            let both = of(&(line("/dev/dm-7") + &line(open)));
            assert_eq!(both, Swap::Open(vec![open.to_owned()]));
        }
    }
}
