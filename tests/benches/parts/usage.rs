//! Keys in use in the token.

use qkm_tests::{
    load::{
        Figures, Framing, Target, closed_loop,
        direct::{self, Direct},
        scripts::{Echo, Kmip, encrypt_request, sign_request},
    },
    network::{End, Network},
};

use super::{Bench, CONNECTIONS, TURNS, loaded, spawn_echo};

/// Items of a KMIP request that asks for many at once.
const BATCH: usize = 32;
/// Requests that a client which does not wait for answers has under way.
const AHEAD: usize = 4;

impl Bench {
    /// Keys in use in the token through KMIP, against the same calls in a plain loop with as many
    /// threads as there are connections.
    pub(crate) async fn usage(&mut self, network: &Network) {
        let target = Target::new(&network.kmip(End::North), &network.tls("sae-n1"), Framing::Kmip);
        let mut first = target.connect().await;
        let plain = [("kmip_encrypt_1k", Direct::Encrypt), ("kmip_sign_p256", Direct::Sign)];
        for (base, plain) in plain {
            for items in [1, BATCH] {
                let request = match plain {
                    Direct::Sign => sign_request(&mut first, items).await,
                    _ => encrypt_request(&mut first, direct::BYTES, items).await,
                };
                let name = if items == 1 { base.to_owned() } else { format!("{base}_x{items}") };
                for count in CONNECTIONS {
                    let asked = (&target, &request[..], items);
                    self.used(network, &name, plain, asked, count).await;
                }
                let asked = (&target, &request[..], items);
                self.pipelined(network, &name, plain, asked).await;
                // Signatures are made in several sessions at once, so there it is no bound.
                if items > 1 && plain == Direct::Encrypt {
                    let answer = first.ask(&request).await.expect("the server answers").body.len();
                    self.possible(network, &name, items, (request.len(), answer)).await;
                }
            }
        }
    }

    /// One request over and over, `items` items each; its items are what is compared.
    async fn used(
        &mut self,
        network: &Network,
        name: &str,
        plain: Direct,
        asked: (&Target, &[u8], usize),
        count: usize,
    ) {
        let (figures, used_us, alone) = self.turns(network, plain, asked, (count, 1)).await;
        let echo = self.report.get(&format!("tls_echo_per_s@{count}"));
        self.rows(&format!("{name}_per_s"), count, &figures, used_us, echo);
        self.report.add(&format!("{name}_direct_per_s@{count}"), alone, "1/s");
        let done = figures.per_second() * asked.2 as f64;
        self.report.against(&format!("{name}_of_direct@{count}"), done, "1/s", alone);
    }

    /// One connection whose client does not wait for an answer before it sends the next request.
    async fn pipelined(
        &mut self,
        network: &Network,
        name: &str,
        plain: Direct,
        asked: (&Target, &[u8], usize),
    ) {
        let (figures, _, alone) = self.turns(network, plain, asked, (1, AHEAD)).await;
        if let Some(failure) = &figures.first_failure {
            println!("{name}, pipelined: {} failures, the first: {failure}", figures.failures);
        }
        let done = figures.per_second() * asked.2 as f64;
        self.report.against(&format!("{name}_pipelined_of_direct@1"), done, "1/s", alone);
    }

    /// `count` connections with `ahead` requests on their way each, in turn with the plain loop; the CPU that
    /// the KM used in microseconds, and what the loop does in a second.
    async fn turns(
        &self,
        network: &Network,
        plain: Direct,
        (target, request, items): (&Target, &[u8], usize),
        (count, ahead): (usize, usize),
    ) -> (Figures, f64, f64) {
        let (site, pid, time) =
            (network.site(End::North), network.pid(End::North), self.time / TURNS);
        let (mut figures, mut used_us, mut alone) = (Figures::default(), 0.0, 0.0);
        for _ in 0..TURNS {
            alone += plain.per_second(&site.softhsm_conf, &site.pin_file, count, time)
                / f64::from(TURNS);
            let connections = target.connect_many(count).await.into_iter();
            let again =
                connections.map(|c| Kmip::batch(c, request.to_vec(), items).pipelined(ahead));
            let (turn, used) = loaded(again.collect(), pid, time).await;
            figures.add(turn);
            used_us += used;
        }
        (figures, used_us, alone)
    }

    /// What one client that waits for each answer could get at most: the same bytes through the bare TLS echo,
    /// and the same calls, one after the other.
    async fn possible(
        &mut self,
        network: &Network,
        name: &str,
        items: usize,
        (request, response): (usize, usize),
    ) {
        let (_server, address) = spawn_echo(&network.tls("km-north"), request, response);
        let target = Target::new(&address, &network.tls("sae-n1"), Framing::Fixed(response));
        let echo = vec![Echo::new(target.connect().await, request)];
        let echoes = closed_loop(echo, self.time).await.per_second();
        let of = |what: &str| self.report.get(&format!("{name}_{what}@1")).unwrap_or(0.0);
        let possible = 1.0 / (1.0 / (echoes * items as f64) + 1.0 / of("direct_per_s"));
        let done = of("of_direct");
        self.report.against(&format!("{name}_of_possible@1"), done, "1/s", possible);
    }
}
