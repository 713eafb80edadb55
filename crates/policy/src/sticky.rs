//! Sticky sessions: a session stays with the endpoint that its cookie names, while that one is available.

use alloc::boxed::Box;
use core::str;

use crate::Fleet;
use crate::balance::{Pick, may_take};

/// Finds the endpoint that a session's cookie names.
///
/// The cookie's value is a keyed hash of the endpoint's name in hexadecimal: it tells nobody the address, survives
/// restarts as long as the secret stays, and whoever forges one can only choose among the endpoints as any client can.
#[derive(Debug)]
pub struct Sticky {
    /// Sorted by id.
    by_id: Box<[(u64, u32)]>,
    /// In the order of the endpoints.
    ids: Box<[u64]>,
}

impl Sticky {
    /// For the endpoints of `fleet`. Processes that share sessions share the `secret`.
    #[must_use]
    pub fn new(secret: [u64; 2], fleet: &Fleet) -> Self {
        let ids: Box<[u64]> =
            fleet.endpoints().iter().map(|endpoint| siphash(secret, endpoint.key())).collect();
        let mut by_id: Box<[_]> = ids.iter().copied().zip(0u32..).collect();
        by_id.sort_unstable();
        Self { by_id, ids }
    }

    /// The cookie value that names the endpoint at `index`: 16 hexadecimal digits.
    ///
    /// # Panics
    /// When the fleet has no such index.
    #[must_use]
    pub fn cookie(&self, index: u32) -> [u8; 16] {
        let id = self.ids[index as usize];
        core::array::from_fn(|at| b"0123456789abcdef"[(id >> (60 - 4 * at) & 0xf) as usize])
    }

    /// The endpoint that `cookie` names, if it may take the request: it is in the fleet, available, has room and was
    /// not tried. Otherwise `None`: pick anew and set a new cookie.
    #[must_use]
    pub fn find(&self, cookie: &[u8], fleet: &Fleet, pick: &Pick<'_>) -> Option<u32> {
        let digits =
            str::from_utf8(cookie).ok().filter(|digits| digits.len() == 16 && !digits.starts_with('+'))?;
        let id = u64::from_str_radix(digits, 16).ok()?;
        let at = self.by_id.binary_search_by_key(&id, |entry| entry.0).ok()?;
        let index = self.by_id[at].1;
        (fleet.endpoint(index).weight() > 0 && may_take(fleet, pick, index)).then_some(index)
    }
}

/// SipHash-2-4 of one 64-bit word.
fn siphash([k0, k1]: [u64; 2], word: u64) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let length = 8 << 56;
    for block in [word, length] {
        v[3] ^= block;
        rounds(&mut v, 2);
        v[0] ^= block;
    }
    v[2] ^= 0xff;
    rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn rounds(v: &mut [u64; 4], count: u32) {
    for _ in 0..count {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, Unavailable};
    use alloc::sync::Arc;
    use model::{Instant, Ratio};
    use proptest::prelude::*;
    use std::format;

    const SECRET: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    fn fleet(count: u32) -> Fleet {
        let endpoint = |n| Arc::new(Endpoint::new(&format!("10.0.0.{n}:80"), 1, 1, Instant::ORIGIN));
        Fleet::new((0..count).map(endpoint).collect(), Ratio::ZERO)
    }

    const PICK: Pick<'static> = Pick { now: Instant::ORIGIN, key: None, tried: &[] };

    #[test]
    fn hashes_as_the_reference_does() {
        // Message 00 01 … 07 of the reference implementation's vectors.
        assert_eq!(siphash(SECRET, 0x0706_0504_0302_0100), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn a_session_stays_while_its_endpoint_can_take_it() {
        let fleet = fleet(5);
        let sticky = Sticky::new(SECRET, &fleet);
        let cookie = sticky.cookie(3);
        assert_eq!(sticky.find(&cookie, &fleet, &PICK), Some(3));
        assert_eq!(sticky.find(&cookie, &fleet, &Pick { tried: &[3], ..PICK }), None);
        fleet.endpoint(3).set_unavailable(Unavailable::LameDuck, true);
        assert_eq!(sticky.find(&cookie, &fleet, &PICK), None);
        fleet.endpoint(3).set_unavailable(Unavailable::LameDuck, false);
        fleet.endpoint(3).on_start(Instant::ORIGIN);
        assert_eq!(sticky.find(&cookie, &fleet, &PICK), None, "it is full");
    }

    #[test]
    fn another_secret_gives_other_cookies() {
        let fleet = fleet(5);
        let cookie = Sticky::new([1, 2], &fleet).cookie(0);
        assert_eq!(Sticky::new(SECRET, &fleet).find(&cookie, &fleet, &PICK), None);
    }

    proptest! {
        #[test]
        fn every_endpoint_is_found_by_its_cookie_and_junk_finds_none(count in 1u32..50, junk in ".{0,20}") {
            let fleet = fleet(count);
            let sticky = Sticky::new(SECRET, &fleet);
            for index in 0..count {
                prop_assert_eq!(sticky.find(&sticky.cookie(index), &fleet, &PICK), Some(index));
            }
            prop_assert_eq!(sticky.find(junk.as_bytes(), &fleet, &PICK), None);
        }
    }
}
