//! The instruction sets that kernels are written for, and which of them this processor has.
//!
//! [`Isa::detect`] picks the best one at run time. Callers may force another one, and it is they who read the environment variable
//! `OCTOFOLD_ISA`. Every instruction set gives the same bytes, so the choice
//! is a matter of speed. A kernel without a version of its own for an instruction set runs that of a simpler one.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, for every processor; the reference of the others.
    Scalar,
    /// x86-64 with AVX2 and FMA, 256 bits: every processor with the first has the second, but an emulator may not.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI, 512 bits.
    Avx512Vnni,
    /// 64-bit ARM with Advanced SIMD ("NEON"), 128 bits: every such processor.
    Neon,
    /// 64-bit ARM with NEON and the dot products of Armv8.2 (`sdot`).
    NeonDot,
}

impl Isa {
    /// All instruction sets, those of an architecture from the simplest to the best.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Avx2,
        Self::Avx512Vnni,
        Self::Neon,
        Self::NeonDot,
    ];

    /// The best instruction set of this processor.
    pub fn detect() -> Self {
        Self::supported().last().copied().unwrap_or(Self::Scalar)
    }

    /// The instruction sets of this processor, from the simplest to the best. Tests run all of them.
    pub fn supported() -> Vec<Self> {
        let all = Self::ALL.into_iter();
        all.filter(|isa| isa.is_supported()).collect()
    }

    /// Whether this processor has the instruction set. Cheap: the processor is asked once.
    pub fn is_supported(self) -> bool {
        static SUPPORTED: OnceLock<[bool; Isa::ALL.len()]> = OnceLock::new();
        SUPPORTED.get_or_init(|| Self::ALL.map(Self::ask))[self as usize]
    }

    /// Asks the processor whether it has the instruction set.
    fn ask(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => {
                std::arch::is_aarch64_feature_detected!("neon")
                    && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            // Those of other architectures.
            _ => false,
        }
    }

    /// The name: `scalar`, `avx2`, `avx512vnni`, `neon` or `neondot`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
            Self::Neon => "neon",
            Self::NeonDot => "neondot",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of parsing an [`Isa`] from a name that no instruction set has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no instruction set; there are scalar, avx2, avx512vnni, neon and neondot")]
pub struct UnknownIsa(pub String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>(), Ok(isa));
        }
        assert!("avx".parse::<Isa>().is_err());
    }

    #[test]
    fn supported_sets_are_ordered() {
        let supported = Isa::supported();
        assert_eq!(supported.first(), Some(&Isa::Scalar));
        assert_eq!(supported.last(), Some(&Isa::detect()));
        assert!(supported.is_sorted());
    }
}
