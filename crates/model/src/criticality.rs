use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much a request matters, most important first. A lower class is always shed before a higher one.
///
/// Source: SRE book, ch. 21. The order of the variants is the order of importance, so `a < b` reads
/// "`a` matters more than `b`".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Criticality {
    /// Failing it hurts users badly and at once.
    CriticalPlus,
    /// Failing it is visible to users. The default of interactive traffic.
    #[default]
    Critical,
    /// Partial unavailability is expected and retried. The default of batch jobs.
    SheddablePlus,
    /// Frequent partial and occasional full unavailability is expected.
    Sheddable,
}

impl Criticality {
    /// Every class, most important first.
    pub const ALL: [Criticality; 4] =
        [Self::CriticalPlus, Self::Critical, Self::SheddablePlus, Self::Sheddable];

    /// The name used in headers, configuration and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CriticalPlus => "CRITICAL_PLUS",
            Self::Critical => "CRITICAL",
            Self::SheddablePlus => "SHEDDABLE_PLUS",
            Self::Sheddable => "SHEDDABLE",
        }
    }

    /// The position in [`Criticality::ALL`], to index per-class tables with.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names none of the four classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCriticality;

impl fmt::Display for UnknownCriticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one of CRITICAL_PLUS, CRITICAL, SHEDDABLE_PLUS, SHEDDABLE")
    }
}

impl core::error::Error for UnknownCriticality {}

impl FromStr for Criticality {
    type Err = UnknownCriticality;

    /// Letter case does not matter: headers come from many hands.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(text)).ok_or(UnknownCriticality)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_order_by_importance() {
        for class in Criticality::ALL {
            assert_eq!(class.name().parse(), Ok(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
            assert_eq!(Criticality::ALL[class.index()], class);
        }
        assert!(Criticality::CriticalPlus < Criticality::Sheddable);
        assert_eq!("critical_plus".parse(), Ok(Criticality::CriticalPlus));
        assert_eq!("URGENT".parse::<Criticality>(), Err(UnknownCriticality));
    }
}
