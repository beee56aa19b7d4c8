//! Clusters and the links between them: of a shape, or as a file names them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use km_core::{
    ids::{ClusterId, LinkId},
    provenance::Grade,
};
use serde::Deserialize;
use toml::Spanned;

use crate::{plan::Plan, rng::Rng, topology};

/// Most links of a file.
const MOST_LINKS: usize = 10_000;
/// Most secret bits per second of one link.
pub(crate) const MOST_BPS: u64 = 1 << 40;

/// What is simulated; a file of it is `netsim/examples/square.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub(crate) clusters: Vec<ClusterId>,
    pub(crate) links: Vec<Link>,
}

/// A KM link and the pool beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// The lower number first.
    pub(crate) ends: (usize, usize),
    /// Bits per second that come into its pool.
    pub(crate) rate_bps: u64,
    /// What its bits are.
    pub(crate) grade: Grade,
    /// Without QKD: its pool is filled over the KM link.
    pub(crate) without_qkd: bool,
    /// One end is a satellite.
    pub(crate) passes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    clusters: Vec<Spanned<String>>,
    #[serde(default)]
    satellites: Vec<Spanned<String>>,
    link: Vec<FileLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLink {
    between: Spanned<[String; 2]>,
    name: Option<String>,
    rate: Option<u64>,
    #[serde(default = "yes")]
    qkd: bool,
}

fn yes() -> bool {
    true
}

/// What is wrong, and with which bytes of the file.
type Mistake = (Option<Range<usize>>, String);

impl Network {
    pub(crate) fn shaped(plan: &Plan, rng: &mut Rng) -> Self {
        #[allow(clippy::expect_used, reason = "letters and digits are a name")]
        let cluster = |at| ClusterId::parse(&format!("n{at:04}")).expect("a name");
        let satellites = plan.nodes - plan.satellites..plan.nodes;
        let pairs = topology::links(plan.shape, plan.nodes, rng).into_iter().enumerate();
        let links = pairs.map(|(at, ends)| Link {
            id: numbered(at),
            ends,
            rate_bps: plan.rate_bps,
            // Some pools are taken to hold bits that are computational themselves.
            grade: if at % 7 == 3 { Grade::Computational } else { Grade::ItsRelay },
            without_qkd: false,
            passes: satellites.contains(&ends.1),
        });
        Self { clusters: (0..plan.nodes).map(cluster).collect(), links: links.collect() }
    }

    /// Clusters.
    pub fn nodes(&self) -> usize {
        self.clusters.len()
    }

    /// From the text of a file; `rate_bps` is of the links that name none.
    ///
    /// # Errors
    /// What is wrong, in which line, and what to do.
    pub fn parse(text: &str, rate_bps: u64) -> Result<Self, String> {
        let file: Result<File, Mistake> =
            toml::from_str(text).map_err(|error| (error.span(), error.message().to_owned()));
        file.and_then(|file| read(file, rate_bps)).map_err(|(place, what)| match place {
            Some(place) => {
                let before = &text.as_bytes()[..place.start.min(text.len())];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                format!("line {line}: {what}")
            }
            None => what,
        })
    }
}

fn numbered(link: usize) -> LinkId {
    #[allow(clippy::expect_used, reason = "letters and digits are a name")]
    LinkId::parse(&format!("l{link:04}")).expect("a name")
}

fn read(file: File, rate_bps: u64) -> Result<Network, Mistake> {
    let (count, links) = (file.clusters.len(), file.link.len());
    if !(4..=1000).contains(&count) {
        return Err((None, format!("{count} `clusters`: name 4 to 1000")));
    }
    if !(1..=MOST_LINKS).contains(&links) {
        return Err((None, format!("{links} [[link]]: give 1 to {MOST_LINKS}")));
    }
    let (mut clusters, mut index) = (Vec::new(), BTreeMap::new());
    for name in &file.clusters {
        let wrong =
            |what: String| (Some(name.span()), format!("cluster {:?}{what}", name.get_ref()));
        let id = ClusterId::parse(name.get_ref()).map_err(|error| wrong(format!(": {error}")))?;
        if index.insert(name.get_ref().as_str(), clusters.len()).is_some() {
            return Err(wrong(" is named twice: remove one".to_owned()));
        }
        clusters.push(id);
    }
    let known = |name: &str, place: Range<usize>| {
        let unknown = || format!("there is no cluster {name:?}: add it to `clusters`");
        index.get(name).copied().ok_or_else(|| (Some(place), unknown()))
    };
    let mut satellites = BTreeSet::new();
    for name in &file.satellites {
        satellites.insert(known(name.get_ref(), name.span())?);
    }
    let (mut found, mut pairs, mut names) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (at, link) in file.link.into_iter().enumerate() {
        let (place, [a, b]) = (link.between.span(), link.between.get_ref());
        let wrong =
            |what: String| (Some(place.clone()), format!("link of {a:?} and {b:?}: {what}"));
        let (one, two) = (known(a, place.clone())?, known(b, place.clone())?);
        let ends = (one.min(two), one.max(two));
        if one == two {
            return Err(wrong("its ends are one cluster; name two".to_owned()));
        }
        if !pairs.insert(ends) {
            return Err(wrong("there is one already: remove one".to_owned()));
        }
        let id = link.name.map_or_else(|| Ok(numbered(at)), |name| LinkId::parse(&name));
        let id = id.map_err(|error| wrong(format!("its name: {error}")))?;
        if !names.insert(id.clone()) {
            return Err(wrong(format!("another link is {id} too: give it another `name`")));
        }
        let rate_bps = link.rate.unwrap_or(rate_bps);
        if !(1..=MOST_BPS).contains(&rate_bps) {
            return Err(wrong(format!("its `rate` must be 1 to {MOST_BPS} bits per second")));
        }
        found.push(Link {
            id,
            ends,
            rate_bps,
            grade: if link.qkd { Grade::ItsRelay } else { Grade::Computational },
            without_qkd: !link.qkd,
            passes: satellites.contains(&one) || satellites.contains(&two),
        });
    }
    Ok(Network { clusters, links: found })
}
