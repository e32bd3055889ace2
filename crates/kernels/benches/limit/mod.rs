//! Benchmarks compared with the limits of the machine, which are measured in the same run, on one thread.
//!
//! [`Group`] is a group of criterion's that remembers the best time of each benchmark and prints a line after it: the speed, and what share
//! that is of the least time that [`Peak`] allows. A benchmark whose name ends with that of an instruction set is of that set; others are of the
//! best one.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use octofold_kernels::Isa;
use octofold_kernels::peak::{Bound, Peak, Work};

/// A group of benchmarks.
pub(crate) struct Group<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    work: Work,
}

/// A group of benchmarks of a family of kernels, all on integers or all on floats.
pub(crate) fn group<'a>(c: &'a mut Criterion, name: impl Into<String>, integer: bool) -> Group<'a> {
    let work = Work {
        integer,
        ..Work::default()
    };
    Group {
        group: c.benchmark_group(name),
        work,
    }
}

impl Group<'_> {
    /// What one call of the next benchmarks does: criterion counts elements, the limit goes by products and bytes.
    #[allow(dead_code, reason = "each benchmark compiles this file for itself")]
    pub(crate) fn work(&mut self, throughput: Throughput, work: Work) {
        self.group.throughput(throughput);
        self.work = work;
    }

    /// What one call of the next benchmarks does: operations, two for each product, or bytes, of which two of three are read.
    #[allow(dead_code, reason = "each benchmark compiles this file for itself")]
    pub(crate) fn throughput(&mut self, throughput: Throughput) {
        let (macs, bytes) = match throughput {
            Throughput::Elements(operations) => (operations / 2, 0),
            Throughput::Bytes(bytes) => (0, bytes),
            _ => (0, 0),
        };
        let work = Work {
            macs,
            read: bytes / 3 * 2,
            written: bytes / 3,
            ..self.work
        };
        self.work(throughput, work);
    }

    /// Measures a function, and prints what share of the limit it reaches.
    pub(crate) fn bench_function(
        &mut self,
        id: impl Into<String>,
        mut f: impl FnMut(&mut Bencher<'_, '_>),
    ) {
        let (id, best) = (id.into(), Cell::new(Duration::MAX));
        self.group.bench_function(&id, |bencher| {
            f(&mut Bencher {
                bencher,
                best: &best,
            });
        });
        // A filter may have left it out.
        if best.get() < Duration::MAX {
            let isa = id
                .rsplit(['/', '_'])
                .next()
                .and_then(|name| name.parse().ok());
            print_share(isa.unwrap_or_else(Isa::detect), &self.work, best.get());
        }
    }

    /// Ends the group.
    #[allow(dead_code, reason = "each benchmark compiles this file for itself")]
    pub(crate) fn finish(self) {
        self.group.finish();
    }
}

/// Times a routine for criterion, and keeps the best time.
pub(crate) struct Bencher<'a, 'b> {
    bencher: &'a mut criterion::Bencher<'b>,
    best: &'a Cell<Duration>,
}

impl Bencher<'_, '_> {
    /// Times calls of a routine.
    pub(crate) fn iter<R>(&mut self, mut routine: impl FnMut() -> R) {
        let best = self.best;
        self.bencher.iter_custom(|calls| {
            let began = Instant::now();
            for _ in 0..calls {
                black_box(routine());
            }
            let time = began.elapsed();
            // Of a single short call, the looks at the clock would be a part of the time.
            if calls > 1 || time > Duration::from_millis(1) {
                best.set(best.get().min(time.div_f64(calls as f64)));
            }
            time
        });
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports to a terminal")]
fn print_share(isa: Isa, work: &Work, time: Duration) {
    static PEAK: OnceLock<Option<Peak>> = OnceLock::new();
    let peak = PEAK.get_or_init(|| Peak::measure(&Isa::supported(), 1).ok());
    let Some(limit) = peak.as_ref().and_then(|peak| peak.limit(isa, work)) else {
        return;
    };
    let seconds = time.as_secs_f64();
    let speed = if work.macs > 0 {
        format!("{:.1} GOP/s", 2e-9 * work.macs as f64 / seconds)
    } else {
        let bytes = work.read + work.written;
        format!("{:.1} GB/s", 1e-9 * bytes as f64 / seconds)
    };
    let by = match limit.bound() {
        Bound::Compute => "of computing".to_owned(),
        Bound::Memory => format!("of moving bytes in {}", limit.level),
    };
    println!(
        "{:24}at best {speed}, {:.1} % of the limit {by}",
        "",
        100.0 * limit.seconds() / seconds
    );
}
