//! What goes wrong, told to a person: what, where, and what to do next, under a stable code.
//! Enter through [`Failure`]; `qkm explain CODE` prints the catalogue in [`Code`].

use std::fmt;

/// How a command ends (exit status of the process).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The server, HSM or peer cannot be reached.
    Unreachable = 3,
    /// Understood and refused.
    Refused = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

macro_rules! codes {
    ($($code:ident $exit:ident $title:literal $explain:literal)*) => {
        /// Stable codes of failures; the number never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each code's text is in the catalogue below")]
        pub enum Code { $($code),* }

        impl Code {
            /// Every code, in the order of the catalogue.
            pub const ALL: &'static [Code] = &[$(Code::$code),*];

            fn entry(self) -> (&'static str, Exit, &'static str, &'static str) {
                match self { $(Code::$code => (stringify!($code), Exit::$exit, $title, $explain)),* }
            }
        }
    };
}

codes! {
    A001 Unreachable "the admin API cannot be reached"
        "The command asked the running key manager over HTTPS and got no answer. Check that `qkm serve` runs with the same configuration file, that [admin] listen is the address it printed, and that no firewall is between."
    A002 Refused "the admin API refused"
        "The certificate in [operator] is not one of the operators that [admin] names, or it was not issued by the authority in [admin] ca."
    A003 Failed "there is no such key"
        "No stored pool key and no managed object has this identifier here. A pool key is forgotten once it was collected by everybody, expired, or burned."
    A004 Failed "the admin API answered something unexpected"
        "The server at the address is not a qkm of the same version, or it failed. Its log has the reason."
    A005 Failed "the certificate authority is not as asked for"
        "An authority has a name of its own, is made once, and signs in the HSM, which must have P-256 keys. The message says what is wrong; `qkm ca show` shows one that is there."
    A006 Refused "the object is not copied"
        "An object goes to an application that is paired with its own, at both key managers. Keys that never leave their HSM, objects with Usage Limits and keys of the pool between the two clusters are not copied; at the other end the identifier and the Name must be free. The message says what it was."
    A007 Unreachable "the object cannot be copied now"
        "Too few keys on the way, a link that is down, or no answer. The command may be repeated: an object that is there already is found there."
    C001 Usage "the configuration file cannot be read"
        "Check the path and the rights of the file."
    C002 Usage "the configuration file has an error"
        "The file is TOML. The message points at the line. `qkm config example` prints a complete file with comments."
    C003 Usage "the configuration contradicts itself"
        "Each value is well formed, but they do not fit together. The message names the entry to change."
    D001 Failed "the demonstration could not be set up"
        "The demonstration needs the package softhsm2, a writable directory and free ports on 127.0.0.1. The message says which step failed."
    D002 Failed "a part of the demonstration ended by itself"
        "One of the processes that `qkm demo` starts ended. The last lines of its log are shown; run with --keep DIR to have the whole log."
    D003 Failed "the self-check of the demonstration failed"
        "A key did not come out equal at both ends. The logs of both key managers say more; run with --keep DIR to have them."
    E001 Refused "the KEK epoch cannot be changed that way now"
        "An epoch is destroyed only when it is not active, when nothing in the store is sealed under it any more, and when two custodians of [admin] approved within the approval window of [epochs]. `qkm hsm epoch list` shows how far it is."
    E002 Failed "there is no such KEK epoch"
        "`qkm hsm epoch list` shows all of them."
    E003 Failed "the KEK epochs could not be changed"
        "The HSM or the store did not do it; the message and the server's log have the reason. List the epochs to see how far it came, then try again."
    H001 Usage "the HSM is not set up as configured"
        "The PKCS#11 library, the token (by label or serial) or the PIN in [hsm] does not fit what is there. The message lists what was found. Never choose tokens by slot: slot numbers change."
    H002 Unreachable "the HSM is not available"
        "The token is gone, busy, or its service restarts. Check the device and its service, then try again."
    H003 Usage "the HSM cannot do what is needed"
        "The token lacks a mechanism, or its policy forbids it. Enable it in the HSM or choose another profile in [hsm]."
    H004 Failed "the HSM refused sealed data"
        "Sealed data did not open: it was changed, moved, or sealed by another token."
    H005 Failed "the HSM does not behave as its profile says"
        "`qkm hsm test` printed a line FAILED for each check that the token did not pass. Do not keep keys with it before the reason is known: another profile may fit (`qkm hsm profile`), or a copy of one, corrected, as a file."
    J001 Refused "the key manager neither joins nor leaves its cluster so"
        "A key manager joins with what `qkm node join-token` wrote, once and in time; its certificate is made by the authority that [node] names. The message says what does not fit."
    J002 Refused "the key manager was taken out of its cluster"
        "A custodian revoked it (`qkm node revoke`). Its token gets the keys of no later epoch, and it writes nothing into the store. To have it back, let it join again: `qkm node join-token`, `qkm node join`."
    K001 Unreachable "the KMIP server cannot be reached"
        "The command asked the KMIP server over mutual TLS and got no answer that it understands. Check the address, that --ca has the authority of the server's certificate, and that the server knows the client's."
    K002 Refused "the KMIP server refused"
        "The message has the server's Result Reason and text. Objects are seen only by the client that owns them."
    K003 Failed "the key was not written"
        "`qkm kmip export` writes into a new file in a directory that this user may write to. A file that is there already is left alone. Keys in transparent form need --format."
    K004 Usage "a password cannot be read"
        "A password is the first line of a file or of standard input: UTF-8, 1 to 1024 bytes."
    L001 Usage "a network address cannot be used"
        "Another program listens there, the address is not one of this machine, or a port below 1024 needs rights."
    N001 Failed "the orders of the controller cannot be kept"
        "What operators suspend, reserve and pin is kept in the file `orders` of the controller's configuration. Its directory must exist and be writable by the user of the controller."
    N002 Refused "the controller does not know this key manager"
        "A KM reports with the certificate that the [[km]] of its cluster names in the controller's configuration, and for that cluster alone. Check `identity` there, and the certificate in [controller] of the KM."
    N003 Refused "the controller does not do that now"
        "The part of the network is not known, or its state does not allow the step. `qkm controller state` lists all parts; a part that is out of service by itself comes back by itself."
    N004 Refused "the controller does not know this operator"
        "Only the certificates that `operators` in [controller] of the controller's configuration names may look and give orders. The certificate of the command line is in its [operator]."
    N005 Failed "the controller has no routes yet"
        "A controller that has just started waits until every KM of its configuration reported, or for `silence_ms`. KMs keep their routes meanwhile and ask again by themselves."
    P001 Failed "the process could not be protected"
        "qkm forbids core dumps of itself at start, because they would contain keys. The system refused."
    P002 Failed "the memory cannot be locked"
        "[memory] lock = \"require\" asks that nothing of this process is ever written to swap, and the system does not allow it. Set LimitMEMLOCK=infinity in the service's unit, or give the process CAP_IPC_LOCK. With encrypted swap, or none, lock = \"try\" or \"off\" will do."
    Q001 Usage "a QKD module is not set up as configured"
        "The address or the certificate files of the module in [[qkd_link]] cannot be used."
    R001 Unreachable "a random source is away or failed its health test"
        "Keys are made from the sources in [random] and from no other. Check the device in [random.qrng]: it must be a character device or FIFO that this user may read. One that failed its health test gives bytes that are not random: take it out of service, or take it out of the configuration knowingly."
    S001 Failed "the store cannot be opened"
        "The directory in [store] path must exist, be writable, be on a local disk, and be used by one key manager at a time. With engine = \"etcd\" most of its members must run and reach each other: `etcdctl endpoint status --cluster`. A key manager that starts waits some seconds for them."
    S002 Failed "the store was written by a newer qkm"
        "Run the newer version, or point [store] path at an empty directory. Nothing was changed."
    S003 Failed "the store is damaged"
        "Records were changed outside qkm, or the disk failed. Keys in damaged records are never used. Check the disk. With a backup: `qkm store restore`, which burns the pools in it. Without: put the store's directory aside, and start with an empty one, with the same token. The pools fill again from the QKD links; the KMIP objects kept here are lost, so tell the applications that own some."
    S004 Failed "the store belongs to another HSM"
        "The records of this store open only with the token that made it. Point [hsm] at that token, or [store] path at an empty directory."
    S005 Failed "the store needs a KEK that the HSM does not hold"
        "Records of this store are sealed under a KEK epoch whose key is not in the HSM. A copy of the store from before that epoch was destroyed cannot be opened again: that is what the destruction is for. If the key was lost otherwise, restore it from the HSM's backup. Else put the store's directory aside and start with an empty one."
    S006 Refused "the store is not the newest copy"
        "The HSM keeps a count of the starts, ends and intervals of this store, and this copy has another one: it is older than one that ran, or the HSM was set back. Used as it is, it would hand out keys a second time. If the newest copy is at hand, put that one back. If not: `qkm store restore FILE` (without FILE where several key managers share the store) takes this copy, burns all keys of its pools, and makes it the newest. Managed objects stay as the copy has them; what happened to them since is lost."
    S007 Failed "the backup cannot be restored"
        "The file must be a backup of `qkm store backup`, or a copy of a store's directory, made with this HSM; every pool in it must have its [[peer]] in the configuration, so that its keys can be burned; and the key manager must not run."
    S008 Refused "no backup is made now"
        "One backup is made at a time, and the directory `backups` beside the store holds at most 16: each takes as much of the disk as the store. Move them to another machine."
    S009 Usage "this command is for another engine of the store"
        "A store that several key managers share is on etcd, which makes its own backups: `etcdctl snapshot save FILE`. To put one back, stop all key managers, follow etcd's guide to disaster recovery, and then run `qkm store restore` without a file with the configuration of one of them: it burns all keys of the pools, since nobody knows which were handed out after the snapshot was made. An embedded store is backed up with `qkm store backup` and restored with `qkm store restore FILE`."
    S010 Failed "there is no such key manager"
        "No key manager of this name ever told the others that share its store that it runs. `qkm node list` has the names."
    S011 Failed "the store is in use, or on the move"
        "`qkm store migrate` and `qkm store restore` need all key managers of the store stopped. A store whose records were moved to another one is not used any more: use the configuration of that one. While records are being moved into a store it is not used yet: run the same `qkm store migrate` again, which begins anew or does what is left."
    T001 Usage "a certificate file cannot be used"
        "The message names the file. Files are PEM; a private key must be readable by its owner alone (mode 0600)."
    V001 Failed "a check found problems"
        "`qkm doctor` printed a line [failure] for each. Every line says what to do."
    V002 Failed "a simulated network broke a rule"
        "A pad was used twice, an account did not balance, the ends of a key differed, or a route passed a part that was out of service. That is a fault of this program: please report it with the seed and the arguments."
}

impl Code {
    /// As printed and logged, such as `QKM-H001`.
    pub fn id(self) -> String {
        format!("QKM-{}", self.entry().0)
    }

    /// The code printed as `text`, with or without the prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.trim().to_ascii_uppercase();
        let bare = bare.strip_prefix("QKM-").unwrap_or(&bare);
        Self::ALL.iter().copied().find(|code| code.entry().0 == bare)
    }

    /// The exit status that goes with it.
    pub fn exit(self) -> Exit {
        self.entry().1
    }

    /// One line.
    pub fn title(self) -> &'static str {
        self.entry().2
    }

    /// What it means and what to do.
    pub fn explanation(self) -> &'static str {
        self.entry().3
    }
}

/// A place in a text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line itself, for people to recognise.
    pub text: String,
}

/// A failure on its way to a person. Never holds key bytes or PINs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    code: Code,
    what: String,
    place: Option<Place>,
    help: Option<String>,
}

impl Failure {
    /// `what` went wrong.
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self(Box::new(Parts { code, what: what.to_string(), place: None, help: None }))
    }

    /// Where.
    pub fn at(mut self, place: Place) -> Self {
        self.0.place = Some(place);
        self
    }

    /// What to do, when the message does not say so already.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Where in the configuration, if it is there.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// What went wrong, on one line, without code and place.
    pub fn what(&self) -> &str {
        &self.0.what
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { code, what, place, help } = &*self.0;
        write!(f, "error[{}]: {what}", code.id())?;
        if let Some(Place { file, line, column, text }) = place {
            write!(f, "\n  --> {file}:{line}:{column}   {}", text.trim())?;
        }
        if let Some(help) = help {
            write!(f, "\n  help: {help}")?;
        }
        write!(f, "\n  docs: qkm explain {}", code.id())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_what_is_printed_and_says_something() {
        for code in Code::ALL {
            assert_eq!(Code::parse(&code.id()), Some(*code));
            assert_eq!(Code::parse(&code.id().to_lowercase()), Some(*code));
            assert!(code.explanation().len() > 30 && code.exit() != Exit::Done, "{}", code.id());
        }
        assert_eq!(Code::parse("QKM-X999"), None);
    }

    #[test]
    fn a_failure_says_what_where_and_next() {
        let place = Place { file: "q.toml".into(), line: 3, column: 9, text: "  id = 1 ".into() };
        let shown = Failure::new(Code::C002, "wrong").at(place).help("do this").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "error[QKM-C002]: wrong");
        assert_eq!(lines[1], "  --> q.toml:3:9   id = 1");
        assert_eq!(lines[2], "  help: do this");
        assert_eq!(lines[3], "  docs: qkm explain QKM-C002");
    }
}
