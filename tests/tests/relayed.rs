//! What an operator sees of relay at the command line, with real processes: orders, single objects that are
//! copied, the accounts of both ends of each link, and the way of a key.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use kmip::{
    attribute::{Attribute, Name},
    client,
    enums::CryptographicAlgorithm,
    op::Answer,
};
use qkm_tests::{
    chain::{Chain, Far, Plan, SAES},
    clients::material,
};

fn said(chain: &Chain, at: usize, arguments: &[&str]) -> String {
    let done = chain.qkm(at, arguments);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{arguments:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

/// The words of each line of a table but its head.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_order_relay_trace_its_keys_and_balance_the_accounts_of_the_network() {
    let far = vec![Far { from: 0, to: 2, lines: "cipher = \"otp-only\"\nmode = \"manual\"" }];
    let chain = Chain::start(Plan { far, ..Plan::default() }).await;
    chain
        .until("an order by hand comes", async || {
            if chain.pool(0, 2).await["stored_bits"].as_u64() > Some(0) {
                return true;
            }
            // Before both links have keys it comes to nothing.
            said(&chain, 2, &["pool", "feed", "a", "--keys", "100"]);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            false
        })
        .await;
    let mut issued = Vec::new();
    chain
        .until("a key for both ends", async || {
            let answer = chain.etsi(0).enc(SAES[2], 1).await;
            issued = answer.ok().filter(|a| a.status == 200).map_or(Vec::new(), |a| a.keys());
            !issued.is_empty()
        })
        .await;
    let (id, key) = issued.remove(0);
    let answer = chain.etsi(2).dec(SAES[0], &[id.as_str()]).await.unwrap();
    assert_eq!((answer.status, answer.keys()), (200, vec![(id.clone(), key.clone())]));

    for at in [0, 2] {
        let trace = said(&chain, at, &["key", "trace", &id]);
        let place = |words: &str| {
            let found = trace.find(words);
            found.unwrap_or_else(|| panic!("no {words:?} in\n{trace}"))
        };
        // From birth over the hops to the applications, in that order.
        let way =
            ["bits born", "link-0", "Shared", "Otp", "its-relay", "sealed by the HSM", SAES[0]];
        let places: Vec<usize> = way.map(place).into();
        assert!(places.is_sorted(), "{places:?}\n{trace}");
        assert!(!trace.contains(&key), "{trace}");
        // Each end knows of its own applications.
        let done = if at == 0 { "handed out" } else { "collected" };
        assert!(place(done) > places[places.len() - 1], "{trace}");
    }

    copies_a_named_object(&chain).await;

    chain.set_sims_paused(true).await;
    for at in 0..chain.clusters() {
        chain
            .until("both ends of every link say the same of its pad", async || {
                let ledger = said(&chain, at, &["pool", "ledger"]);
                let rows = rows(&ledger);
                assert_eq!(rows.len(), 2, "{ledger}");
                assert!(rows.iter().all(|row| row.contains(&"balanced")), "{ledger}");
                assert!(rows.iter().all(|row| !row.contains(&"DIFFER")), "{ledger}");
                rows.iter().all(|row| row.contains(&"agree"))
            })
            .await;
    }
}

/// A key that an application has at one cluster only is copied to a partner where there is no QKD link to.
async fn copies_a_named_object(chain: &Chain) {
    let name = Attribute::Name(Name::text("payroll"));
    let create = client::create(CryptographicAlgorithm::Aes, 256, 0xC, [name]);
    let Answer::Create(created) = chain.kmip(0).ask(create).await.unwrap() else { panic!() };
    let id = created.id.to_string();
    let theirs = chain.kmip(2).ask(client::get(&id)).await;
    assert!(theirs.is_err(), "it is not there yet");
    for (name, told) in [("payroll", "has it now"), (&id, "had it already")] {
        let done = said(chain, 0, &["key", "copy", name, "--to", SAES[2]]);
        assert!(done.contains(told) && done.contains(&id), "{done}");
        assert!(done.contains("grade computational"), "what an HSM drew is not of QKD: {done}");
    }
    let ours = material(&chain.kmip(0).ask(client::get(&id)).await.unwrap()).unwrap();
    let theirs = material(&chain.kmip(2).ask(client::get(&id)).await.unwrap()).unwrap();
    assert_eq!(ours, theirs);
    let trace = said(chain, 2, &["key", "trace", &id]);
    for told in ["HsmRng", "b", "Shared", "Otp", "computational", SAES[2]] {
        assert!(trace.contains(told), "no {told:?} in\n{trace}");
    }
    assert!(
        !trace.contains(&ours) && !chain.log(0).contains(&ours) && !chain.log(2).contains(&ours)
    );
    for (name, to, code) in [("nothing", SAES[2], "A003"), ("payroll", "sae-z", "A003")] {
        let refused = chain.qkm(0, &["key", "copy", name, "--to", to]);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && why.contains(code), "{why}");
    }
}
