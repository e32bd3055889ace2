//! What a call takes: blocks of rows and columns that join to the whole, and the arguments that are refused.

use std::ops::Range;

use super::super::*;
use crate::{Engine, Isa, KernelError};

/// A prepared convolution with its data.
struct Layer {
    prepared: PreparedConv,
    input: Vec<u8>,
    weights: Vec<u8>,
    bias: Vec<i32>,
    multiplier: Vec<f32>,
}

/// The arguments of a call, which a test may change.
struct Draft<'a> {
    prepared: &'a PreparedConv,
    input: &'a [u8],
    zero_point: i32,
    weights: &'a [u8],
    stage: Quantized<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: usize,
}

impl Layer {
    fn new(engine: Engine, shape: &ConvShape) -> Self {
        let prepared = PreparedConv::new(engine, shape).expect("a valid shape");
        let depth = shape.in_c / shape.groups * shape.kernel_h * shape.kernel_w;
        let weights = 0..depth * shape.out_c;
        let weights: Vec<i8> = weights.map(|i| (i * 37 % 255) as u8 as i8).collect();
        let input = 0..shape.batch * shape.in_h * shape.in_w * shape.in_c;
        let bias = fold_bias(&vec![5; shape.out_c], &weights, 9, false);
        Self {
            prepared,
            input: input.map(|i| (i * 91 % 256) as u8).collect(),
            weights: pack(engine, shape, &weights).expect("a valid shape"),
            bias: bias.expect("a small bound"),
            multiplier: vec![0.01; shape.out_c],
        }
    }

    /// Valid arguments, if the rows and columns are.
    fn draft(&self, rows: Range<usize>, columns: Range<usize>) -> Draft<'_> {
        Draft {
            prepared: &self.prepared,
            input: &self.input,
            zero_point: 9,
            weights: &self.weights,
            stage: Quantized {
                bias: &self.bias,
                multiplier: &self.multiplier,
                zero_point: 100,
                lo: 0,
                hi: 255,
                residual: None,
            },
            rows,
            columns,
            scratch: self.prepared.scratch_len(),
        }
    }
}

impl Draft<'_> {
    fn run(self, isa: Isa, output: &mut [u8]) -> Result<(), KernelError> {
        let call = ConvCall {
            input: Activations {
                data: self.input,
                signed: false,
                zero_point: self.zero_point,
            },
            weights: self.weights,
            stage: &OutputStage::Quantized(self.stage),
            rows: self.rows,
            columns: self.columns,
            output: OutputSlice::Bytes(output),
            scratch: &mut vec![0; self.scratch],
        };
        self.prepared.run(isa, call)
    }
}

#[test]
fn columns_of_a_product_join_to_the_whole() {
    let (rows, k, n) = (3, 20, 150);
    for engine in Engine::ALL {
        let layer = Layer::new(engine, &LinearShape { rows, k, n }.as_conv());
        for isa in Isa::supported() {
            let run =
                |rows, columns, output: &mut [u8]| layer.draft(rows, columns).run(isa, output);
            let mut whole = vec![0; rows * n];
            run(0..3, 0..n, &mut whole).expect("valid arguments");
            for columns in [0..16, 16..112, 64..150, 144..150, 32..32] {
                let mut block = vec![0x5A; 2 * columns.len()];
                run(1..3, columns.clone(), &mut block).expect("valid arguments");
                for row in 0..2 {
                    let expected = &whole[(row + 1) * n..][columns.clone()];
                    let found = &block[row * columns.len()..][..columns.len()];
                    assert_eq!(found, expected, "{engine:?} {isa}");
                }
            }
            for columns in [4..12, 0..7, 144..151] {
                let result = run(0..1, columns, &mut [0; 8]);
                let refused = matches!(result, Err(KernelError::Range { .. }));
                assert!(refused, "{engine:?} {result:?}");
            }
        }
    }
}

/// Panels are counted from the first channel of a group, so that a range of channels would begin inside of one.
#[test]
fn channels_of_a_grouped_convolution_are_computed_together() {
    let shape = ConvShape {
        groups: 2,
        ..ConvShape::pointwise(4, 4, 8, 24).with_kernel(3, 1, 1)
    };
    for engine in Engine::ALL {
        let layer = Layer::new(engine, &shape);
        let run = |columns: Range<usize>| {
            let output = &mut vec![0; 16 * columns.len()];
            layer.draft(0..16, columns).run(Isa::detect(), output)
        };
        assert_eq!(run(0..24), Ok(()));
        assert!(matches!(run(16..24), Err(KernelError::Range { .. })));
    }
}

#[test]
fn wrong_lengths_and_constants_are_refused_before_anything_is_written() {
    let shape = ConvShape::pointwise(4, 4, 4, 16).with_kernel(3, 1, 1);
    let residual = Residual {
        data: &[0; 255],
        signed: false,
        residual_zero_point: 0,
        residual_ratio: 1.0,
        output_ratio: 1.0,
        zero_point: 0,
        lo: 0,
        hi: 255,
    };
    for engine in Engine::ALL {
        let layer = Layer::new(engine, &shape);
        let wider = Layer::new(engine, &ConvShape { in_w: 5, ..shape });
        let draft = || layer.draft(0..16, 0..16);
        let rows = |rows| layer.draft(rows, 0..16);
        assert_eq!(draft().run(Isa::detect(), &mut [7; 256]), Ok(()));
        let (good, len) = (draft().stage, layer.prepared.scratch_len());
        let drafts = [
            Draft {
                input: &layer.input[..63],
                ..draft()
            },
            Draft {
                zero_point: 256,
                ..draft()
            },
            Draft {
                weights: &layer.weights[1..],
                ..draft()
            },
            Draft {
                stage: Quantized {
                    bias: &layer.bias[..15],
                    ..good
                },
                ..draft()
            },
            Draft {
                stage: Quantized {
                    multiplier: &[],
                    ..good
                },
                ..draft()
            },
            Draft {
                stage: Quantized {
                    zero_point: i32::MIN,
                    ..good
                },
                ..draft()
            },
            Draft {
                stage: Quantized {
                    lo: 9,
                    hi: 8,
                    ..good
                },
                ..draft()
            },
            Draft {
                stage: Quantized { hi: 256, ..good },
                ..draft()
            },
            Draft {
                stage: Quantized {
                    residual: Some(residual),
                    ..good
                },
                ..draft()
            },
            rows(0..15),
            rows(1..17),
            Draft {
                scratch: len - 1,
                ..draft()
            },
            Draft {
                prepared: &wider.prepared,
                ..draft()
            },
        ];
        for (i, draft) in drafts.into_iter().enumerate() {
            let mut output = [7; 256];
            let result = draft.run(Isa::detect(), &mut output);
            assert!(result.is_err(), "{engine:?}, case {i}");
            assert_eq!(output, [7; 256], "{engine:?}, case {i}");
        }
        let none = ConvShape { groups: 0, ..shape };
        assert!(PreparedConv::new(engine, &none).is_err());
        assert!(pack(engine, &none, &[1; 16 * 36]).is_err());
        assert!(pack(engine, &shape, &[1; 16 * 36 - 1]).is_err());
    }
}
