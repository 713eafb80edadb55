//! What happens to the shop, and when.

use std::time::Duration;

use super::fleet::Which;

/// A service of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shelf {
    Catalog,
    Cart,
    Checkout,
}

impl Shelf {
    pub(super) const ALL: [Shelf; 3] = [Shelf::Catalog, Shelf::Cart, Shelf::Checkout];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Cart => "cart",
            Self::Checkout => "checkout",
        }
    }

    pub(super) fn endpoints(self) -> usize {
        match self {
            Self::Catalog => 4,
            Self::Cart | Self::Checkout => 3,
        }
    }

    pub(super) fn work_ms(self) -> u64 {
        match self {
            Self::Catalog => 12,
            Self::Cart => 8,
            Self::Checkout => 20,
        }
    }
}

/// What an endpoint is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its process is killed.
    Die,
    /// Its process is killed and started anew on the same port.
    Restart,
    /// Every answer comes 400 ms late.
    Slow,
    /// Every request is answered 500 at once.
    FailFast,
    /// It asks for no new requests.
    LameDuck,
    /// It works on one request at a time and takes 100 ms for each.
    BrownOut,
    /// It behaves again.
    Heal,
}

impl Fault {
    /// How a running endpoint is told. A dead one is not told anything.
    pub(super) fn query(self) -> &'static str {
        match self {
            Self::Slow => "slow_ms=400",
            Self::FailFast => "fail=1",
            Self::LameDuck => "lame_duck=1",
            Self::BrownOut => "places=1&slow_ms=88",
            Self::Heal | Self::Die | Self::Restart => "",
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// After which share of the phase.
    pub(super) at: f64,
    pub(super) shelf: Shelf,
    pub(super) which: Which,
    pub(super) fault: Fault,
}

/// A part of the script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    millis: u64,
    millis_fast: u64,
    pub(super) steps: &'static [Step],
}

impl Phase {
    pub(super) fn length(&self, fast: bool) -> Duration {
        Duration::from_millis(if fast { self.millis_fast } else { self.millis })
    }
}

const fn step(at: f64, shelf: Shelf, which: Which, fault: Fault) -> Step {
    Step { at, shelf, which, fault }
}

use Fault::{BrownOut, Die, FailFast, Heal, LameDuck, Restart, Slow};
use Shelf::{Cart, Catalog, Checkout};
use Which::{All, Nth};

pub(super) const SCRIPT: [Phase; 7] = [
    Phase { name: "all is well", what: "nothing is wrong", millis: 6_000, millis_fast: 1_500, steps: &[] },
    Phase {
        name: "one dies",
        what: "one of 4 catalog endpoints is killed, and comes back at the end",
        millis: 10_000,
        millis_fast: 2_000,
        steps: &[step(0.0, Catalog, Nth(0), Die), step(0.9, Catalog, Nth(0), Restart)],
    },
    Phase {
        name: "one is slow",
        what: "one of 4 catalog endpoints answers 400 ms late",
        millis: 10_000,
        millis_fast: 2_000,
        steps: &[step(0.0, Catalog, Nth(1), Slow), step(0.9, Catalog, Nth(1), Heal)],
    },
    Phase {
        name: "one fails fast",
        what: "one of 3 cart endpoints answers 500 at once",
        millis: 10_000,
        millis_fast: 2_000,
        steps: &[step(0.0, Cart, Nth(0), FailFast), step(0.9, Cart, Nth(0), Heal)],
    },
    Phase {
        name: "rolling restart",
        what: "the 3 checkout endpoints announce that they leave, and restart one by one",
        millis: 12_000,
        millis_fast: 3_000,
        steps: &[
            step(0.00, Checkout, Nth(0), LameDuck),
            step(0.20, Checkout, Nth(0), Die),
            step(0.28, Checkout, Nth(0), Restart),
            step(0.32, Checkout, Nth(1), LameDuck),
            step(0.52, Checkout, Nth(1), Die),
            step(0.60, Checkout, Nth(1), Restart),
            step(0.64, Checkout, Nth(2), LameDuck),
            step(0.84, Checkout, Nth(2), Die),
            step(0.92, Checkout, Nth(2), Restart),
        ],
    },
    Phase {
        name: "brown-out",
        what: "the whole catalog can do half of what is asked of it",
        millis: 10_000,
        millis_fast: 5_000,
        steps: &[step(0.0, Catalog, All, BrownOut)],
    },
    Phase {
        name: "afterwards",
        what: "the catalog is well again; whatever is queued there is still in the way",
        millis: 8_000,
        millis_fast: 2_000,
        steps: &[step(0.0, Catalog, All, Heal)],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_keeps_its_promised_length_and_order() {
        let total = |fast| SCRIPT.iter().map(|phase| phase.length(fast)).sum::<Duration>();
        assert!((60..=75).contains(&total(false).as_secs()));
        assert!((15..=20).contains(&total(true).as_secs()));
        for phase in &SCRIPT {
            assert!(phase.steps.is_sorted_by_key(|step| step.at), "{}", phase.name);
            for step in phase.steps {
                let exists = match step.which {
                    Nth(nth) => nth < step.shelf.endpoints(),
                    All => true,
                };
                assert!(exists && (0.0..1.0).contains(&step.at), "{}: {step:?}", phase.name);
            }
        }
    }
}
