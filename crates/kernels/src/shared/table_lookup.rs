//! A function of one quantized value as a table of 256 bytes: sigmoid, tanh, hard-swish and the like.
//!
//! The table is indexed by the byte as it is in memory, so for a signed input entry 0x80 is the value of -128.
//! With AVX-512 VBMI a lookup is two permutations of 128 bytes and a blend by the top bit, 64 bytes at a time;
//! VBMI is looked for at run time since [`Isa::Avx512Vnni`] does not imply it. With AVX2 it is sixteen shuffles of 16
//! bytes; with NEON four lookups in 64 bytes of the table; otherwise a load a byte.

use crate::error::check_len;
use crate::{Isa, KernelError};

/// `output[i] = table[input[i]]`. Both slices have the same length.
///
/// # Errors
/// For lengths that differ and a missing instruction set.
pub fn table_lookup(
    isa: Isa,
    table: &[u8; 256],
    input: &[u8],
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_len("the output", input.len(), output.len())?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512Vnni if is_x86_feature_detected!("avx512vbmi") => {
            // SAFETY: `is_supported` found AVX-512 F, BW and VL, and VBMI was just found.
            unsafe { x86::lookup_vbmi(table, input, output) };
            return Ok(());
        }
        Isa::Avx512Vnni | Isa::Avx2 => {
            // SAFETY: `is_supported` found AVX2, which `Avx512Vnni` includes.
            unsafe { x86::lookup_avx2(table, input, output) };
            return Ok(());
        }
        _ => {}
    }
    #[cfg(target_arch = "aarch64")]
    if matches!(isa, Isa::Neon | Isa::NeonDot) {
        // SAFETY: `is_supported` found NEON.
        unsafe { neon::lookup(table, input, output) };
        return Ok(());
    }
    lookup_scalar(table, input, output);
    Ok(())
}

fn lookup_scalar(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    for (&x, y) in input.iter().zip(output) {
        *y = table[usize::from(x)];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// 64 bytes at a time.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    pub(super) fn lookup_vbmi(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
        // SAFETY: the table has 256 bytes, four vectors of 64; unaligned loads.
        let [t0, t1, t2, t3] = [0, 64, 128, 192]
            .map(|start| unsafe { _mm512_loadu_si512(table.as_ptr().add(start).cast()) });
        let (input_blocks, input_tail) = input.as_chunks::<64>();
        let (output_blocks, output_tail) = output.as_chunks_mut::<64>();
        for (x, y) in input_blocks.iter().zip(output_blocks) {
            // SAFETY: `x` has 64 bytes.
            let index = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
            // The low seven bits choose within half a table, the top bit chooses the half.
            let low = _mm512_permutex2var_epi8(t0, index, t1);
            let high = _mm512_permutex2var_epi8(t2, index, t3);
            let value = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
            // SAFETY: `y` has 64 bytes.
            unsafe { _mm512_storeu_si512(y.as_mut_ptr().cast(), value) };
        }
        super::lookup_scalar(table, input_tail, output_tail);
    }

    /// 32 bytes at a time: for each 16 entries of the table one shuffle, which gives 0 where the index is another
    /// 16's (its top bit is set after the subtraction and saturating addition).
    #[target_feature(enable = "avx2")]
    pub(super) fn lookup_avx2(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
        let (rows, _) = table.as_chunks::<16>();
        let mut vectors = [_mm256_setzero_si256(); 16];
        for (vector, row) in vectors.iter_mut().zip(rows) {
            // SAFETY: `row` has 16 bytes.
            *vector = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
        }
        let (input_blocks, input_tail) = input.as_chunks::<32>();
        let (output_blocks, output_tail) = output.as_chunks_mut::<32>();
        for (x, y) in input_blocks.iter().zip(output_blocks) {
            // SAFETY: `x` has 32 bytes.
            let mut index = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            let mut value = _mm256_setzero_si256();
            for vector in vectors {
                // An index 0..=15 becomes 112..=127 with the same low four bits; any other gets its top bit.
                let select = _mm256_adds_epu8(index, _mm256_set1_epi8(0x70));
                value = _mm256_or_si256(value, _mm256_shuffle_epi8(vector, select));
                index = _mm256_sub_epi8(index, _mm256_set1_epi8(16));
            }
            // SAFETY: `y` has 32 bytes.
            unsafe { _mm256_storeu_si256(y.as_mut_ptr().cast(), value) };
        }
        super::lookup_scalar(table, input_tail, output_tail);
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    /// 16 bytes at a time: a lookup gives 0 for an index beyond its 64 entries, or leaves what was found before.
    #[target_feature(enable = "neon")]
    pub(super) fn lookup(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
        // SAFETY: the table has 256 bytes, four times 64.
        let [t0, t1, t2, t3] =
            [0, 64, 128, 192].map(|start| unsafe { vld1q_u8_x4(table.as_ptr().add(start)) });
        let (input_blocks, input_tail) = input.as_chunks::<16>();
        let (output_blocks, output_tail) = output.as_chunks_mut::<16>();
        for (x, y) in input_blocks.iter().zip(output_blocks) {
            // SAFETY: `x` has 16 bytes.
            let index = unsafe { vld1q_u8(x.as_ptr()) };
            let value = vqtbl4q_u8(t0, index);
            let value = vqtbx4q_u8(value, t1, vsubq_u8(index, vdupq_n_u8(64)));
            let value = vqtbx4q_u8(value, t2, vsubq_u8(index, vdupq_n_u8(128)));
            let value = vqtbx4q_u8(value, t3, vsubq_u8(index, vdupq_n_u8(192)));
            // SAFETY: `y` has 16 bytes.
            unsafe { vst1q_u8(y.as_mut_ptr(), value) };
        }
        super::lookup_scalar(table, input_tail, output_tail);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{LENGTHS, Random};
    use super::*;

    #[test]
    fn every_length_and_byte_is_looked_up() {
        let mut random = Random::new(7);
        let table: [u8; 256] = random.bytes(256).try_into().unwrap();
        let all: Vec<u8> = (0..=255).rev().collect();
        let inputs = LENGTHS
            .into_iter()
            .map(|len| random.bytes(len))
            .chain([all]);
        for input in inputs.collect::<Vec<_>>() {
            let expected: Vec<u8> = input.iter().map(|&x| table[usize::from(x)]).collect();
            for isa in Isa::supported() {
                let mut output = vec![0xA5; input.len()];
                table_lookup(isa, &table, &input, &mut output).unwrap();
                assert_eq!(output, expected, "{isa}");
            }
        }
    }

    #[test]
    fn the_avx2_version_runs_also_where_vbmi_is_missing() {
        let table: [u8; 256] = std::array::from_fn(|i| (i * 7 + 3) as u8);
        let input: Vec<u8> = (0..=255).collect();
        if Isa::Avx2.is_supported() {
            let mut output = [0xA5; 256];
            table_lookup(Isa::Avx2, &table, &input, &mut output).unwrap();
            assert_eq!(output, table);
        }
    }

    #[test]
    fn unequal_lengths_are_refused() {
        assert!(table_lookup(Isa::Scalar, &[0; 256], &[0; 3], &mut [0; 4]).is_err());
    }
}
