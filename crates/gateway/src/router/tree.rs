//! Paths as a tree of segments: one step per segment, whatever the number of routes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::ControlFlow;

use super::path::escaped;
use super::pattern::{CAPTURES_MAX, LITERAL_MAX, Segment};

/// A map whose keys come from the configuration. What a client sends is only looked up, so it cannot fill a bucket; a fast
/// hash without a secret is enough.
pub(super) type Table<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<WordHasher>>;

/// Multiplies eight bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WordHasher(u64);

impl WordHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.add(u64::from_le_bytes(word.try_into().expect("a chunk of eight")));
        }
        let rest = words.remainder().iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        self.add(rest);
    }

    fn write_usize(&mut self, length: usize) {
        self.add(length as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// What the variables of a route's path stand for: ranges of the path that was looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    ranges: [(u32, u32); CAPTURES_MAX],
    count: u8,
    rest: u32,
}

impl Captures {
    /// The value of the variable at `index`, counted from 0 in the order of the path; empty when there is none.
    #[must_use]
    pub fn get<'p>(&self, index: usize, path: &'p str) -> &'p str {
        let (start, end) = self.ranges[..usize::from(self.count)].get(index).copied().unwrap_or_default();
        path.get(start as usize..end as usize).unwrap_or_default()
    }

    /// What follows the part of the path that the match names; empty for a path without a rest.
    #[must_use]
    pub fn rest<'p>(&self, path: &'p str) -> &'p str {
        path.get(self.rest as usize..).unwrap_or_default()
    }

    fn with(&self, start: usize, end: usize) -> Self {
        let mut longer = *self;
        // A rest without a name may come after the last place for names.
        if let Some(place) = longer.ranges.get_mut(usize::from(self.count)) {
            *place = (offset(start), offset(end));
            longer.count += 1;
        }
        longer
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[derive(Debug, Default)]
struct Node {
    literals: Table<u32>,
    variable: Option<u32>,
    /// Routes whose path ends here.
    exact: Vec<u32>,
    /// Routes whose path takes everything below.
    rest: Vec<u32>,
}

/// Routes whose path is the same but for the names of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leaf {
    node: u32,
    rest: bool,
}

/// Every path of every host, as one forest.
#[derive(Debug, Default)]
pub(super) struct Forest {
    nodes: Vec<Node>,
}

/// How a path is being looked up.
struct Walk<'w> {
    path: &'w [u8],
    /// Only then can a segment differ from what it stands for.
    escapes: bool,
}

impl Forest {
    pub(super) fn plant(&mut self) -> u32 {
        self.nodes.push(Node::default());
        u32::try_from(self.nodes.len() - 1).expect("fewer than four billion segments in a configuration")
    }

    pub(super) fn insert(&mut self, root: u32, segments: &[Segment]) -> Leaf {
        let mut node = root;
        for segment in segments {
            let known = match segment {
                Segment::Literal(bytes) => self.nodes[node as usize].literals.get(bytes).copied(),
                Segment::Variable => self.nodes[node as usize].variable,
                Segment::Rest => return Leaf { node, rest: true },
            };
            node = known.unwrap_or_else(|| {
                let child = self.plant();
                let parent = &mut self.nodes[node as usize];
                match segment {
                    Segment::Literal(bytes) => _ = parent.literals.insert(bytes.clone(), child),
                    _ => parent.variable = Some(child),
                }
                child
            });
        }
        Leaf { node, rest: false }
    }

    pub(super) fn routes_mut(&mut self, leaf: Leaf) -> &mut Vec<u32> {
        let node = &mut self.nodes[leaf.node as usize];
        if leaf.rest { &mut node.rest } else { &mut node.exact }
    }

    pub(super) fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Vec<u32>> {
        self.nodes.iter_mut().flat_map(|node| [&mut node.exact, &mut node.rest])
    }

    /// Shows `visit` the routes of every pattern below `root` that `path` fits, most specific first: segment by segment a
    /// literal goes before a variable, a variable before a rest. Each list is non-empty.
    ///
    /// Goes no deeper than the longest pattern, however long the path, and takes two ways at a node only where the
    /// configuration has both a literal and a variable that fit.
    pub(super) fn visit<B>(
        &self,
        root: u32,
        path: &str,
        visit: &mut impl FnMut(&[u32], &Captures) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let path = path.as_bytes();
        let walk = Walk { path, escapes: memchr::memchr(b'%', path).is_some() };
        let captures = Captures { rest: offset(path.len()), ..Captures::default() };
        self.step(&walk, root, Some(1), &captures, visit)
    }

    /// `start` is where the next segment begins; `None` once the path is used up.
    fn step<B>(
        &self,
        walk: &Walk<'_>,
        node: u32,
        start: Option<usize>,
        captures: &Captures,
        visit: &mut impl FnMut(&[u32], &Captures) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.nodes[node as usize];
        let Some(start) = start else {
            return if node.exact.is_empty() {
                ControlFlow::Continue(())
            } else {
                visit(&node.exact, captures)
            };
        };
        let left = walk.path.get(start..).unwrap_or_default();
        let slash = memchr::memchr(b'/', left);
        let segment = &left[..slash.unwrap_or(left.len())];
        let next = slash.map(|slash| start + slash + 1);
        if !node.literals.is_empty()
            && let Some(child) = literal(&node.literals, segment, walk.escapes)
        {
            self.step(walk, child, next, captures, visit)?;
        }
        if let Some(child) = node.variable
            && !segment.is_empty()
        {
            self.step(walk, child, next, &captures.with(start, start + segment.len()), visit)?;
        }
        if !node.rest.is_empty() {
            let captures = Captures { rest: offset(start), ..captures.with(start, walk.path.len()) };
            visit(&node.rest, &captures)?;
        }
        ControlFlow::Continue(())
    }
}

/// The child for a segment, by what it stands for: `/%40x` and `/@x` are the same path to most services, so they are to us.
fn literal(table: &Table<u32>, segment: &[u8], escapes: bool) -> Option<u32> {
    if !escapes || memchr::memchr(b'%', segment).is_none() {
        return table.get(segment).copied();
    }
    let mut plain = [0; LITERAL_MAX];
    let (mut length, mut at) = (0, 0);
    while let Some(&byte) = segment.get(at) {
        let (byte, width) = escaped(&segment[at..]).map_or((byte, 1), |byte| (byte, 3));
        *plain.get_mut(length)? = byte;
        (length, at) = (length + 1, at + width);
    }
    table.get(&plain[..length]).copied()
}
