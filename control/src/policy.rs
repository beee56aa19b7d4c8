//! What operators ask of the routes (7.3): pin, forbid, prefer, ration, and the ciphers allowed; and when
//! pools are fed by relay (6.2e).
//! One rule a policy, perhaps at certain hours only.

use std::{fmt, str::FromStr};

use km_core::{
    feeding::Mode,
    ids::ClusterId,
    route::{CipherPolicy, MAX_HOPS},
};
use serde::{Deserialize, Serialize};

use crate::component::{Component, Pair};

/// Most policies.
pub const MAX_POLICIES: usize = 4096;
/// What a preferred or unloved part costs, in percent, at most.
pub const MAX_PERCENT: u32 = 10_000;

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Policy {
    /// What it asks.
    pub rule: Rule,
    /// When; absent: always.
    pub hours: Option<Hours>,
}

/// What a policy asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Keys between the two go this way while it is in service.
    Pin(Pin),
    /// No key goes through it.
    Forbid(Forbid),
    /// It costs more or less than its stock and rate say.
    Prefer(Prefer),
    /// No more than so many bits of others' keys over it.
    Ration(Ration),
    /// Which hop ciphers are allowed.
    Cipher(CipherRule),
    /// When pools are fed by relay.
    Feed(FeedRule),
}

/// The way for keys between two clusters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The two ends.
    pub between: [ClusterId; 2],
    /// The nodes between, from the first end to the second.
    pub via: Vec<ClusterId>,
    /// Rather no key than another way.
    #[serde(default)]
    pub strict: bool,
}

/// A part that keys do not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forbid {
    /// A KM (never as a middle node) or a KM link.
    pub part: Component,
    /// For keys between these two only; absent: for all.
    #[serde(default)]
    pub between: Option<[ClusterId; 2]>,
}

/// What a KM link costs, in percent of what it would cost else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefer {
    /// Its ends.
    pub link: [ClusterId; 2],
    /// 1 to 10000; below 100 it is preferred.
    pub percent: u32,
}

/// A ration of a scarce pool, such as one fed by satellite passes (9.4). Routes follow it, and each KM
/// keeps to its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ration {
    /// The ends of its KM link.
    pub link: [ClusterId; 2],
    /// Bits in a second, shared by all who relay over it.
    pub bits_per_s: u64,
}

/// The ciphers of hops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CipherRule {
    /// For keys between these two only; absent: for all that no other rule names.
    #[serde(default)]
    pub between: Option<[ClusterId; 2]>,
    /// What is allowed.
    pub allow: CipherPolicy,
}

/// When a pool is fed by relay, whatever its KMs are set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedRule {
    /// The pool between these two only; absent: all that no other rule names.
    #[serde(default)]
    pub between: Option<[ClusterId; 2]>,
    /// When.
    pub when: Mode,
}

/// A part of each day, in UTC, as `09:00-21:00`; it may pass midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

const DAY: u16 = 24 * 60;

impl Hours {
    /// Whether the moment, in milliseconds since the Unix epoch, lies in it.
    pub fn cover(self, now_ms: u64) -> bool {
        let minute = (now_ms / 60_000 % u64::from(DAY)) as u16;
        match self.from <= self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl FromStr for Hours {
    type Err = BadPolicy;
    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let minutes = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            let minutes = (hour <= 24 && minute < 60).then(|| hour * 60 + minute)?;
            (minutes <= DAY).then_some(minutes)
        };
        let ends = text.split_once('-').and_then(|(from, to)| minutes(from).zip(minutes(to)));
        let hours = ends.filter(|(from, to)| from != to).map(|(from, to)| Self { from, to });
        hours.ok_or(BadPolicy("hours must be written as 09:00-21:00 (UTC)"))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// A policy that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPolicy(&'static str);

/// As written: one of the six.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<Pin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forbid: Option<Forbid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefer: Option<Prefer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ration: Option<Ration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher: Option<CipherRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<FeedRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<String>,
}

impl TryFrom<Written> for Policy {
    type Error = BadPolicy;
    fn try_from(written: Written) -> Result<Self, BadPolicy> {
        let mut rules = [
            written.pin.map(Rule::Pin),
            written.forbid.map(Rule::Forbid),
            written.prefer.map(Rule::Prefer),
            written.ration.map(Rule::Ration),
            written.cipher.map(Rule::Cipher),
            written.feed.map(Rule::Feed),
        ]
        .into_iter()
        .flatten();
        let (Some(rule), None) = (rules.next(), rules.next()) else {
            return Err(BadPolicy("a policy has one of pin, forbid, prefer, ration, cipher, feed"));
        };
        rule.check()?;
        Ok(Self { rule, hours: written.hours.map(|text| text.parse()).transpose()? })
    }
}

impl TryFrom<Rule> for Policy {
    type Error = BadPolicy;
    /// At all hours.
    fn try_from(rule: Rule) -> Result<Self, BadPolicy> {
        rule.check()?;
        Ok(Self { rule, hours: None })
    }
}

impl From<Policy> for Written {
    fn from(policy: Policy) -> Self {
        let mut written =
            Self { hours: policy.hours.map(|hours| hours.to_string()), ..Self::default() };
        match policy.rule {
            Rule::Pin(rule) => written.pin = Some(rule),
            Rule::Forbid(rule) => written.forbid = Some(rule),
            Rule::Prefer(rule) => written.prefer = Some(rule),
            Rule::Ration(rule) => written.ration = Some(rule),
            Rule::Cipher(rule) => written.cipher = Some(rule),
            Rule::Feed(rule) => written.feed = Some(rule),
        }
        written
    }
}

impl Rule {
    fn check(&self) -> Result<(), BadPolicy> {
        let two = |ends: &[ClusterId; 2]| match ends[0] == ends[1] {
            true => Err(BadPolicy("the two clusters of a policy must differ")),
            false => Ok(()),
        };
        match self {
            Self::Pin(pin) => {
                let mut all: Vec<_> = pin.between.iter().chain(&pin.via).collect();
                all.sort();
                match pin.via.len() < MAX_HOPS && all.windows(2).all(|two| two[0] != two[1]) {
                    true => Ok(()),
                    false => Err(BadPolicy("a pinned way passes each cluster once, 32 at most")),
                }
            }
            Self::Forbid(Forbid { part, between }) => {
                between.as_ref().map_or(Ok(()), two)?;
                match part {
                    Component::Km(_) | Component::KmLink(_) => Ok(()),
                    _ => Err(BadPolicy("only km/NAME and km-link/A~B can be forbidden")),
                }
            }
            Self::Prefer(Prefer { link, percent }) => {
                two(link)?;
                match (1..=MAX_PERCENT).contains(percent) {
                    true => Ok(()),
                    false => Err(BadPolicy("percent must be 1 to 10000")),
                }
            }
            Self::Ration(Ration { link, .. }) => two(link),
            Self::Cipher(CipherRule { between, .. }) | Self::Feed(FeedRule { between, .. }) => {
                between.as_ref().map_or(Ok(()), two)
            }
        }
    }
}

/// The policies of one moment, asked pair by pair.
pub(crate) struct Active<'a> {
    rules: Vec<&'a Rule>,
}

impl<'a> Active<'a> {
    /// Those in force at `now`.
    pub(crate) fn at(policies: impl Iterator<Item = &'a Policy>, now: u64) -> Self {
        let holds = |policy: &&Policy| policy.hours.is_none_or(|hours| hours.cover(now));
        Self { rules: policies.filter(holds).map(|policy| &policy.rule).collect() }
    }

    /// The last pin of a pair, its way from the lower end to the higher.
    pub(crate) fn pin(&self, pair: &Pair) -> Option<(Vec<ClusterId>, bool)> {
        self.rules.iter().rev().find_map(|rule| match rule {
            Rule::Pin(pin) if Pair::new(&pin.between[0], &pin.between[1]) == *pair => {
                let mut way = vec![pin.between[0].clone()];
                way.extend(pin.via.iter().cloned());
                way.push(pin.between[1].clone());
                if way[0] != *pair.ends().0 {
                    way.reverse();
                }
                Some((way, pin.strict))
            }
            _ => None,
        })
    }

    fn forbids(&self, pair: &Pair) -> impl Iterator<Item = &'a Component> {
        self.rules.iter().filter_map(move |rule| match rule {
            Rule::Forbid(Forbid { part, between }) => {
                let concerns = between.as_ref().is_none_or(|[a, b]| Pair::new(a, b) == *pair);
                concerns.then_some(part)
            }
            _ => None,
        })
    }

    /// Whether keys between the ends of `pair` must not pass the node.
    pub(crate) fn forbids_node(&self, pair: &Pair, node: &ClusterId) -> bool {
        let end = *node == *pair.ends().0 || *node == *pair.ends().1;
        !end && self.forbids(pair).any(|part| *part == Component::Km(node.clone()))
    }

    /// Whether they must not pass the KM link.
    pub(crate) fn forbids_link(&self, pair: &Pair, link: &Pair) -> bool {
        self.forbids(pair).any(|part| matches!(part, Component::KmLink(other) if other == link))
    }

    /// Whether anything is forbidden between the ends of `pair`.
    pub(crate) fn forbids_any(&self, pair: &Pair) -> bool {
        self.forbids(pair).next().is_some()
    }

    /// What a KM link costs, in percent.
    pub(crate) fn percent(&self, link: &Pair) -> u64 {
        let last = self.rules.iter().rev().find_map(|rule| match rule {
            Rule::Prefer(rule) if Pair::new(&rule.link[0], &rule.link[1]) == *link => {
                Some(rule.percent)
            }
            _ => None,
        });
        last.map_or(100, u64::from)
    }

    /// The ration of a KM link, in bits per second.
    pub(crate) fn ration(&self, link: &Pair) -> Option<u64> {
        let rations = self.rules.iter().filter_map(|rule| match rule {
            Rule::Ration(rule) if Pair::new(&rule.link[0], &rule.link[1]) == *link => {
                Some(rule.bits_per_s)
            }
            _ => None,
        });
        rations.min()
    }

    /// The ciphers allowed between two clusters.
    pub(crate) fn cipher(&self, pair: &Pair) -> CipherPolicy {
        let last = self.last(pair, |rule| match rule {
            Rule::Cipher(CipherRule { between, allow }) => Some((between, *allow)),
            _ => None,
        });
        last.unwrap_or_default()
    }

    /// When the pool between two clusters is fed; `None` where no policy says so.
    pub(crate) fn feed(&self, pair: &Pair) -> Option<Mode> {
        self.last(pair, |rule| match rule {
            Rule::Feed(FeedRule { between, when }) => Some((between, when.clone())),
            _ => None,
        })
    }

    /// What the last rule says that names the pair, or else the last that names none.
    fn last<T>(
        &self,
        pair: &Pair,
        says: impl Fn(&'a Rule) -> Option<(&'a Option<[ClusterId; 2]>, T)>,
    ) -> Option<T> {
        let find = |of: Option<&Pair>| {
            self.rules.iter().rev().find_map(|rule| {
                let (between, said) = says(rule)?;
                let named = between.as_ref().map(|[a, b]| Pair::new(a, b));
                (named.as_ref() == of).then_some(said)
            })
        };
        find(Some(pair)).or_else(|| find(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_pass_midnight() {
        let at = |hour: u64, minute: u64| (hour * 60 + minute) * 60_000;
        let day: Hours = "09:00-21:30".parse().unwrap();
        assert!(day.cover(at(9, 0)) && day.cover(at(21, 29)) && !day.cover(at(21, 30)));
        let night: Hours = "22:00-06:00".parse().unwrap();
        assert!(night.cover(at(23, 59)) && night.cover(at(5, 59)) && !night.cover(at(6, 0)));
        assert_eq!(night.to_string(), "22:00-06:00");
        let huge = ["1093:00-10:00", "09:00-65535:59", "09:65535-10:00", "24:01-25:00"];
        let short = ["", "9", "09:00", "09:00-09:00", "25:00-26:00", "09:61-10:00"];
        for bad in short.into_iter().chain(huge) {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
    }
}
