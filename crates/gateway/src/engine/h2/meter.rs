//! Watches the frames that a peer sends for those that cost work and bring none: the floods of HTTP/2.
//!
//! Each such frame costs credit; time and requests that were answered earn it. The h2 library bounds the memory that each
//! flood can take (headers, continuations, small and empty data, resets before acceptance); this bounds the work.
//! Sources: CVE-2019-9511 to -9518, CVE-2023-44487 (rapid reset), CVE-2024-27316 (CONTINUATION).

use model::Instant;

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    Reset,
    Ping,
    Settings,
    Priority,
    Window,
    Empty,
    Continuation,
    Unknown,
}

impl Flood {
    pub(crate) const ALL: [Self; 8] = [
        Self::Reset,
        Self::Ping,
        Self::Settings,
        Self::Priority,
        Self::Window,
        Self::Empty,
        Self::Continuation,
        Self::Unknown,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Ping => "ping",
            Self::Settings => "settings",
            Self::Priority => "priority",
            Self::Window => "window_update",
            Self::Empty => "empty_data",
            Self::Continuation => "continuation",
            Self::Unknown => "unknown",
        }
    }

    /// What one frame costs. A reset may throw a whole request's work away, settings touch every stream.
    fn cost(self) -> u64 {
        match self {
            Self::Reset | Self::Settings => 10,
            _ => 1,
        }
    }
}

/// Earned by a second.
const PER_SEC: u64 = 100;
/// Earned by a request that was answered: pays for one reset, or for the window updates and pings of one exchange.
const PER_ANSWER: u64 = 10;
/// A window update is paid for by so many bytes that were sent to the peer: clients acknowledge a few frames at a time.
const BYTES_PER_UPDATE: u64 = 512;

/// The frames of one direction of one connection. Takes bytes as they come, however they are cut.
#[derive(Debug)]
pub(crate) struct Meter {
    /// A frame's head as far as it has come.
    head: [u8; 9],
    have: usize,
    /// Bytes of the frame's payload still to come.
    payload: usize,
    credit: u64,
    credit_max: u64,
    /// Bytes sent that have earned nothing yet.
    sent: u64,
    earned_until: Instant,
}

impl Meter {
    /// Credit never exceeds `credit_max`, which is also what there is at first.
    pub(crate) fn new(credit_max: u32, now: Instant) -> Self {
        let credit_max = u64::from(credit_max);
        Self { head: [0; 9], have: 0, payload: 0, credit: credit_max, credit_max, sent: 0, earned_until: now }
    }

    fn earn(&mut self, credit: u64) {
        self.credit = (self.credit + credit).min(self.credit_max);
    }

    /// A request was answered to its end.
    pub(crate) fn on_answer(&mut self) {
        self.earn(PER_ANSWER);
    }

    /// So many bytes went out.
    pub(crate) fn on_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.sent >= BYTES_PER_UPDATE {
            self.earn(self.sent / BYTES_PER_UPDATE);
            self.sent %= BYTES_PER_UPDATE;
        }
    }

    /// Looks at bytes that came, behind the connection's preface.
    ///
    /// # Errors
    /// The kind of frame that used up the last credit.
    pub(crate) fn on_received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let passed = self.payload.min(bytes.len());
                self.payload -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.head.len() {
                self.have = 0;
                self.payload = usize::from(self.head[0]) << 16
                    | usize::from(self.head[1]) << 8
                    | usize::from(self.head[2]);
                self.charge(now)?;
            }
        }
        Ok(())
    }

    /// Charges for the frame whose head has come.
    fn charge(&mut self, now: Instant) -> Result<(), Flood> {
        const END_STREAM: u8 = 1;
        const ACK: u8 = 1;
        let flags = self.head[4];
        let flood = match self.head[3] {
            // The library sees to DATA that brings next to nothing.
            0 if self.payload == 0 && flags & END_STREAM == 0 => Flood::Empty,
            // HEADERS are requests, which the road knows how to refuse.
            0 | 1 => return Ok(()),
            2 => Flood::Priority,
            3 => Flood::Reset,
            // An answer to what was sent from here.
            4 | 6 if flags & ACK != 0 => return Ok(()),
            4 => Flood::Settings,
            6 => Flood::Ping,
            8 => Flood::Window,
            9 => Flood::Continuation,
            _ => Flood::Unknown,
        };
        let earned = now.since(self.earned_until).as_nanos() as u64 / (1_000_000_000 / PER_SEC);
        if earned > 0 {
            self.earn(earned);
            self.earned_until = now;
        }
        self.credit = self.credit.checked_sub(flood.cost()).ok_or(flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes =
            vec![(payload >> 16) as u8, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + payload, 0);
        bytes
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn every_flood_ends_and_bodies_and_requests_never_do() {
        for (kind, flags, payload, flood) in [
            (0, 0, 0, Flood::Empty),
            (2, 0, 5, Flood::Priority),
            (3, 0, 4, Flood::Reset),
            (4, 0, 6, Flood::Settings),
            (6, 0, 8, Flood::Ping),
            (8, 0, 4, Flood::Window),
            (9, 0, 1, Flood::Continuation),
            (0x7f, 0, 3, Flood::Unknown),
        ] {
            let mut meter = Meter::new(1000, at(0));
            let seen = (0..2000).find_map(|_| meter.on_received(&frame(kind, flags, payload), at(0)).err());
            assert_eq!(seen, Some(flood));
        }
        let mut meter = Meter::new(0, at(0));
        for (kind, flags, payload) in [(0, 0, 100), (0, 1, 0), (1, 4, 20), (4, 1, 0), (6, 1, 8)] {
            for _ in 0..2000 {
                assert_eq!(meter.on_received(&frame(kind, flags, payload), at(0)), Ok(()));
            }
        }
    }

    #[test]
    fn whoever_takes_its_answers_may_cancel_half_of_its_requests_for_ever() {
        let mut meter = Meter::new(1000, at(0));
        for _ in 0..100_000 {
            meter.on_answer();
            meter.on_received(&frame(3, 0, 4), at(0)).unwrap();
        }
    }

    #[test]
    fn whoever_reads_slowly_may_acknowledge_every_small_piece() {
        let mut meter = Meter::new(100, at(0));
        for _ in 0..100_000 {
            meter.on_sent(1024);
            meter.on_received(&frame(8, 0, 4), at(0)).unwrap();
            meter.on_received(&frame(8, 0, 4), at(0)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(
            frames in prop::collection::vec((0u8..12, any::<u8>(), 0usize..40), 1..80),
            cuts in prop::collection::vec(1usize..30, 1..50),
            credit in 0u32..60,
        ) {
            let bytes: Vec<u8> =
                frames.iter().flat_map(|&(kind, flags, payload)| frame(kind, flags, payload)).collect();
            let whole = Meter::new(credit, at(0)).on_received(&bytes, at(0));
            let mut meter = Meter::new(credit, at(0));
            let mut rest = &bytes[..];
            let mut cut = Ok(());
            for size in cuts.iter().cycle() {
                if rest.is_empty() || cut.is_err() {
                    break;
                }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                cut = meter.on_received(now, at(0));
                rest = later;
            }
            prop_assert_eq!(whole, cut);
        }

        #[test]
        fn never_grants_more_than_time_and_answers_earn(
            steps in prop::collection::vec((0u64..50, any::<bool>()), 1..300),
            credit in 0u32..100,
        ) {
            let mut meter = Meter::new(credit, at(0));
            let (mut now, mut resets, mut answers) = (0, 0, 0);
            for (pause, answer) in steps {
                now += pause;
                if answer {
                    meter.on_answer();
                    answers += 1;
                }
                if meter.on_received(&frame(3, 0, 4), at(now)).is_err() {
                    // Its connection is closed.
                    break;
                }
                resets += 1;
            }
            let earned = u64::from(credit) + PER_SEC * now / 1000 + PER_ANSWER * answers;
            prop_assert!(resets * Flood::Reset.cost() <= earned);
        }
    }
}
