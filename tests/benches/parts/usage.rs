//! Keys in use in the token.

use qkm_tests::{
    load::{
        Framing, Target, closed_loop,
        direct::{self, Direct},
        scripts::{Echo, Kmip, encrypt_request, sign_request},
    },
    network::{End, Network},
};

use super::{Bench, CONNECTIONS, spawn_echo};

/// Items of a KMIP request that asks for many at once.
const BATCH: usize = 32;

impl Bench {
    /// Keys in use in the token through KMIP, against the same calls in a plain loop with as many
    /// threads as there are connections.
    pub(crate) async fn usage(&mut self, network: &Network) {
        let target = Target::new(&network.kmip(End::North), &network.tls("sae-n1"), Framing::Kmip);
        let pid = network.pid(End::North);
        let mut first = target.connect().await;
        let site = network.site(End::North);
        let plain = [("kmip_encrypt_1k", Direct::Encrypt), ("kmip_sign_p256", Direct::Sign)];
        for (base, plain) in plain {
            for count in CONNECTIONS {
                let alone = plain.per_second(&site.softhsm_conf, &site.pin_file, count, self.time);
                self.report.add(&format!("{base}_direct_per_s@{count}"), alone, "1/s");
            }
            for items in [1, BATCH] {
                let request = match plain {
                    Direct::Sign => sign_request(&mut first, items).await,
                    _ => encrypt_request(&mut first, direct::BYTES, items).await,
                };
                let name = if items == 1 { base.to_owned() } else { format!("{base}_x{items}") };
                self.used(&name, base, pid, &target, (&request, items)).await;
                if items > 1 {
                    let answer = first.ask(&request).await.expect("the server answers").body.len();
                    self.possible(network, (&name, base), items, (request.len(), answer)).await;
                }
            }
        }
    }

    /// One request over and over, `items` items each; its items are what is compared.
    async fn used(
        &mut self,
        name: &str,
        base: &str,
        pid: u32,
        target: &Target,
        (request, items): (&[u8], usize),
    ) {
        let scripts = async |count| {
            let connections = target.connect_many(count).await;
            let again = |c| Kmip::batch(c, request.to_vec(), items);
            connections.into_iter().map(again).collect::<Vec<_>>()
        };
        self.sweep(&format!("{name}_per_s"), pid, scripts).await;
        for count in CONNECTIONS {
            let of = |name: String| self.report.get(&name).unwrap_or(0.0);
            let done = of(format!("{name}_per_s@{count}")) * items as f64;
            let alone = of(format!("{base}_direct_per_s@{count}"));
            self.report.against(&format!("{name}_of_direct@{count}"), done, "1/s", alone);
        }
    }

    /// What one client that waits for each answer could get at most: the same bytes through the bare TLS echo,
    /// and the same calls, one after the other.
    async fn possible(
        &mut self,
        network: &Network,
        (name, base): (&str, &str),
        items: usize,
        (request, response): (usize, usize),
    ) {
        let (_server, address) = spawn_echo(&network.tls("km-north"), request, response);
        let target = Target::new(&address, &network.tls("sae-n1"), Framing::Fixed(response));
        let echo = vec![Echo::new(target.connect().await, request)];
        let echoes = closed_loop(echo, self.time).await.per_second();
        let of = |name: String| self.report.get(&name).unwrap_or(0.0);
        let calls = of(format!("{base}_direct_per_s@1"));
        let done = of(format!("{name}_of_direct@1"));
        let possible = 1.0 / (1.0 / (echoes * items as f64) + 1.0 / calls);
        self.report.against(&format!("{name}_of_possible@1"), done, "1/s", possible);
    }
}
