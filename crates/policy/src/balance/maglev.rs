use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::{Balancer, LeastLoaded, MaglevParams, Pick, anybody, may_take_key};
use crate::{Fleet, Rng, mix};

/// Largest table, which costs 20 MB.
const TABLE_MAX: u32 = 5_000_011;
/// Places of the table that a key is looked up at before anybody will do.
const LOOKUPS: u64 = 16;

/// Maglev hashing of the request's key: a table in which each endpoint holds its share of the slots by weight, to
/// within one, so that keys are spread as evenly as they can be.
///
/// When an endpoint comes or goes nearly only its own keys move; a larger table moves fewer others. A request without
/// a key goes by [`LeastLoaded`]; one whose endpoint is out or full is looked up again under a second key, the same for
/// all its fellows. During slow start a newcomer's keys move to it little by little, each once.
///
/// Source: Eisenbud et al., Maglev, NSDI 2016; weights as in Envoy.
#[derive(Debug)]
pub struct Maglev {
    table: Box<[u32]>,
    keyless: LeastLoaded,
}

impl Maglev {
    /// For the candidates of `fleet`.
    #[must_use]
    pub fn new(params: &MaglevParams, fleet: &Fleet) -> Self {
        let least = u32::try_from(fleet.candidates().len()).unwrap_or(TABLE_MAX);
        let size = prime_from(params.table_size.max(least).clamp(3, TABLE_MAX));
        Self { table: table(fleet, size as usize), keyless: LeastLoaded::new(fleet) }
    }
}

impl Balancer for Maglev {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        let Some(key) = pick.key else { return self.keyless.pick(fleet, pick, rng) };
        if self.table.is_empty() {
            return None;
        }
        (0..LOOKUPS)
            .map(|nth| {
                let hash = if nth == 0 { key } else { mix(key.wrapping_add(mix(nth))) };
                self.table[(hash % self.table.len() as u64) as usize]
            })
            .find(|index| may_take_key(fleet, pick, *index, key))
            .or_else(|| anybody(fleet, pick, rng))
    }
}

/// A candidate's way through the table: every slot once, in an order of its own.
struct Way {
    index: u32,
    slot: usize,
    stride: usize,
    /// Slots claimed per round, at most one.
    share: f64,
    credit: f64,
}

fn table(fleet: &Fleet, size: usize) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let weight = |index: u32| f64::from(fleet.endpoint(index).weight());
    let heaviest = fleet.candidates().iter().map(|index| weight(*index)).fold(0.0, f64::max);
    let mut ways: Vec<Way> = fleet
        .candidates()
        .iter()
        .map(|&index| {
            let key = fleet.endpoint(index).key();
            let slot = (mix(key) % size as u64) as usize;
            let stride = (mix(key ^ u64::MAX) % (size as u64 - 1)) as usize + 1;
            Way { index, slot, stride, share: weight(index) / heaviest, credit: 0.0 }
        })
        .collect();
    if ways.is_empty() {
        return Box::default();
    }
    // The order of claims must not depend on the order of the configuration.
    ways.sort_by_key(|way| fleet.endpoint(way.index).key());
    let mut table = vec![FREE; size];
    let mut left = size;
    while left > 0 {
        for way in &mut ways {
            way.credit += way.share;
            if way.credit < 1.0 || left == 0 {
                continue;
            }
            way.credit -= 1.0;
            while table[way.slot] != FREE {
                way.slot = (way.slot + way.stride) % size;
            }
            table[way.slot] = way.index;
            left -= 1;
        }
    }
    table.into()
}

/// The smallest prime that is not below `least`.
fn prime_from(least: u32) -> u32 {
    let is_prime = |n: &u32| *n >= 2 && (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (least..).find(is_prime).unwrap_or(least)
}
