//! From 8-bit values to 8-bit values of other parameters or of the other sign:
//! `rne(f32(q - z)·f32(s/s_y)) + z_y`.
//!
//! The definition is `octofold_quant::requantize::rescale`. Concatenation and maximum pooling use it.

use super::dispatch::isa_versions;
use super::{Quant8, Reader, Target8, Writer};
use crate::{Isa, KernelError};

/// The constants of a change from one meaning of bytes to another: a copy where nothing changes.
#[derive(Clone, Copy)]
pub(super) enum Rescaler {
    Copy,
    Map(Constants),
}

#[derive(Clone, Copy)]
pub(super) struct Constants {
    from: Reader,
    ratio: f32,
    to: Writer,
}

impl Constants {
    #[inline(always)]
    fn byte(self, x: u8) -> u8 {
        self.to.byte(self.from.steps(x) * self.ratio)
    }
}

impl Rescaler {
    pub(super) fn new(from: Quant8, to: Target8) -> Result<Self, KernelError> {
        from.check()?;
        to.check()?;
        if from == to.quant && to.is_full() {
            return Ok(Self::Copy);
        }
        Ok(Self::Map(Constants {
            from: from.reader(),
            ratio: from.params.scale / to.quant.params.scale,
            to: to.writer(),
        }))
    }

    /// Fills the columns of some rows of `output` from the rows of `input`, which are as wide as the columns.
    pub(super) fn run(
        self,
        isa: Isa,
        input: &[u8],
        columns: Columns,
        output: &mut [u8],
    ) -> Result<(), KernelError> {
        match self {
            Self::Copy => {
                let pairs = columns.pairs(input, output);
                pairs.for_each(|(from, to)| to.copy_from_slice(from));
                Ok(())
            }
            Self::Map(constants) => rescale_rows(isa, input, constants, columns, output),
        }
    }

    /// Changes `data` in place.
    pub(super) fn run_in_place(self, isa: Isa, data: &mut [u8]) -> Result<(), KernelError> {
        match self {
            Self::Copy => Ok(()),
            Self::Map(constants) => rescale_in_place(isa, constants, data),
        }
    }
}

/// Neighbouring bytes of each row.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) first: usize,
    pub(super) count: usize,
    /// Bytes of a whole row.
    pub(super) width: usize,
}

impl Columns {
    /// The rows of `input`, of `count` bytes, with their columns of `output`.
    #[inline(always)]
    fn pairs<'a>(
        self,
        input: &'a [u8],
        output: &'a mut [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a mut [u8])> {
        let rows = output.chunks_exact_mut(self.width);
        let columns = rows.map(move |row| &mut row[self.first..][..self.count]);
        input.chunks_exact(self.count).zip(columns)
    }
}

isa_versions!(
    fn rescale_rows(input: &[u8], c: Constants, columns: Columns, output: &mut [u8]) = rows_loop
);
isa_versions!(fn rescale_in_place(c: Constants, data: &mut [u8]) = in_place_loop);

/// Bytes that are rescaled at a time before they are written to their rows: a row may be too short for a loop over vectors.
const BLOCK: usize = 1024;

#[inline(always)]
fn rows_loop(input: &[u8], c: Constants, columns: Columns, output: &mut [u8]) {
    if columns.count >= BLOCK {
        for (from, to) in columns.pairs(input, output) {
            rescale_loop(from, c, to);
        }
        return;
    }
    let mut block = [0; BLOCK];
    let rows = BLOCK / columns.count;
    let (from, to) = (rows * columns.count, rows * columns.width);
    for (from, to) in input.chunks(from).zip(output.chunks_mut(to)) {
        let block = &mut block[..from.len()];
        rescale_loop(from, c, block);
        for (from, to) in columns.pairs(block, to) {
            let ((from, rest), (to, end)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
            for (from, to) in from.iter().zip(to) {
                *to = *from;
            }
            for (from, to) in rest.iter().zip(end) {
                *to = *from;
            }
        }
    }
}

#[inline(always)]
fn rescale_loop(input: &[u8], c: Constants, output: &mut [u8]) {
    for (&x, y) in input.iter().zip(output) {
        *y = c.byte(x);
    }
}

#[inline(always)]
fn in_place_loop(c: Constants, data: &mut [u8]) {
    for y in data {
        *y = c.byte(*y);
    }
}

#[cfg(test)]
mod tests {
    use octofold_quant::requantize;

    use super::super::testing::{LENGTHS, Random, params, quants, targets};
    use super::*;

    fn check(input: &[u8], from: Quant8, to: Target8) {
        let one = |&x| {
            let (p, q) = (from.params, to.quant.params);
            requantize::rescale(from.value(x), p, q, to.lo, to.hi) as u8
        };
        let expected: Vec<u8> = input.iter().map(one).collect();
        for isa in Isa::supported() {
            let mut output = vec![0xA5; input.len()];
            let rescaler = Rescaler::new(from, to).unwrap();
            let columns = Columns {
                first: 0,
                count: input.len().max(1),
                width: input.len().max(1),
            };
            rescaler.run(isa, input, columns, &mut output).unwrap();
            assert_eq!(output, expected, "{isa} {from:?} {to:?}");
            output.copy_from_slice(input);
            rescaler.run_in_place(isa, &mut output).unwrap();
            assert_eq!(output, expected, "{isa} {from:?} {to:?} in place");
        }
    }

    #[test]
    fn every_byte_gives_the_value_of_quant() {
        let all: Vec<u8> = (0..=255).collect();
        for from in quants() {
            for to in targets() {
                check(&all, from, to);
            }
            check(&all, from, Target8::full(from));
            check(
                &all,
                from,
                Target8 {
                    lo: 5,
                    hi: 90,
                    quant: from,
                },
            );
        }
        // Every odd value is a tie.
        let to = Target8::full(Quant8::unsigned(params(2.0, 11)));
        check(&all, Quant8::unsigned(params(1.0, 100)), to);
    }

    #[test]
    fn all_lengths_agree() {
        let mut random = Random::new(3);
        for len in LENGTHS {
            check(&random.bytes(len), quants()[3], targets()[7]);
        }
    }
}
