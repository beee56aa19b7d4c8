//! What breaks, and for how long. All of it is by chance, and repeats by seed.

use control::report::Light;

use crate::rng::Rng;

/// How a link is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkState {
    pub(crate) up: bool,
    pub(crate) light: Light,
    pub(crate) qber: f64,
    pub(crate) module_well: bool,
}

impl LinkState {
    pub(crate) const WELL: Self =
        Self { up: true, light: Light::Up, qber: 0.02, module_well: true };

    /// Whether keys are made.
    pub(crate) fn makes_keys(&self) -> bool {
        self.up && self.light == Light::Up && self.qber <= 0.08 && self.module_well
    }
}

/// One thing that broke.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) until_s: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    KmLink(usize),
    Cut(usize),
    Tapped(usize),
    Module(usize),
    Km(usize),
    /// No controller: routes stay as they are.
    Controller,
}

pub(crate) fn strike(nodes: usize, links: usize, now_s: u64, rng: &mut Rng) -> Fault {
    let link = rng.below(links);
    let kind = match rng.below(12) {
        0..3 => Kind::KmLink(link),
        3..5 => Kind::Cut(link),
        5..7 => Kind::Tapped(link),
        7..9 => Kind::Module(link),
        9..11 => Kind::Km(rng.below(nodes)),
        _ => Kind::Controller,
    };
    Fault { kind, until_s: now_s + 60 + rng.next() % 1800 }
}

/// Whether a satellite passes over the ground station now: ten minutes in 95, each at its time.
pub(crate) fn passes(link: usize, now_s: u64) -> bool {
    (now_s + link as u64 * 1717) % 5700 < 600
}
