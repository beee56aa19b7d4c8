//! The parts of the network and their states (7.2). Every change of a state is in the one table of
//! [`State::after`].

use std::{fmt, str::FromStr};

use km_core::ids::{ClusterId, LinkId};
use serde::{Deserialize, Serialize};

/// Two neighbours, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair(ClusterId, ClusterId);

impl Pair {
    /// Of the two, in either order.
    pub fn new(a: &ClusterId, b: &ClusterId) -> Self {
        match a <= b {
            true => Self(a.clone(), b.clone()),
            false => Self(b.clone(), a.clone()),
        }
    }
    /// The ends.
    pub fn ends(&self) -> (&ClusterId, &ClusterId) {
        (&self.0, &self.1)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.0, self.1)
    }
}

/// A part of the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Component {
    /// The KMs of a cluster: `km/NAME`.
    Km(ClusterId),
    /// A KM link: `km-link/A~B`.
    KmLink(Pair),
    /// A classical channel of a KM link, counted from 0: `channel/A~B/0`.
    Channel(Pair, u8),
    /// A QKD link: `qkd-link/ID`.
    QkdLink(LinkId),
    /// The module of a QKD link at a cluster: `module/ID/NAME`.
    Module(LinkId, ClusterId),
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Km(cluster) => write!(f, "km/{cluster}"),
            Self::KmLink(pair) => write!(f, "km-link/{pair}"),
            Self::Channel(pair, number) => write!(f, "channel/{pair}/{number}"),
            Self::QkdLink(link) => write!(f, "qkd-link/{link}"),
            Self::Module(link, cluster) => write!(f, "module/{link}/{cluster}"),
        }
    }
}

/// No part of the network is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no part of the network; write km/NAME, km-link/A~B, channel/A~B/0, qkd-link/ID or \
     module/ID/NAME"
)]
pub struct BadComponent(String);

impl FromStr for Component {
    type Err = BadComponent;

    fn from_str(text: &str) -> Result<Self, BadComponent> {
        let bad = || BadComponent(text.chars().take(200).collect());
        let pair = |text: &str| {
            let (a, b) = text.split_once('~')?;
            Some(Pair::new(&ClusterId::parse(a).ok()?, &ClusterId::parse(b).ok()?))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let found = match parts.as_slice() {
            ["km", name] => ClusterId::parse(name).ok().map(Self::Km),
            ["km-link", ends] => pair(ends).map(Self::KmLink),
            ["channel", ends, number] => {
                pair(ends).zip(number.parse().ok()).map(|(pair, n)| Self::Channel(pair, n))
            }
            ["qkd-link", link] => LinkId::parse(link).ok().map(Self::QkdLink),
            ["module", link, name] => {
                let (link, name) = (LinkId::parse(link).ok(), ClusterId::parse(name).ok());
                link.zip(name).map(|(link, name)| Self::Module(link, name))
            }
            _ => None,
        };
        found.ok_or_else(bad)
    }
}

impl TryFrom<String> for Component {
    type Error = BadComponent;
    fn try_from(text: String) -> Result<Self, BadComponent> {
        text.parse()
    }
}

impl From<Component> for String {
    fn from(component: Component) -> String {
        component.to_string()
    }
}

/// Why a part is out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Out {
    /// It does not work; it comes back by itself.
    Fault,
    /// An operator took it out; an operator brings it back.
    Suspended,
}

/// The four states of 7.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Used.
    InService,
    /// Not to be used.
    OutOfService(Out),
    /// Could be used, is not now.
    Standby,
    /// Kept for a purpose of the operator; never used by itself.
    Reserved,
}

/// What changes a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The controller begins to use it.
    Promote,
    /// The controller uses another instead.
    Demote,
    /// A fault was seen.
    Fail,
    /// The fault is over.
    Recover,
    /// An operator takes it out of service.
    Suspend,
    /// An operator gives it back.
    Resume,
    /// An operator keeps it for a purpose.
    Reserve,
    /// That purpose is over.
    Release,
}

/// A step that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a component {from} cannot {step}", from = .from.as_str(), step = .step.as_str())]
pub struct BadStep {
    /// The state it is in.
    pub from: State,
    /// What was wanted.
    pub step: Step,
}

impl State {
    /// The one table.
    ///
    /// # Errors
    /// Every step that is not in it.
    pub fn after(self, step: Step) -> Result<Self, BadStep> {
        use State::{InService, OutOfService, Reserved, Standby};
        Ok(match (self, step) {
            (Standby, Step::Promote) => InService,
            (InService, Step::Demote) => Standby,
            (InService | Standby, Step::Fail) => OutOfService(Out::Fault),
            (OutOfService(Out::Fault), Step::Recover) => Standby,
            (InService | Standby | OutOfService(Out::Fault), Step::Suspend) => {
                OutOfService(Out::Suspended)
            }
            (OutOfService(Out::Suspended), Step::Resume) => Standby,
            (InService | Standby | OutOfService(_), Step::Reserve) => Reserved,
            (Reserved, Step::Release) => Standby,
            (from, step) => return Err(BadStep { from, step }),
        })
    }

    /// The name shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InService => "in service",
            Self::OutOfService(Out::Fault) => "out of service",
            Self::OutOfService(Out::Suspended) => "out of service (suspended)",
            Self::Standby => "standby",
            Self::Reserved => "reserved",
        }
    }
}

impl Step {
    /// As a verb.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "be promoted",
            Self::Demote => "be demoted",
            Self::Fail => "fail",
            Self::Recover => "recover",
            Self::Suspend => "be suspended",
            Self::Resume => "be resumed",
            Self::Reserve => "be reserved",
            Self::Release => "be released",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_shown() {
        for name in ["km/a", "km-link/a~b", "channel/a~b/1", "qkd-link/l1", "module/l1/a"] {
            assert_eq!(name.parse::<Component>().unwrap().to_string(), name);
        }
        assert_eq!("km-link/b~a".parse::<Component>().unwrap().to_string(), "km-link/a~b");
        for bad in ["", "km", "km/", "km/a/b", "km-link/a", "channel/a~b/x", "qkd-link/a b"] {
            assert!(bad.parse::<Component>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_but_an_operator_brings_back_what_an_operator_took_out() {
        let suspended = State::OutOfService(Out::Suspended);
        for step in [Step::Promote, Step::Demote, Step::Fail, Step::Recover, Step::Release] {
            assert_eq!(suspended.after(step), Err(BadStep { from: suspended, step }));
            if step != Step::Release {
                assert!(State::Reserved.after(step).is_err(), "{step:?}");
            }
        }
        assert_eq!(suspended.after(Step::Resume), Ok(State::Standby));
        assert_eq!(State::Reserved.after(Step::Release), Ok(State::Standby));
    }

    #[test]
    fn what_comes_back_waits_to_be_promoted() {
        let failed = State::InService.after(Step::Fail).unwrap();
        assert_eq!(failed.after(Step::Promote).ok(), None);
        assert_eq!(failed.after(Step::Recover), Ok(State::Standby));
        assert_eq!(State::Standby.after(Step::Promote), Ok(State::InService));
    }
}
