//! Recorded histories of one lease, and whether they are linearizable (after Wing and Gong 1993, with the states seen
//! remembered, after Lowe 2017).

use std::collections::HashSet;

/// What somebody saw of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Seen {
    /// It was given, with this token.
    Acquired(u64),
    /// It was held under this token.
    Busy(u64),
    /// It was given back.
    Released(u64),
    /// It was not held any more.
    NotHeld(u64),
    /// The session of this term may have ended from here on.
    MayEnd(u64),
    /// It may have been given, from here on: the answer was lost.
    MayHold,
    /// What may have been given may have ended, from here on.
    MayEndUnknown,
}

/// An operation and the times between which it took effect. `end: u64::MAX`: any time later, or never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Nobody,
    Term(u64),
    /// Somebody whose answer was lost.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    holder: Holder,
    newest: u64,
}

impl State {
    /// A term whose token nobody was told shows it when somebody else reads it.
    fn is_held_by(self, token: u64) -> Option<Self> {
        match self.holder {
            Holder::Term(held) if held == token => Some(self),
            Holder::Unknown if token > self.newest => {
                Some(Self { holder: Holder::Term(token), newest: token })
            }
            _ => None,
        }
    }

    fn after(self, seen: Seen) -> Option<Self> {
        let free = |state: Self| Self { holder: Holder::Nobody, ..state };
        match seen {
            Seen::Acquired(token) => (self.holder == Holder::Nobody && token > self.newest)
                .then_some(Self { holder: Holder::Term(token), newest: token }),
            Seen::Busy(token) => self.is_held_by(token),
            Seen::Released(token) => self.is_held_by(token).map(free),
            Seen::NotHeld(token) => (self.holder != Holder::Term(token)).then_some(self),
            Seen::MayEnd(token) => (self.holder == Holder::Term(token)).then(|| free(self)),
            Seen::MayHold => {
                (self.holder == Holder::Nobody).then_some(Self { holder: Holder::Unknown, ..self })
            }
            Seen::MayEndUnknown => match self.holder {
                Holder::Unknown => Some(free(self)),
                // Shown by somebody else meanwhile; which term it was is not known, so any may end.
                Holder::Term(_) => Some(free(self)),
                Holder::Nobody => None,
            },
        }
    }
}

/// Whether there is an order of the operations, each between its start and its end, that one lease could have gone through.
pub(crate) fn is_linearizable(operations: &[Operation]) -> bool {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.start);
    let start = State { holder: Holder::Nobody, newest: 0 };
    let mut seen = HashSet::new();
    // Depth first; what is done is a set of indices.
    let mut open = vec![(vec![false; operations.len()], start)];
    while let Some((done, state)) = open.pop() {
        let left = || (0..operations.len()).filter(|index| !done[*index]);
        let first_end = left().map(|index| operations[index].end).min().unwrap_or(u64::MAX);
        if first_end == u64::MAX {
            return true;
        }
        for index in left().take_while(|index| operations[*index].start <= first_end) {
            let Some(after) = state.after(operations[index].seen) else { continue };
            let mut done = done.clone();
            done[index] = true;
            if seen.insert((done.clone(), after)) {
                open.push((done, after));
            }
        }
    }
    false
}

#[test]
fn finds_what_could_not_have_been() {
    let of = |list: &[(u64, u64, Seen)]| {
        let operation =
            |(start, end, seen): &(u64, u64, Seen)| Operation { start: *start, end: *end, seen: *seen };
        is_linearizable(&list.iter().map(operation).collect::<Vec<_>>())
    };
    use Seen::{Acquired, Busy, MayEnd, MayEndUnknown, MayHold, NotHeld, Released};
    let never = u64::MAX;
    assert!(of(&[]));
    assert!(of(&[(0, 1, Acquired(5)), (2, 3, Busy(5)), (4, 5, Released(5)), (6, 7, Acquired(6))]));
    assert!(of(&[(0, 9, Acquired(6)), (1, 3, Acquired(5)), (2, 4, Released(5))]), "one waits for the other");
    assert!(of(&[(0, 1, Acquired(5)), (3, never, MayEnd(5)), (4, 5, Acquired(6)), (6, 7, NotHeld(5))]));
    assert!(of(&[(0, never, MayHold), (1, 2, Busy(4)), (3, never, MayEndUnknown), (4, 5, Acquired(5))]));
    // Two hold it at once.
    assert!(!of(&[(0, 1, Acquired(5)), (2, 3, Acquired(6))]));
    // It was given to another before its holder could have lost it.
    assert!(!of(&[(0, 1, Acquired(5)), (2, 3, Acquired(6)), (4, never, MayEnd(5))]));
    // A token went down, or came twice.
    assert!(!of(&[(0, 1, Acquired(5)), (2, 3, Released(5)), (4, 5, Acquired(4))]));
    assert!(!of(&[(0, 1, Acquired(5)), (2, 3, Released(5)), (4, 5, Acquired(5))]));
    // Held by a term that was over.
    assert!(!of(&[(0, 1, Acquired(5)), (2, 3, Released(5)), (4, 5, Busy(5))]));
    // Given back twice.
    assert!(!of(&[(0, 1, Acquired(5)), (2, 3, Released(5)), (4, 5, Released(5))]));
}
