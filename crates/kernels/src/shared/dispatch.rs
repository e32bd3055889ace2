//! Compiling one loop for several instruction sets.
//!
//! `isa_versions!` makes, from a function marked `#[inline(always)]`, one copy for each [`Isa`](crate::Isa),
//! in which the compiler may use that instruction set and vectorizes accordingly, and a safe function that
//! picks a copy. NEON is in all code for 64-bit ARM, so that the plain copy is that of NEON there. Rust never contracts a product and a sum into one rounding, so all copies give the same bits.

/// `isa_versions!(fn name(arg: Type, …) = body);` defines `fn name(isa, arg, …) -> Result<(), KernelError>`.
macro_rules! isa_versions {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) -> Result<(), $crate::KernelError> {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),*) {
                $body($($arg),*);
            }
            if !isa.is_supported() {
                return Err($crate::KernelError::Unsupported(isa));
            }
            match isa {
                // SAFETY: `is_supported` found AVX2 and FMA in this processor.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: `is_supported` found AVX-512 F, BW, VL and DQ in this processor.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512Vnni => unsafe { avx512($($arg),*) },
                _ => $body($($arg),*),
            }
            Ok(())
        }
    };
}
pub(crate) use isa_versions;
