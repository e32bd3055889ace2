//! How the output of a convolution or matrix product is split among threads. The results do not depend on it.

/// From this number of products on, a second thread saves time.
pub(super) const MACS: usize = 1 << 19;

/// The largest number of parts for each thread. There are several, so that a slow thread can take fewer of them.
const PARTS: usize = 4;

/// The number of rows of the kernels' tiles.
const TILE: usize = 6;

/// The least number of tiles of a part, unless each thread has only one part.
const TILES: usize = 8;

/// How rows or columns are split: in almost equal parts of whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Rows or columns that stay together.
    pub(super) unit: usize,
    pub(super) count: usize,
}

impl Parts {
    /// The number of rows or columns of the longest part, when `items` of them are split.
    pub(super) fn longest(self, items: usize) -> usize {
        let units = items.div_ceil(self.unit);
        (units.div_ceil(self.count) * self.unit).min(items).max(1)
    }
}

/// Splits the rows of an output. Each part reads all weights.
pub(super) fn rows(rows: usize, macs: usize, threads: usize) -> Parts {
    let (tiles, most) = (rows.div_ceil(TILE), most_parts(macs, threads));
    if tiles < TILES * threads {
        let count = most.min(threads);
        return Parts { unit: 1, count };
    }
    let count = most.min(tiles / TILES);
    Parts { unit: TILE, count }
}

/// Splits the output channels into whole panels of 64, one part for each thread. Each part reads all activations. There is one part for each thread because the kernels
/// prefetch the weights of a part's next channels.
pub(super) fn columns(macs: usize, threads: usize) -> Parts {
    let count = most_parts(macs, threads).min(threads);
    Parts { unit: 64, count }
}

fn most_parts(macs: usize, threads: usize) -> usize {
    if threads == 1 {
        return 1;
    }
    (PARTS * threads).min(macs / MACS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_split_evenly_and_many_in_tiles() {
        let much = usize::MAX;
        let parts = |unit, count| Parts { unit, count };
        assert_eq!(rows(784, much, 2), parts(6, 8));
        assert_eq!(rows(196, much, 2), parts(6, 4));
        assert_eq!(rows(49, much, 2), parts(1, 2));
        assert_eq!(rows(49, much, 2).longest(49), 25);
        assert_eq!(rows(196, much, 2).longest(196), 54);
        assert_eq!(rows(784, much, 1).count, 1);
        assert_eq!(rows(784, MACS, 2).count, 1);
        assert_eq!(columns(much, 2).longest(512), 256);
        assert_eq!(columns(much, 3).longest(2048), 704);
        assert_eq!(columns(much, 2).longest(10), 10);
    }
}
