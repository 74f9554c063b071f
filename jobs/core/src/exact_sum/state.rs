//! The bytes of a state: equal values have equal bytes, and bytes that no value has are refused.

use super::limbs::{BYTES_MAX, Limbs, Short};

/// A state that was not written by this code, or was damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a state of an exact sum: {0}")]
pub struct BadState(pub(super) &'static str);

/// Reads a state from its front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// A fixed-point number as it lies in a state.
pub(super) struct Written<'a> {
    position: usize,
    magnitude: &'a [u8],
    negative: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, BadState> {
        let (first, rest) = self.0.split_first().ok_or(BadState("it is cut short"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number in groups of seven bits, least first, no zero group on top.
    pub(super) fn number(&mut self) -> Result<u64, BadState> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 || shift > 0 && byte == 0 {
                return Err(BadState("a number is not in its shortest form"));
            }
            value |= group << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadState("a number is too long"))
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], BadState> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BadState("it is cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn end(&self) -> Result<(), BadState> {
        if self.0.is_empty() { Ok(()) } else { Err(BadState("something follows it")) }
    }

    /// A fixed-point number, as [`write_limbs`] writes it.
    pub(super) fn limbs<const N: usize>(&mut self) -> Result<Limbs<N>, BadState> {
        let mut limbs = Limbs::default();
        self.written()?.add_to(&mut limbs);
        Ok(limbs)
    }

    /// The same, not yet added to anything.
    pub(super) fn written(&mut self) -> Result<Written<'a>, BadState> {
        let header = self.number()?;
        let (length, negative) = ((header / 2) as usize, header % 2 == 1);
        if length == 0 {
            let zero = Written { position: 0, magnitude: &[], negative };
            return if negative { Err(BadState("zero has no sign")) } else { Ok(zero) };
        }
        let position = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > BYTES_MAX || position > BYTES_MAX || position + length > BYTES_MAX {
            return Err(BadState("a number is out of range"));
        }
        let magnitude = self.bytes(length)?;
        if magnitude.first() == Some(&0) || magnitude.last() == Some(&0) {
            return Err(BadState("a number is not in its shortest form"));
        }
        Ok(Written { position, magnitude, negative })
    }
}

impl Written<'_> {
    pub(super) fn is_zero(&self) -> bool {
        self.magnitude.is_empty()
    }

    #[inline]
    pub(super) fn add_to<const N: usize>(&self, limbs: &mut Limbs<N>) {
        if !self.is_zero() {
            limbs.add_bytes(self.position, self.magnitude, self.negative);
        }
    }
}

/// Writes a number as [`Reader::number`] reads it.
pub(super) fn write_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes length and sign, then position and bytes of the magnitude without zero bytes at its ends.
pub(super) fn write_limbs<const N: usize>(out: &mut Vec<u8>, limbs: &Limbs<N>) {
    if let Some(Short { negative, magnitude, exponent }) = limbs.short() {
        return write_short(out, negative, magnitude, exponent);
    }
    let (negative, magnitude, exponent) = limbs.read();
    let (zeros, bytes) = magnitude.to_bytes();
    write_number(out, bytes.len() as u64 * 2 + u64::from(negative));
    if !bytes.is_empty() {
        write_number(out, zeros as u64 + (exponent + super::limbs::POINT as i32) as u64 / 8);
        out.extend_from_slice(&bytes);
    }
}

fn write_short(out: &mut Vec<u8>, negative: bool, magnitude: u128, exponent: i32) {
    if magnitude == 0 {
        return write_number(out, 0);
    }
    let zeros = magnitude.trailing_zeros() as usize / 8;
    let end = 16 - magnitude.leading_zeros() as usize / 8;
    write_number(out, (end - zeros) as u64 * 2 + u64::from(negative));
    write_number(out, zeros as u64 + (exponent + super::limbs::POINT as i32) as u64 / 8);
    out.extend_from_slice(&magnitude.to_le_bytes()[zeros..end]);
}
