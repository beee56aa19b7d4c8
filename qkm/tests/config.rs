//! The configuration: what is accepted, and where mistakes are shown.
#![allow(clippy::unwrap_used)]

mod common;

use common::{qkm, text};
use km_core::route::CipherPolicy;
use kmip_server::policy::Sent;
use qkm::{
    config::{Config, EXAMPLE},
    fault::{Code, Failure},
};
use relay::{Scheme, feed::Mode};

fn mistake(from: &str, to: &str) -> Failure {
    assert!(EXAMPLE.contains(from), "the example lacks {from:?}");
    Config::parse(&EXAMPLE.replacen(from, to, 1), &"qkm.toml").unwrap_err()
}

#[test]
fn the_example_is_accepted_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qkm.toml");
    let example = qkm(&["config", "example"]);
    assert_eq!(text(&example.stdout), EXAMPLE);
    std::fs::write(&file, &example.stdout).unwrap();
    let checked = qkm(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("cluster north, 1 peer(s), 1 application(s)"));
}

#[test]
fn what_the_example_leaves_out_is_the_default() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ").filter(|l| l.contains(" = ")) {
            // Only whole entries: prose with a sign in it is not one, nor is a further token.
            Some(entry) if entry.starts_with("token = {") => "".to_owned(),
            // Of [node], which comes with another store.
            Some(entry) if entry.starts_with("address = \"km1.north") => "".to_owned(),
            Some(entry) if entry.split(' ').next().is_some_and(is_entry) => format!("{entry}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let uncommented = uncommented
        .replace("# [debug]\n", "[debug]\n")
        .replace("# [[peer]]\n", "[[peer]]\n")
        .replace("# [[relay]]\n", "[[relay]]\n")
        .replace("# [random.qrng]\n", "[random.qrng]\n");
    let (with, without) =
        (Config::parse(&uncommented, &"with").unwrap(), Config::parse(EXAMPLE, &"").unwrap());
    assert_eq!(with.hsm.deadline_ms, without.hsm.deadline_ms);
    assert_eq!(with.hsm.kek_label, without.hsm.kek_label);
    assert_eq!(with.peers[0].max_stored, without.peers[0].max_stored);
    assert_eq!(with.peers[0].storage, without.peers[0].storage);
    assert_eq!(with.token_objects, without.token_objects);
    assert_eq!(with.limits, without.limits);
    assert_eq!(with.random.token, without.random.token);
    let unsaid = uncommented.replace("deadline_ms = 2000        # longest wait for one read\n", "");
    assert_ne!(unsaid, uncommented);
    for config in [&with, &Config::parse(&unsaid, &"unsaid").unwrap()] {
        let deadline = config.random.qrng.as_ref().unwrap().deadline;
        assert_eq!(deadline, std::time::Duration::from_secs(2));
    }
    assert!(without.random.qrng.is_none());
    assert_eq!(with.memory_lock, without.memory_lock);
    assert_eq!(with.dumpable, without.dumpable);
    let report = |config: &Config| config.controller.as_ref().unwrap().report;
    assert_eq!(report(&with), report(&without));
    let interval = |config: &Config| config.peers[0].qkd[0].module.status_interval_ms;
    assert_eq!(interval(&with), interval(&without));
    let relay = with.peers[1].relay.as_ref().unwrap();
    assert_eq!(relay.route.as_ref().unwrap().cipher(), CipherPolicy::default());
    assert_eq!(relay.scheme, Scheme::default());
    assert_eq!(relay.mode, Mode::Watermark { low: 256 << 10, high: 1024 << 10 });
    let connections = |config: &Config| config.etsi014.as_ref().unwrap().connections;
    assert_eq!(connections(&with), connections(&without));
}

fn is_entry(name: &str) -> bool {
    [
        "token_objects",
        "report_ms",
        "status_interval_ms",
        "storage",
        "lock",
        "token",
        "path",
        "min_entropy",
        "library",
        "kek_label",
        "sessions",
        "deadline_ms",
        "cluster",
        "address",
        "ways",
        "to",
        "via",
        "cipher",
        "scheme",
        "mode",
        "connections",
        "allow_remote",
        "dumpable",
    ]
    .contains(&name)
        || ["max_stored_mib", "server_name", "key_size_bits", "status_path", "identity"]
            .contains(&name)
}

#[test]
fn mistakes_are_shown_with_line_column_and_what_to_do() {
    let cases = [
        (
            "id = \"north\"",
            "name = \"north\"",
            Code::C002,
            "unknown field `name`",
            "name = \"north\"",
        ),
        (
            "id = \"north\"",
            "id = \"no rth\"",
            Code::C002,
            "a cluster ID must be",
            "id = \"no rth\"",
        ),
        (
            "max_keys_per_request = 128",
            "max_keys_per_request = 0",
            Code::C003,
            "1 to 2048",
            "[supply]",
        ),
        ("min_key_size = 64", "min_key_size = 60", Code::C003, "multiples of 8", "[supply]"),
        ("key_size = 256  ", "key_size = 65536", Code::C003, "must not decrease", "[supply]"),
        (
            "listen = \"127.0.0.1:9464\"",
            "listen = \"0.0.0.0:9464\"",
            Code::C003,
            "plain HTTP",
            "[monitor]",
        ),
        (
            "operators = [\"cn:operator\"]",
            "operators = []",
            Code::C003,
            "names no operators",
            "[admin]",
        ),
        (
            "identity = \"uri:urn",
            "identity = \"urn",
            Code::C002,
            "is not an identity rule",
            "identity",
        ),
        ("address = \"km.south.example:7443\"", "", Code::C003, "dials south", "[[peer]]"),
        ("cluster = \"south\"", "cluster = \"north\"", Code::C003, "its own peer", "[[peer]]"),
        ("peer = \"south\"", "peer = \"west\"", Code::C003, "which is no [[peer]]", "[[qkd_link]]"),
        ("certificate = \"cn:sae-n1\"", "", Code::C003, "is not named", "[[sae]]"),
        ("id = \"sae-s1\"", "id = \"sae-n1\"", Code::C003, "registered twice", "[[sae]]"),
        ("\"sae-n1\", \"sae-s1\"]", "\"sae-n1\", \"ghost\"]", Code::C003, "ghost", "[[pair]]"),
        ("profile = \"softhsm2\"", "profile = 2", Code::C002, "invalid type", "profile = 2"),
        ("[store]", "[store", Code::C002, "", "[store"),
    ];
    for (from, to, code, what, line) in cases {
        let failure = mistake(from, to);
        assert_eq!(failure.code(), code, "{failure}");
        assert!(failure.to_string().contains(what), "{what:?} is not in: {failure}");
        let place = failure.place().unwrap_or_else(|| panic!("no place: {failure}"));
        assert!(place.text.contains(line), "{from:?} is shown at {place:?}");
        assert!(failure.to_string().contains("help: "), "{failure}");
    }
}

#[test]
fn a_relay_must_lead_somewhere_over_a_neighbour_in_a_way_that_makes_sense() {
    let west =
        "\n[[peer]]\ncluster = \"west\"\naddress = \"w:1\"\nidentity = \"cn:w\"\n[[relay]]\n";
    let cases = [
        ("to = \"east\"", "which is no [[peer]]"),
        ("to = \"south\"", "is fed already"),
        ("to = \"west\"\nvia = [\"east\"]", "cannot begin with east"),
        ("to = \"west\"\nvia = [\"south\", \"south\"]", "passes south twice"),
        ("to = \"west\"\nmode = \"rate\"", "needs rate_bps"),
        ("to = \"west\"\nmode = \"schedule\"\nwindows = [\"25:00-1:00\"]", "needs windows"),
        ("to = \"west\"\nlow_kib = 9\nhigh_kib = 8", "low_kib not more"),
        ("to = \"west\"\nways = 2", "2 ways need as many QKD links"),
    ];
    for (entry, what) in cases {
        let failure = Config::parse(&format!("{EXAMPLE}{west}{entry}\n"), &"qkm.toml").unwrap_err();
        assert!(failure.to_string().contains(what), "{what:?} is not in: {failure}");
        assert!(failure.place().is_some(), "{failure}");
    }
    let good = format!("{EXAMPLE}{west}to = \"west\"\nvia = [\"south\"]\nmode = \"on-demand\"\n");
    let config = Config::parse(&good, &"qkm.toml").unwrap();
    assert_eq!(config.peers[1].relay.as_ref().unwrap().mode, Mode::OnDemand);
    // What the controller's routes may use too.
    let strict = format!("{EXAMPLE}{west}to = \"west\"\ncipher = \"otp-only\"\n");
    let config = Config::parse(&strict, &"qkm.toml").unwrap();
    let relay = config.peers[1].relay.as_ref().unwrap();
    assert_eq!((relay.cipher, relay.route.is_none()), (CipherPolicy::OtpOnly, true));
    // Without one nobody gives a way.
    let from = EXAMPLE.find("\n[controller]\n").unwrap();
    let until = from + 1 + EXAMPLE[from + 1..].find("\n[").unwrap();
    let alone = [&EXAMPLE[..from], &EXAMPLE[until..]].concat();
    assert!(
        Config::parse(&format!("{alone}{west}to = \"west\"\nvia = [\"south\"]\n"), &"q").is_ok()
    );
    for ways in ["", "ways = 2\n"] {
        let text = format!("{alone}{west}to = \"west\"\n{ways}");
        let failure = Config::parse(&text, &"qkm.toml").unwrap_err().to_string();
        assert!(failure.contains("nobody says which way keys for west go"), "{failure}");
    }
}

#[test]
fn applications_share_tenants_and_certificates_only_as_far_as_they_are_told_apart() {
    let hash = password_hash("first");
    let sae = |more: &str| format!("\n[[sae]]\nid = \"x\"\nclusters = [\"north\"]\n{more}\n");
    let bank = "\n[[tenant]]\nid = \"bank\"\nmax_objects = 10\nmax_mib = 2\n";
    let alike = "certificate = \"cn:sae-n1\"";
    let own = "certificate = \"cn:x\"";
    let login = format!("login = {{ username = \"a\", password = \"{hash}\" }}");
    let cases = [
        (sae(alike), "have the same certificate rule"),
        (sae(&format!("{alike}\nlogin = {{ username = \"a\", password = \"{hash}\" }}")), "same"),
        (sae(&format!("{own}\nlogin = {{ username = \"a\", password = \"first\" }}")), "qkm kmip"),
        (
            sae(&format!("{own}\nlogin = {{ username = \"\", password = \"{hash}\" }}")),
            "no user name",
        ),
        (sae(&format!("{own}\ntenant = \"bank\"")), "add [[tenant]]"),
        (sae(&format!("{own}\noperations = [\"Read\"]")), "not a KMIP operation"),
        (sae(&format!("{own}\nnotify = {{ address = \"here\" }}")), "no address to tell x"),
        (
            sae(&format!("{own}\nnotify = {{ address = \"a:1\", version = \"3.0\" }}")),
            "not a version",
        ),
        (sae(&format!("{own}\nnotify = {{ address = \"a:1\", put = \"some\" }}")), "some"),
        (
            sae(&format!("{own}\n{login}\nnotify = {{ address = \"a:1\", put = \"all\" }}")),
            "no Put asks",
        ),
        (sae(&format!("{own}\nconnections = 0")), "nonzero"),
        (
            sae(&format!("{own}\ntenant = \"sae-n1\"\nstorage = \"token\""))
                + &bank.replace("bank", "sae-n1"),
            "not their storage",
        ),
        (format!("{bank}{bank}"), "configured twice"),
    ];
    for (entry, what) in cases {
        let failure = Config::parse(&format!("{EXAMPLE}{entry}"), &"qkm.toml").unwrap_err();
        assert!(failure.to_string().contains(what), "{what:?} is not in: {failure}");
        assert!(failure.place().is_some(), "{failure}");
        assert!(failure.to_string().contains("help: "), "{failure}");
    }
    let more =
        format!("{own}\n{login}\ntenant = \"bank\"\noperations = [\"Get\"]\nconnections = 2");
    let more = format!("{more}\nnotify = {{ address = \"app:1\" }}");
    let alone = sae("certificate = \"cn:z\"").replace("\"x\"", "\"z\"");
    let alone = format!("{alone}notify = {{ put = \"successors\" }}\n");
    let second = sae(own).replace("\"x\"", "\"y\"");
    let second = format!("{second}login = {{ username = \"b\", password = \"{hash}\" }}\n");
    let text = format!("{EXAMPLE}{bank}{}{second}{alone}", sae(&more));
    let config = Config::parse(&text, &"qkm.toml");
    let config = config.unwrap();
    let x = km_core::ids::SaeId::parse("x").unwrap();
    let policy = &config.policies[&x];
    assert_eq!(policy.tenant.as_ref().unwrap().as_str(), "bank");
    assert_eq!(policy.operations.as_ref().unwrap().len(), 1);
    for (sae, sent) in [("x", Sent::Nothing), ("z", Sent::Successors)] {
        let policy = &config.policies[&km_core::ids::SaeId::parse(sae).unwrap()];
        let told = policy.endpoint.as_ref().unwrap();
        assert_eq!((told.version, told.sent), (kmip::Version::V2_1, sent));
    }
    assert_eq!(config.quotas[policy.tenant.as_ref().unwrap()].bytes, 2 << 20);
    assert!(config.directory().subjects().any(|sae| *sae == x));
    let alone = config.directory_without_logins();
    let alone: Vec<&str> = alone.subjects().map(|sae| sae.as_str()).collect();
    assert_eq!(alone, ["sae-n1", "z"], "a certificate is not enough");
    assert!(!format!("{config:?}").contains(&hash), "hashes stay out of debug");
}

/// What `qkm kmip password` prints for `password`.
fn password_hash(password: &str) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new(common::program())
        .args(["kmip", "password"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout).trim().to_owned()
}

#[test]
fn a_peer_without_our_km_link_is_refused() {
    let start = EXAMPLE.find("[km_link]").unwrap();
    let end = EXAMPLE.find("# Plain HTTP").unwrap();
    let text = format!("{}{}", &EXAMPLE[..start], &EXAMPLE[end..]);
    let failure = Config::parse(&text, &"qkm.toml").unwrap_err();
    assert!(failure.what().contains("no [km_link]"), "{failure}");
}

#[test]
fn wrong_usage_ends_with_status_2() {
    assert_eq!(qkm(&["serve", "--config", "/nonexistent.toml"]).status.code(), Some(2));
    assert_eq!(qkm(&["serve", "--no-such-flag"]).status.code(), Some(2));
    let unknown = qkm(&["explain", "QKM-Z999"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).starts_with("error[QKM-C002]"), "{}", text(&unknown.stderr));
    let known = qkm(&["explain", "qkm-h001"]);
    assert_eq!(known.status.code(), Some(0));
    assert!(text(&known.stdout).contains("Never choose tokens by slot"));
    assert!(text(&qkm(&["completions", "bash"]).stdout).contains("_qkm()"));
    assert_eq!(text(&qkm(&["version"]).stdout), format!("qkm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_network_of_a_file_is_simulated_and_its_mistakes_are_shown() {
    let square = concat!(env!("CARGO_MANIFEST_DIR"), "/../netsim/examples/square.toml");
    let sim = |topology: &str, more: &[&str]| {
        let run = ["sim", "network", "--hours", "0.1", "-o", "json", "--topology", topology];
        qkm(&[&run, more].concat())
    };
    let done = sim(square, &[]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&summary["summary"]["nodes"], &summary["summary"]["links"]),
        (&6.into(), &7.into())
    );
    let refused = |topology: &str, more: &[&str]| {
        let refused = sim(topology, more);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
        text(&refused.stderr)
    };
    for more in [["--nodes", "6"], ["--satellites", "1"]] {
        let said = refused(square, &more);
        assert!(said.contains("leave out --nodes and --satellites"), "{said}");
    }
    let said = refused("rign", &[]);
    assert!(said.contains("rign") && said.contains("ring, mesh, backbone, random"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("network.toml");
    let wrong = std::fs::read_to_string(square).unwrap().replace("\"n-e\"", "7");
    std::fs::write(&file, wrong).unwrap();
    let said = refused(file.to_str().unwrap(), &[]);
    assert!(said.contains("network.toml: line 13: "), "{said}");
}
