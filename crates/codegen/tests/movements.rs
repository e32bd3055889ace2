//! Pads of every mode move elements by one kernel, as the portable operator does.

mod support;

use octofold_ops::families::{Pad, PadMode};
use octofold_tensor::{DType, Tensor};
use proptest::prelude::*;
use support::{Builder, Exactness, Random, check};

const MODES: [PadMode; 4] = [
    PadMode::Constant,
    PadMode::Reflect,
    PadMode::Edge,
    PadMode::Wrap,
];
const TYPES: [DType; 2] = [DType::F32, DType::U8];

proptest! {
    /// Borders of up to three times the size, and cuts, along some or all axes.
    #[test]
    fn a_pad_is_a_movement(
        mode in prop::sample::select(&MODES[..]),
        axes in prop::collection::vec((1_usize..6, -2_i64..12, -2_i64..12), 1..5),
        dtype in prop::sample::select(&TYPES[..]),
        first in any::<bool>(),
        seed in any::<u64>(),
    ) {
        // At least one element is left.
        let axes: Vec<_> = axes
            .into_iter()
            .map(|(size, before, after)| {
                let before = before.max(1 - size as i64);
                (size, before, after.max(1 - size as i64 - before.min(0)))
            })
            .collect();
        let padded = &axes[usize::from(!first && axes.len() > 1)..];
        let pads = padded.iter().map(|axis| axis.1).chain(padded.iter().map(|axis| axis.2));
        let rank = axes.len() as i64;
        let named = rank - padded.len() as i64..rank;
        let shape: Vec<usize> = axes.iter().map(|axis| axis.0).collect();
        let mut builder = Builder::new();
        let x = builder.input("x", dtype, &shape);
        let pads = builder.constant(Tensor::vector(pads.collect::<Vec<i64>>()));
        let named = builder.constant(Tensor::vector(named.collect::<Vec<i64>>()));
        let y = builder.node(Pad { mode }, &[Some(x), Some(pads), None, Some(named)]);
        builder.output(y);
        let input = Random::new(seed).tensor(dtype, &shape);
        let plan = check(&builder.graph, &[("x", input)], Exactness::Bits);
        prop_assert_eq!(support::kernels(&plan), ["move"]);
    }
}
