//! The state of a breaker in one atomic word.

use super::State;

/// State, generation and the progress of probing, so that one exchange changes them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: State,
    pub(super) generation: u32,
    /// Probes under way.
    pub(super) probes: u16,
    /// Probes that succeeded; at most [`Word::SUCCESSES_MAX`].
    pub(super) successes: u16,
}

impl Word {
    /// Fourteen bits are left for successes beside two for the state.
    pub(super) const SUCCESSES_MAX: u16 = (1 << 14) - 1;

    const fn new(state: State, generation: u32) -> Self {
        Self { state, generation, probes: 0, successes: 0 }
    }

    pub(super) const fn closed(generation: u32) -> Self {
        Self::new(State::Closed, generation)
    }

    pub(super) const fn open(generation: u32) -> Self {
        Self::new(State::Open, generation)
    }

    pub(super) const fn half_open(generation: u32) -> Self {
        Self::new(State::HalfOpen, generation)
    }

    pub(super) const fn with_probe(self) -> Self {
        Self { probes: self.probes.saturating_add(1), ..self }
    }

    pub(super) const fn without_probe(self) -> Self {
        Self { probes: self.probes.saturating_sub(1), ..self }
    }

    pub(super) fn with_success(self) -> Self {
        Self { successes: (self.successes + 1).min(Self::SUCCESSES_MAX), ..self.without_probe() }
    }

    pub(super) fn pack(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        u64::from(self.generation) << 32
            | u64::from(self.probes) << 16
            | u64::from(self.successes) << 2
            | state
    }

    pub(super) const fn unpack(packed: u64) -> Self {
        let state = match packed & 3 {
            0 => State::Closed,
            1 => State::Open,
            _ => State::HalfOpen,
        };
        Self {
            state,
            generation: (packed >> 32) as u32,
            probes: (packed >> 16) as u16,
            successes: (packed >> 2) as u16 & Self::SUCCESSES_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packs_without_loss(generation: u32, probes: u16, successes in 0..=Word::SUCCESSES_MAX, state in 0..3u8) {
            let state = [State::Closed, State::Open, State::HalfOpen][usize::from(state)];
            let word = Word { state, generation, probes, successes };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}
