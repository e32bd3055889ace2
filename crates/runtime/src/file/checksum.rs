//! The checksum of the constants. All processors compute it while the caller decodes the metadata, because reading the constants takes most of the loading time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crc32fast::Hasher;

/// The number of bytes that a thread reads at a time.
const PIECE: usize = 1 << 20;

/// The largest number of threads.
const THREADS: usize = 8;

/// The CRC-32 of `bytes`, and the result of `meanwhile`, which runs on this thread.
pub(super) fn crc_meanwhile<T>(bytes: &[u8], meanwhile: impl FnOnce() -> T) -> (u32, T) {
    let pieces: Vec<_> = bytes.chunks(PIECE).collect();
    let next = AtomicUsize::new(0);
    let hash = |piece: &[u8]| {
        let mut hasher = Hasher::new();
        hasher.update(piece);
        hasher
    };
    let take = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else {
                return found;
            };
            found.push((index, hash(piece)));
        }
    };
    let helpers = if pieces.len() < 4 {
        0
    } else {
        thread::available_parallelism()
            .map_or(1, usize::from)
            .min(THREADS)
            - 1
    };
    let (value, found) = thread::scope(|scope| {
        // If the system refuses a thread, the others read its pieces.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, take).ok();
        let threads: Vec<_> = (0..helpers).map_while(spawn).collect();
        let value = meanwhile();
        let mut found = take();
        let others = threads.into_iter().filter_map(|thread| thread.join().ok());
        found.extend(others.flatten());
        (value, found)
    });
    let mut hashers = vec![None; pieces.len()];
    for (index, hasher) in found {
        hashers[index] = Some(hasher);
    }
    let mut all = Hasher::new();
    for (hasher, piece) in hashers.into_iter().zip(&pieces) {
        all.combine(&hasher.unwrap_or_else(|| hash(piece)));
    }
    (all.finalize(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_checksum_of_the_whole() {
        for len in [
            0,
            1,
            PIECE - 1,
            PIECE,
            3 * PIECE + 5,
            5 * PIECE,
            9 * PIECE + 1,
        ] {
            let bytes: Vec<u8> = (0..len).map(|i| ((i * i) >> 7) as u8).collect();
            let expected = crc32fast::hash(&bytes);
            assert_eq!(crc_meanwhile(&bytes, || 7), (expected, 7));
        }
    }
}
