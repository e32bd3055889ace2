//! How the output of a convolution or matrix product is split among threads. None of this shows in the results.

/// The products that pay for a second thread.
pub(super) const MACS: usize = 1 << 19;

/// Most parts a thread, so that a slow thread can take fewer of them.
const PARTS: usize = 4;

/// Rows of a tile of the kernels.
const TILE: usize = 6;

/// Least tiles of a part, unless there is but one a thread.
const TILES: usize = 8;

/// How rows or columns are split: in almost equal parts of whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Rows or columns that stay together.
    pub(super) unit: usize,
    pub(super) count: usize,
}

impl Parts {
    /// Rows or columns of the longest part, of so many.
    pub(super) fn longest(self, items: usize) -> usize {
        let units = items.div_ceil(self.unit);
        (units.div_ceil(self.count) * self.unit).min(items).max(1)
    }
}

/// Parts of the rows of an output, of which each reads all weights.
pub(super) fn rows(rows: usize, macs: usize, threads: usize) -> Parts {
    let (tiles, most) = (rows.div_ceil(TILE), most_parts(macs, threads));
    if tiles < TILES * threads {
        let count = most.min(threads);
        return Parts { unit: 1, count };
    }
    let count = most.min(tiles / TILES);
    Parts { unit: TILE, count }
}

/// Parts of the output channels, of which each reads all activations: whole panels of 64, once a thread, since the kernels ask for the weights of the
/// next channels of a part in time.
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
