//! Pads of every mode, and elements that computed indices pick, are moved by kernels as by the portable operators.

mod support;

use octofold_ops::families::{GatherElements, Pad, PadMode};
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

    /// The result may be shorter than the data along other axes, and longer along that of the indices.
    #[test]
    fn indices_pick_along_an_axis(
        sizes in prop::collection::vec((1_usize..6, 0_usize..6), 1..5),
        axis in 0_usize..4,
        longer in 0_usize..9,
        dtype in prop::sample::select(&TYPES[..]),
        from_the_end in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let axis = axis % sizes.len();
        let shape: Vec<usize> = sizes.iter().map(|size| size.0).collect();
        let mut picked: Vec<usize> = sizes.iter().map(|size| size.0.min(size.1)).collect();
        picked[axis] = longer;
        // An empty result needs no kernel.
        let kernel = if picked.contains(&0) { "portable" } else { "pick" };
        let mut random = Random::new(seed);
        let size = shape[axis] as i64;
        let count = picked.iter().product();
        let indices = (0..count).map(|_| random.int(-size, size - 1)).collect::<Vec<i64>>();
        let indices = Tensor::new(picked.iter().copied(), indices).expect("their number");
        let mut builder = Builder::new();
        let x = builder.input("x", dtype, &shape);
        let i = builder.input("i", DType::I64, &picked);
        let named = if from_the_end { axis as i64 - shape.len() as i64 } else { axis as i64 };
        let y = builder.node(GatherElements { axis: named }, &[Some(x), Some(i)]);
        builder.output(y);
        let input = random.tensor(dtype, &shape);
        let plan = check(&builder.graph, &[("x", input), ("i", indices)], Exactness::Bits);
        prop_assert_eq!(support::kernels(&plan), [kernel]);
    }
}
