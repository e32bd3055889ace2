//! What the processor can do at most: operations a second, and bytes a second.
//!
//! A kernel's time means little alone. This module measures the two limits that no kernel can beat on this machine: how
//! fast each instruction set multiplies and adds when nothing else is done ([`ComputePeak`]), and how fast bytes come
//! from, and go to, each level of the memory hierarchy ([`MemoryPeak`]). [`Peak::limit`] makes of them the least time that
//! some [`Work`] can take (the roofline of Williams, Waterman and Patterson, 2009).
//!
//! The loops are in assembly where there are vector instructions, so that no compiler merges, moves or drops their work:
//! - int8: the instructions by which the kernels multiply, in as many independent chains as registers allow, and no others.
//!   `vpdpbusd` for AVX-512 VNNI, `vpmaddwd` and `vpaddd` for AVX2 (see `conv/avx2/mod.rs`), `smlal` for NEON, `sdot` for dot products.
//!   Loads, the widening of bytes, packing and the output stage cost real kernels something on top.
//! - float: fused multiply-adds, in the same way.
//! - scalar: the plain loop of the portable kernel, on operands in the first cache. It is what the compiler makes of it.
//! - memory: every thread reads, or writes, a part of its own again and again, by the widest vectors that the processor has.
//!
//! One measurement is the best of ten short windows, since whatever else the machine does only
//! takes away. Everything together takes about half a second.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod caches;
mod clock;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::io;

use crate::Isa;
use caches::{LevelSize, Line};

/// The limits of this machine, on some number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// The number of threads; all figures are of all of them together.
    pub threads: usize,
    /// The limits of computing, one for each instruction set that was asked for, in that order.
    pub compute: Vec<ComputePeak>,
    /// The limits of moving bytes, from the nearest level to the furthest.
    pub memory: Vec<MemoryPeak>,
}

/// How fast an instruction set computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComputePeak {
    /// The instruction set.
    pub isa: Isa,
    /// 10⁹ operations a second on 8-bit integers; a multiply-accumulate is two operations.
    pub int8_gops: f64,
    /// 10⁹ operations a second on 32-bit floats; a multiply-accumulate is two operations.
    pub float_gflops: f64,
}

/// How fast bytes come from, and go to, a level of the memory hierarchy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryPeak {
    /// The level.
    pub level: Level,
    /// The bytes that fit, in the caches of all threads together; `u64::MAX` for [`Level::Memory`].
    pub capacity: u64,
    /// The bytes of all threads that the measurement went over: about half of the cache.
    pub measured: u64,
    /// 10⁹ bytes read a second.
    pub read_gbs: f64,
    /// 10⁹ bytes written a second, by ordinary stores. Beyond the first cache, each line is fetched before it is overwritten; that
    /// traffic is not counted.
    pub write_gbs: f64,
}

/// A level of the memory hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The first cache, of data.
    L1,
    /// The second cache.
    L2,
    /// The third cache, which cores share.
    L3,
    /// Memory.
    Memory,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
            Self::Memory => "memory",
        })
    }
}

/// What a kernel has to do at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-accumulates.
    pub macs: u64,
    /// Whether these are of 8-bit integers; otherwise of floats.
    pub integer: bool,
    /// Bytes that are read: operands and weights, each once.
    pub read: u64,
    /// Bytes that are written: results.
    pub written: u64,
}

/// The least time that some work takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The time that the products take alone, in seconds.
    pub compute: f64,
    /// The time that moving the bytes takes alone, in seconds.
    pub memory: f64,
    /// Where the bytes fit in.
    pub level: Level,
}

/// What bounds the speed of some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its products.
    Compute,
    /// Its bytes.
    Memory,
}

impl Bound {
    /// The name: `compute` or `memory`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
        }
    }
}

impl Limit {
    /// The least time, in seconds: products and transfers may go on at the same time, so that it is the longer of the two.
    pub fn seconds(&self) -> f64 {
        self.compute.max(self.memory)
    }

    /// Which of the two it is.
    pub fn bound(&self) -> Bound {
        if self.compute >= self.memory {
            Bound::Compute
        } else {
            Bound::Memory
        }
    }
}

/// Rounds of one call of the loops in assembly: 20 to 80 microseconds.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const ROUNDS: u64 = 4000;

/// The two operands of products of bytes, four bytes each, of both signs.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const BYTES: [u32; 2] = [0x7F80_01FE, 0x81FF_7E02];
/// The two operands of products of floats, whose sums stay far from infinity and from denormal numbers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const FLOATS: [u32; 2] = [1.01_f32.to_bits(), 0.001_f32.to_bits()];

/// One instruction set's loops. Each does a fixed amount of work and says how much.
struct Loops {
    /// Gives the operations on integers that it did.
    int8: fn() -> u64,
    /// Gives the operations on floats that it did.
    float: fn() -> u64,
    /// Reads lines, whose number is a multiple of [`caches::STEP`].
    read: fn(&[Line]),
    /// Writes such lines.
    write: fn(&mut [Line]),
}

/// The loops of an instruction set that the processor has.
fn loops(isa: Isa) -> Loops {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => x86::avx512vnni(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2(),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => aarch64::neon(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => aarch64::neondot(),
        _ => scalar::LOOPS,
    }
}

impl Peak {
    /// Measures the limits of `isas`, and those of memory, on `threads` threads; 0 takes as many as the processor runs at once. Instruction
    /// sets that the processor lacks are left out, and so is [`Level::Memory`] where there is no room to measure it.
    ///
    /// It starts threads of its own and ends them, and for a moment takes memory: four times the third cache, at least 128 MiB and at most 256 MiB,
    /// but no more than an eighth of what the system has left.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn measure(isas: &[Isa], threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut compute = Vec::new();
        for &isa in isas.iter().filter(|isa| isa.is_supported()) {
            let loops = loops(isa);
            let rate = |body: fn() -> u64| clock::rate(threads, |_| (), |()| body());
            compute.push(ComputePeak {
                isa,
                int8_gops: rate(loops.int8)? / 1e9,
                float_gflops: rate(loops.float)? / 1e9,
            });
        }
        let mut memory = Vec::new();
        for size in caches::levels(threads) {
            memory.extend(measure_level(size, threads)?);
        }
        Ok(Self {
            threads,
            compute,
            memory,
        })
    }

    /// The limits of an instruction set, when it was measured.
    pub fn of(&self, isa: Isa) -> Option<&ComputePeak> {
        self.compute.iter().find(|peak| peak.isa == isa)
    }

    /// The least time that some work takes with an instruction set.
    ///
    /// The bytes are taken to come from the nearest level in which all of them fit. In the first cache, loads and stores go at the same
    /// time; further away they share the way. `None` when nothing was measured that the work needs.
    pub fn limit(&self, isa: Isa, work: &Work) -> Option<Limit> {
        let compute = self.of(isa)?;
        let giga_ops = if work.integer {
            compute.int8_gops
        } else {
            compute.float_gflops
        };
        let bytes = work.read.saturating_add(work.written);
        let fits = |peak: &&MemoryPeak| bytes <= peak.capacity;
        let level = self.memory.iter().find(fits).or(self.memory.last())?;
        let read = work.read as f64 / (level.read_gbs * 1e9);
        let written = work.written as f64 / (level.write_gbs * 1e9);
        Some(Limit {
            compute: 2.0 * work.macs as f64 / (giga_ops * 1e9),
            memory: match level.level {
                Level::L1 => read.max(written),
                _ => read + written,
            },
            level: level.level,
        })
    }
}

/// Measures a level; `None` when there is no memory for it.
fn measure_level(size: LevelSize, threads: usize) -> io::Result<Option<MemoryPeak>> {
    let loops = loops(Isa::detect());
    let count = size.lines(threads);
    let setup = |_| (caches::buffer(count).unwrap_or_default(), 0);
    let read = clock::rate(threads, setup, |(lines, at)| {
        caches::pass(lines, at, |part| (loops.read)(part))
    })?;
    if read == 0.0 {
        return Ok(None);
    }
    let write = clock::rate(threads, setup, |(lines, at)| {
        caches::pass(lines, at, |part| (loops.write)(part))
    })?;
    Ok(Some(MemoryPeak {
        level: size.level,
        capacity: size.capacity,
        measured: (count * size_of::<Line>() * threads) as u64,
        read_gbs: read / 1e9,
        write_gbs: write / 1e9,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak() -> Peak {
        let level = |level, capacity, gbs| MemoryPeak {
            level,
            capacity,
            measured: capacity / 2,
            read_gbs: 2.0 * gbs,
            write_gbs: gbs,
        };
        let compute = |isa, int8_gops, float_gflops| ComputePeak {
            isa,
            int8_gops,
            float_gflops,
        };
        Peak {
            threads: 1,
            compute: vec![
                compute(Isa::Scalar, 10.0, 5.0),
                compute(Isa::Avx2, 100.0, 50.0),
            ],
            memory: vec![
                level(Level::L1, 1000, 100.0),
                level(Level::Memory, u64::MAX, 10.0),
            ],
        }
    }

    #[test]
    fn the_longer_of_computing_and_moving_is_the_limit() {
        let work = Work {
            macs: 50_000,
            integer: true,
            read: 400,
            written: 600,
        };
        let limit = peak().limit(Isa::Avx2, &work).unwrap();
        assert_eq!((limit.bound(), limit.level), (Bound::Compute, Level::L1));
        assert!((limit.seconds() - 1e-6).abs() < 1e-12);
        // Stores are slower than loads, and go at the same time.
        assert!((limit.memory - 6e-9).abs() < 1e-15);

        let work = Work { macs: 0, ..work };
        assert_eq!(
            peak().limit(Isa::Avx2, &work).unwrap().bound(),
            Bound::Memory
        );
    }

    #[test]
    fn bytes_that_leave_the_first_cache_share_the_way_to_memory() {
        let work = Work {
            read: 2_000,
            written: 3_000,
            ..Work::default()
        };
        let limit = peak().limit(Isa::Scalar, &work).unwrap();
        assert_eq!((limit.bound(), limit.level), (Bound::Memory, Level::Memory));
        assert!((limit.seconds() - 4e-7).abs() < 1e-12);
    }

    #[test]
    fn integers_and_floats_have_limits_of_their_own() {
        let work = |integer| Work {
            macs: 1_000_000,
            integer,
            ..Work::default()
        };
        let seconds = |isa, integer| peak().limit(isa, &work(integer)).unwrap().seconds();
        assert!((seconds(Isa::Scalar, true) - 2e-4).abs() < 1e-9);
        assert!((seconds(Isa::Avx2, false) - 4e-5).abs() < 1e-9);
        assert!(peak().limit(Isa::Neon, &work(true)).is_none());
    }

    #[test]
    fn everything_that_was_asked_for_is_measured() {
        let isas = Isa::supported();
        let peak = Peak::measure(&isas, 2).unwrap();
        assert_eq!(peak.threads, 2);
        let measured: Vec<Isa> = peak.compute.iter().map(|peak| peak.isa).collect();
        assert_eq!(measured, isas);
        for compute in &peak.compute {
            assert!(compute.int8_gops.is_normal() && compute.float_gflops.is_normal());
        }
        assert!(peak.memory.is_sorted_by_key(|peak| peak.level));
        assert!(peak.memory.is_sorted_by_key(|peak| peak.capacity));
        assert!(peak.memory.len() >= 2);
        for memory in &peak.memory {
            assert!(memory.read_gbs.is_normal() && memory.write_gbs.is_normal());
        }
    }
}
