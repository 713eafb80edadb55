//! Subsetting: each client connects to a bounded, even share of the endpoints.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{Rng, mix};

/// How a bounded subset of the endpoints is chosen for this client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SubsetParams {
    /// Endpoints that this client uses; 0 means all.
    pub size: u32,
    /// How they are chosen.
    pub method: SubsetMethod,
    /// This client's number among its peers (0, 1, 2 …); absent, it is derived from the host's name, and the spread is
    /// only as even as chance makes it.
    pub client: Option<u32>,
}

impl SubsetParams {
    /// What [`subset`] is told of this client: its number, or a hash of its `host`'s name.
    #[must_use]
    pub fn client_on(&self, host: &str) -> u64 {
        self.client.map_or_else(|| crate::hash(host.as_bytes()), u64::from)
    }
}

/// How a subset is chosen.
///
/// The figures are for 300 numbered clients with 100 endpoints each, when a 301st joins 300 endpoints: the range of
/// clients per endpoint relative to the mean, and the share of all links that move (0.33 % is the least possible).
/// Clients that are not numbered spread like random ones, 70 to 130 %, whatever the method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SubsetMethod {
    /// A window on the endpoints in the order of their hashes, that begins at a point of the client's own: even and
    /// almost free of churn (98 to 102 %, 0.5 %).
    #[default]
    Aperture,
    /// The SRE book's shuffled rounds: even, but a changed set may move half of the links (96 to 100 %, 4 to 51 %).
    Deterministic,
    /// Rendezvous hashing: free of avoidable churn, but uneven (70 to 130 %, 0.33 %).
    Rendezvous,
    /// Independent random choice, for comparison: uneven, and a changed set moves most links (78 to 122 %, 66 %).
    Random,
}

/// The positions in `endpoints` of those that `client` uses, in no particular order: `params.size` of them, or all when
/// that is 0 or there are fewer.
///
/// `endpoints` are the [keys](crate::Endpoint::key) of all endpoints; their order does not matter except to
/// [`SubsetMethod::Random`]. `client` is [`SubsetParams::client_on`] this host. Nothing else need be known: neither how
/// many clients there are nor what they choose.
#[must_use]
pub fn subset(params: &SubsetParams, client: u64, endpoints: &[u64]) -> Vec<usize> {
    let (count, size) = (endpoints.len(), params.size as usize);
    let mut order: Vec<usize> = (0..count).collect();
    if size == 0 || size >= count {
        return order;
    }
    match params.method {
        SubsetMethod::Aperture => {
            order.sort_unstable_by_key(|at| (mix(endpoints[*at]), endpoints[*at]));
            order.rotate_left(aperture_start(client, count));
        }
        SubsetMethod::Deterministic => {
            let subsets = (count / size) as u64;
            order.sort_unstable_by_key(|at| endpoints[*at]);
            // All clients of a round shuffle alike, and share the shuffled endpoints out between them.
            Rng::with_seed(mix(client / subsets)).shuffle(&mut order);
            order.rotate_left((client % subsets) as usize * size);
        }
        SubsetMethod::Rendezvous => order.sort_unstable_by_key(|at| mix(endpoints[*at] ^ mix(client))),
        SubsetMethod::Random => Rng::with_seed(mix(client ^ count as u64)).shuffle(&mut order),
    }
    order.truncate(size);
    order
}

/// Where the window of `client` begins: multiples of the golden ratio, which fill the circle evenly however many
/// clients there are. Scaled by the count, so that one endpoint more moves a window by at most one place.
fn aperture_start(client: u64, count: usize) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let turn = client.wrapping_mul(GOLDEN);
    ((u128::from(turn) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::format;
    use std::println;

    const METHODS: [SubsetMethod; 4] =
        [SubsetMethod::Aperture, SubsetMethod::Deterministic, SubsetMethod::Rendezvous, SubsetMethod::Random];

    fn keys(count: u32, site: u32) -> Vec<u64> {
        (0..count).map(|n| crate::hash(format!("10.{site}.0.{n}:8080").as_bytes())).collect()
    }

    fn chosen(method: SubsetMethod, size: u32, client: u64, endpoints: &[u64]) -> BTreeSet<u64> {
        let params = SubsetParams { size, method, client: None };
        subset(&params, client, endpoints).into_iter().map(|at| endpoints[at]).collect()
    }

    /// The lowest and highest number of clients per endpoint, relative to the mean.
    fn spread(method: SubsetMethod, size: u32, clients: u64, endpoints: &[u64]) -> (f64, f64) {
        let mut counts: std::collections::BTreeMap<u64, u32> =
            endpoints.iter().map(|key| (*key, 0)).collect();
        for client in 0..clients {
            for key in chosen(method, size, client, endpoints) {
                *counts.get_mut(&key).unwrap() += 1;
            }
        }
        let mean = clients as f64 * f64::from(size) / endpoints.len() as f64;
        let relative = |count: Option<&u32>| f64::from(*count.unwrap()) / mean;
        (relative(counts.values().min()), relative(counts.values().max()))
    }

    /// The share of links that are new after the endpoints changed.
    fn churn(method: SubsetMethod, size: u32, clients: u64, before: &[u64], after: &[u64]) -> f64 {
        let moved: usize = (0..clients)
            .map(|client| {
                let old = chosen(method, size, client, before);
                chosen(method, size, client, after).difference(&old).count()
            })
            .sum();
        moved as f64 / (clients as f64 * f64::from(size))
    }

    #[test]
    fn evenness_and_little_churn_are_had_together() {
        for site in 0..3 {
            let after = keys(301, site);
            let before = &after[..300];
            for method in METHODS {
                let (low, high) = spread(method, 100, 300, before);
                let (low_after, high_after) = spread(method, 100, 300, &after);
                let moved = churn(method, 100, 300, before, &after);
                println!(
                    "{method:?}: {low:.2}..{high:.2} then {low_after:.2}..{high_after:.2}, moved {:.2} %",
                    moved * 100.0
                );
                if method == SubsetMethod::Aperture {
                    assert!(low.min(low_after) >= 0.95 && high.max(high_after) <= 1.05, "{low} {high}");
                    assert!(moved <= 0.006, "{moved}");
                }
            }
        }
    }

    /// Without numbers chance decides, and no method that knows only itself can do better.
    #[test]
    fn clients_without_numbers_are_spread_as_chance_has_it() {
        let endpoints = keys(300, 0);
        let client = |n| SubsetParams::default().client_on(&format!("gateway-{n}"));
        let mut counts = std::collections::BTreeMap::new();
        for client in (0..300).map(client) {
            for key in chosen(SubsetMethod::Aperture, 100, client, &endpoints) {
                *counts.entry(key).or_insert(0u32) += 1;
            }
        }
        assert_eq!(counts.len(), 300);
        assert!(counts.values().all(|count| (70..=130).contains(count)), "{counts:?}");
        assert_eq!(SubsetParams { client: Some(7), ..SubsetParams::default() }.client_on("any"), 7);
    }

    #[test]
    fn the_rounds_of_the_book_are_exactly_even_when_the_sizes_divide() {
        assert_eq!(spread(SubsetMethod::Deterministic, 100, 300, &keys(300, 0)), (1.0, 1.0));
    }

    proptest! {
        #[test]
        fn the_size_is_kept_nobody_is_chosen_twice_and_order_does_not_matter(
            count in 0u32..60, size in 0u32..70, client in any::<u64>(), seed in any::<u64>(),
        ) {
            let endpoints = keys(count, 1);
            let mut shuffled = endpoints.clone();
            Rng::with_seed(seed).shuffle(&mut shuffled);
            let wanted = if size == 0 { count } else { size.min(count) };
            for method in METHODS {
                let subset = chosen(method, size, client, &endpoints);
                prop_assert_eq!(subset.len(), wanted as usize);
                if method != SubsetMethod::Random {
                    prop_assert_eq!(&subset, &chosen(method, size, client, &shuffled));
                }
            }
        }

        /// One endpoint more costs a client at most two links with [`SubsetMethod::Aperture`]: the newcomer's, and one
        /// at the window's edge.
        #[test]
        fn a_newcomer_moves_at_most_two_links_of_a_client(
            count in 2u32..200, size in 1u32..100, client in any::<u64>(),
        ) {
            let after = keys(count + 1, 2);
            let before = &after[..count as usize];
            let old = chosen(SubsetMethod::Aperture, size.min(count), client, before);
            let new = chosen(SubsetMethod::Aperture, size.min(count), client, &after);
            prop_assert!(new.difference(&old).count() <= 2);
        }

        /// Whatever the sizes, numbered clients are spread to within a few of the mean.
        #[test]
        fn numbered_clients_are_spread_evenly(count in 2u32..100, size in 1u32..50, clients in 1u64..300) {
            let endpoints = keys(count, 3);
            let size = size.min(count - 1);
            let mean = clients as f64 * f64::from(size) / f64::from(count);
            let (low, high) = spread(SubsetMethod::Aperture, size, clients, &endpoints);
            prop_assert!((high - 1.0) * mean < 5.0 && (1.0 - low) * mean < 5.0, "{low} {high} of {mean}");
        }
    }
}
