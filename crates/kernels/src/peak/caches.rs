//! The sizes of the caches, and buffers to measure them with.
//!
//! Linux gives the sizes (`/sys/devices/system/cpu/cpu0/cache`); elsewhere, those of common processors are assumed: 32 KiB, 512 KiB and 8 MiB.

use std::fs;
use std::path::Path;

use super::Level;

/// A line of a cache.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u64; 8]);

/// Loops over lines do this many at a time.
pub(super) const STEP: usize = 4;

/// What one piece of work goes over, at least: 256 KiB, so that the time of looking at the clock does not count.
const PIECE: usize = (256 << 10) / size_of::<Line>();

/// Most bytes that measure the third cache: virtual machines are told the size of a cache of which they have a part.
const MOST_OF_L3: u64 = 8 << 20;

/// Least and most bytes that measure memory.
const MEMORY: (u64, u64) = (128 << 20, 256 << 20);

/// A level, and how it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelSize {
    pub(super) level: Level,
    /// See [`super::MemoryPeak::capacity`].
    pub(super) capacity: u64,
    /// The bytes that all threads together go over.
    working_set: u64,
}

impl LevelSize {
    /// The lines that each thread goes over.
    pub(super) fn lines(&self, threads: usize) -> usize {
        let lines = self.working_set as usize / threads / size_of::<Line>();
        (lines / STEP * STEP).max(STEP)
    }
}

/// A cache as the system describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cache {
    level: Level,
    bytes: u64,
    /// The processors that share it.
    sharers: usize,
}

/// The levels of this machine's hierarchy, for a number of threads.
pub(super) fn levels(threads: usize) -> Vec<LevelSize> {
    let caches = system_caches(Path::new("/sys/devices/system/cpu/cpu0/cache"));
    sizes(&caches, threads, available_memory())
}

fn sizes(caches: &[Cache], threads: usize, available: Option<u64>) -> Vec<LevelSize> {
    let mut sizes: Vec<LevelSize> = Vec::new();
    for cache in caches {
        // Of the caches that two hardware threads of a core share, each of ours has one: the system spreads them over the cores.
        let instances = match (cache.level, cache.sharers) {
            (Level::L1 | Level::L2, ..=2) => threads,
            (_, sharers) => threads.div_ceil(sharers.max(1)),
        };
        let capacity = cache.bytes * instances as u64;
        let working_set = match cache.level {
            Level::L3 => (capacity / 2).min(MOST_OF_L3 * instances as u64),
            _ => capacity / 2,
        };
        // A third cache that is no larger than the second ones together, or than their working set, cannot be told from them.
        if sizes
            .last()
            .is_none_or(|inner| inner.capacity < working_set)
        {
            sizes.push(LevelSize {
                level: cache.level,
                capacity,
                working_set,
            });
        }
    }
    let outermost = sizes.last().map_or(0, |size| size.capacity);
    let wanted = (4 * outermost).clamp(MEMORY.0, MEMORY.1);
    sizes.push(LevelSize {
        level: Level::Memory,
        capacity: u64::MAX,
        working_set: available.map_or(wanted, |available| wanted.min(available / 8)),
    });
    sizes
}

/// The caches of the first processor, the nearest first.
fn system_caches(folder: &Path) -> Vec<Cache> {
    let mut found = Vec::new();
    for index in 0..8 {
        let read = |file: &str| {
            let text = fs::read_to_string(folder.join(format!("index{index}")).join(file));
            text.map(|text| text.trim().to_owned()).ok()
        };
        let cache = || {
            let level = match read("level")?.as_str() {
                "1" => Level::L1,
                "2" => Level::L2,
                "3" => Level::L3,
                _ => return None,
            };
            let size = read("size")?;
            let bytes = 1024 * size.strip_suffix('K')?.parse::<u64>().ok()?;
            let sharers = read("shared_cpu_list").map_or(1, |list| processors(&list));
            let holds_data = read("type")? != "Instruction";
            (holds_data && bytes > 0).then_some(Cache {
                level,
                bytes,
                sharers,
            })
        };
        found.extend(cache());
    }
    found.sort_by_key(|cache| cache.level);
    found.dedup_by_key(|cache| cache.level);
    if found.first().is_some_and(|cache| cache.level == Level::L1) {
        return found;
    }
    let cache = |level, bytes, sharers| Cache {
        level,
        bytes,
        sharers,
    };
    vec![
        cache(Level::L1, 32 << 10, 1),
        cache(Level::L2, 512 << 10, 1),
        cache(Level::L3, 8 << 20, usize::MAX),
    ]
}

/// The number of processors in a list such as `0-3,8`.
fn processors(list: &str) -> usize {
    let counts = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    counts.map(|count| count.unwrap_or(1)).sum()
}

/// The bytes of memory that this process may still take, as far as the system says.
fn available_memory() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = || {
        let text = read("/proc/meminfo")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let group = || {
        let limit = number("/sys/fs/cgroup/memory.max")?;
        Some(limit.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)))
    };
    [machine(), group()].into_iter().flatten().min()
}

/// Lines that are in memory: each was written once. `None` when there is no room.
pub(super) fn buffer(count: usize) -> Option<Vec<Line>> {
    let mut lines = Vec::new();
    lines.try_reserve_exact(count).ok()?;
    lines.resize(count, Line([1; 8]));
    Some(lines)
}

/// Goes over a part of the lines that begins at `*at`, or over all of them a few times when they are few; gives the bytes, and moves `*at` on.
pub(super) fn pass(lines: &mut [Line], at: &mut usize, mut over: impl FnMut(&mut [Line])) -> u64 {
    let mut done = 0;
    while done < PIECE && !lines.is_empty() {
        let count = PIECE.min(lines.len() - *at);
        over(&mut lines[*at..*at + count]);
        done += count;
        *at += count;
        if *at == lines.len() {
            *at = 0;
        }
    }
    (done * size_of::<Line>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn cache(level: Level, kib: u64, sharers: usize) -> Cache {
        Cache {
            level,
            bytes: kib << 10,
            sharers,
        }
    }

    #[test]
    fn private_caches_grow_with_the_threads_and_shared_ones_do_not() {
        let caches = [
            cache(Level::L1, 32, 2),
            cache(Level::L2, 1024, 2),
            cache(Level::L3, 32 << 10, 16),
        ];
        let sizes = sizes(&caches, 4, None);
        let capacities: Vec<u64> = sizes.iter().map(|size| size.capacity).collect();
        assert_eq!(capacities, [128 << 10, 4 << 20, 32 << 20, u64::MAX]);
        let sets: Vec<u64> = sizes.iter().map(|size| size.working_set).collect();
        assert_eq!(sets, [64 << 10, 2 << 20, 8 << 20, 128 << 20]);
        assert_eq!(sizes[0].lines(4), (16 << 10) / 64);
    }

    #[test]
    fn levels_that_cannot_be_told_apart_are_one_and_little_memory_is_left_alone() {
        let caches = [
            cache(Level::L1, 32, 1),
            cache(Level::L2, 2048, 1),
            cache(Level::L3, 4096, 64),
        ];
        let levels = sizes(&caches, 2, Some(64 << 20));
        let names: Vec<Level> = levels.iter().map(|size| size.level).collect();
        assert_eq!(names, [Level::L1, Level::L2, Level::Memory]);
        assert_eq!(levels[2].working_set, 8 << 20);
        assert!(sizes(&[], 1, Some(0))[0].lines(64) == STEP);
    }

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(processors("0"), 1);
        assert_eq!(processors("0-3,8,10-11"), 7);
        assert_eq!(processors("x"), 1);
    }

    #[test]
    fn every_line_is_passed_again_and_again() {
        for count in [STEP, 3 * STEP, PIECE + STEP] {
            let mut lines = buffer(count).unwrap();
            let mut at = 0;
            let mut bytes = 0;
            for _ in 0..3 {
                bytes += pass(&mut lines, &mut at, |part| {
                    assert!(part.len() % STEP == 0);
                    part.iter_mut().for_each(|line| line.0[0] += 1);
                });
            }
            let visits: u64 = lines.iter().map(|line| line.0[0] - 1).sum();
            assert_eq!(visits * 64, bytes);
            let (least, most) = lines.iter().fold((u64::MAX, 0), |(least, most), line| {
                (least.min(line.0[0]), most.max(line.0[0]))
            });
            assert!(most - least <= 1, "{count}");
        }
    }
}
