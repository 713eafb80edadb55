//! Where a body ends, found while its bytes pass through.

use super::trailers::{Section, Trailers};
use super::{Framing, Limits, Malformed};

/// What became of some input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Bytes of the input that belong to this body. Less than the input only when the body ended within it.
    pub consumed: usize,
    /// Bytes at the beginning of the input to send on as they are, never more than `consumed`. What lies between is
    /// the end of a chunked body (or leading zeros of a chunk size), which the sender writes anew.
    pub forward: usize,
    /// The body has ended. A chunked one is then to be ended by [`write_last_chunk`](super::write_last_chunk).
    pub done: bool,
}

/// A body on its way through: tells how much of the input belongs to it, never holds its data.
#[derive(Debug, Clone)]
pub enum Body {
    /// No body.
    None,
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// Everything until the sender closes.
    UntilClose,
}

impl Body {
    /// A body framed so.
    #[must_use]
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        match framing {
            Framing::None => Self::None,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::new(limits.trailer_bytes)),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes the next bytes of the stream. How the stream is cut into inputs makes no difference to what is decided.
    ///
    /// # Errors
    /// [`Malformed`] at the first byte of a chunked body that breaks its framing. Nothing of that input may be sent on,
    /// both connections are lost.
    #[inline]
    pub fn advance(&mut self, input: &[u8]) -> Result<Advance, Malformed> {
        self.advance_data(input, |_| {})
    }

    /// As [`advance`](Self::advance), handing each run of data, without chunk framing, to `data`: for a peer that
    /// cannot read chunks. `forward` is then of no use.
    ///
    /// # Errors
    /// As [`advance`](Self::advance); `data` may already have been given the data before the error.
    #[inline]
    pub fn advance_data(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<Advance, Malformed> {
        let taken = match self {
            Self::None => 0,
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= taken as u64;
                taken
            }
            Self::Chunked(chunked) => return chunked.advance(input, data),
            Self::UntilClose => input.len(),
        };
        if taken > 0 {
            data(&input[..taken]);
        }
        Ok(Advance { consumed: taken, forward: taken, done: self.finished() })
    }

    /// Whether the body has ended, so that the next byte belongs to the next message.
    #[must_use]
    pub fn finished(&self) -> bool {
        match self {
            Self::None => true,
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == State::Done,
            Self::UntilClose => false,
        }
    }

    /// Whether the body is whole if the sender closes now. If not, it was cut short.
    #[must_use]
    pub fn may_close(&self) -> bool {
        matches!(self, Self::UntilClose) || self.finished()
    }

    /// The trailer fields of a chunked body that has ended; empty for any other.
    #[must_use]
    pub fn trailers(&self) -> Trailers<'_> {
        match self {
            Self::Chunked(chunked) => chunked.trailers(),
            _ => Trailers::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size line.
    Size,
    /// After a size line's CR.
    SizeLf,
    /// In data.
    Data,
    /// After data.
    DataCr,
    /// After the CR after data.
    DataLf,
    /// At the beginning of a line after the last chunk.
    Trailer,
    /// In a trailer line.
    TrailerLine,
    /// After the CR of the last, empty line.
    EndLf,
    Done,
}

/// Digits that a chunk size may have: what fits 64 bits.
const DIGITS_MAX: u8 = 16;

/// A strict decoder of the chunked coding: sizes of 1 to 16 digits, no extensions, exact CRLFs.
///
/// Allocates only for trailers. At most 32 bytes.
#[derive(Debug, Clone)]
pub struct Chunked {
    /// Of the size being read, or of data still to come.
    left: u64,
    trailers: Option<Box<Section>>,
    trailer_left: u32,
    state: State,
    digits: u8,
}

impl Chunked {
    /// At the beginning of a body, whose trailer section may have so many bytes.
    #[must_use]
    pub fn new(trailer_bytes: usize) -> Self {
        Self {
            left: 0,
            trailers: None,
            trailer_left: u32::try_from(trailer_bytes).unwrap_or(u32::MAX),
            state: State::Size,
            digits: 0,
        }
    }

    /// The trailer fields kept so far.
    #[must_use]
    pub fn trailers(&self) -> Trailers<'_> {
        self.trailers.as_deref().map(Section::trailers).unwrap_or_default()
    }

    #[inline]
    fn advance(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<Advance, Malformed> {
        let mut at = 0;
        let mut forward = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Size => {
                    self.size(byte)?;
                    at += 1;
                    // As long as a size is all zeros it may be the last chunk's, which is withheld.
                    if self.left > 0 {
                        forward = at;
                    }
                }
                State::SizeLf if byte != b'\n' => return Err(Malformed::BareCr),
                State::SizeLf => {
                    at += 1;
                    if self.left > 0 {
                        forward = at;
                        self.state = State::Data;
                    } else {
                        self.state = State::Trailer;
                    }
                }
                State::Data => {
                    let rest = &input[at..];
                    let taken = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
                    data(&rest[..taken]);
                    self.left -= taken as u64;
                    at += taken;
                    forward = at;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                }
                State::DataCr if byte != b'\r' => return Err(Malformed::ChunkEnd),
                State::DataLf if byte != b'\n' => return Err(Malformed::ChunkEnd),
                State::DataCr => {
                    at += 1;
                    forward = at;
                    self.state = State::DataLf;
                }
                State::DataLf => {
                    at += 1;
                    forward = at;
                    self.state = State::Size;
                    self.digits = 0;
                }
                State::Trailer if byte == b'\r' => {
                    at += 1;
                    self.state = State::EndLf;
                }
                State::Trailer => self.state = State::TrailerLine,
                State::TrailerLine => at += self.trailer(&input[at..])?,
                State::EndLf if byte != b'\n' => return Err(Malformed::BareCr),
                State::EndLf => {
                    at += 1;
                    self.state = State::Done;
                }
                State::Done => break,
            }
        }
        Ok(Advance { consumed: at, forward, done: self.state == State::Done })
    }

    #[inline]
    fn size(&mut self, byte: u8) -> Result<(), Malformed> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => {
                self.state = State::SizeLf;
                return Ok(());
            }
            b';' | b' ' | b'\t' if self.digits > 0 => return Err(Malformed::ChunkExtension),
            b'\n' => return Err(Malformed::BareLf),
            _ => return Err(Malformed::ChunkSize),
        };
        if self.digits == DIGITS_MAX {
            return Err(Malformed::ChunkSize);
        }
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        Ok(())
    }

    /// Takes the rest of a trailer line, or as much of it as is there.
    #[cold]
    fn trailer(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let end = memchr::memchr(b'\n', input).map(|newline| newline + 1);
        let part = &input[..end.unwrap_or(input.len())];
        self.trailer_left = u32::try_from(part.len())
            .ok()
            .and_then(|len| self.trailer_left.checked_sub(len))
            .ok_or(Malformed::TrailersTooLarge)?;
        let section = self.trailers.get_or_insert_default();
        section.push(part);
        if end.is_some() {
            section.end_line()?;
            self.state = State::Trailer;
        }
        Ok(part.len())
    }
}
