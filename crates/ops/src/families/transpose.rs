//! Operators that reorder axes, whole or in blocks: ONNX `Transpose`, `DepthToSpace` and `SpaceToDepth`.

use octofold_tensor::{Shape, Tensor};

use super::support::{
    Strides, checked_elements, copy_strided, map_data, normalize_axes, strides_of,
};
use crate::{Inputs, OpError, Operator, attributes, bail, bail_attribute, word_attribute};

/// The elements of `x`, seen as `shape`, with its axes in the order `perm`, in shape `output`.
fn permute(x: &Tensor, shape: &[usize], perm: &[usize], output: Shape) -> Result<Tensor, OpError> {
    let own = strides_of(shape);
    let walk: Shape = perm.iter().map(|&axis| shape[axis]).collect();
    let strides: Strides = perm.iter().map(|&axis| own[axis]).collect();
    let y = map_data!(x.data(), values => copy_strided(values, 0, &walk, &strides));
    Ok(Tensor::from_data(output, y)?)
}

attributes! {
    /// Reorders the axes (ONNX `Transpose`), of any type.
    ///
    /// Input: `x` of rank r. Output: axis `i` is axis `perm[i]` of `x`.
    "" "Transpose" inputs(1..=1)
    pub struct Transpose {
        /// A permutation of 0 to r - 1; when empty, the axes are reversed.
        perm: Vec<i64> = vec![],
    }
}

impl Transpose {
    /// The permutation for inputs of the given rank.
    ///
    /// # Errors
    /// When `perm` is no permutation of that many axes.
    pub fn axes(&self, rank: usize) -> Result<Vec<usize>, OpError> {
        if self.perm.is_empty() {
            return Ok((0..rank).rev().collect());
        }
        if self.perm.len() != rank || self.perm.iter().any(|&axis| axis < 0) {
            bail_attribute!("perm", "{:?} does not permute {rank} axes", self.perm);
        }
        normalize_axes(&self.perm, rank)
            .map_err(|error| OpError::attribute("perm", error.to_string()))
    }

    /// The axes that keep their places, and how many axes behind them move to the end, if the permutation exchanges two groups of neighbouring axes.
    pub fn rotation(&self, rank: usize) -> Option<(usize, usize)> {
        let perm = self.axes(rank).ok()?;
        let kept = (0..rank).position(|axis| perm[axis] != axis)?;
        let (moved, count) = (perm[kept] - kept, rank - kept);
        let mut rest = perm[kept..].iter().enumerate();
        let rotates = rest.all(|(at, &axis)| axis == kept + (at + moved) % count);
        rotates.then_some((kept, moved))
    }
}

impl Operator for Transpose {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let perm = self.axes(x.rank())?;
        let output = perm.iter().map(|&axis| x.shape()[axis]).collect();
        Ok(vec![permute(x, x.shape(), &perm, output)?])
    }
}

word_attribute! {
    /// How a channel names a place in a block.
    pub enum BlockOrder {
        /// Depth, column, row: the place is the outer part of the channel's number.
        Dcr = "DCR",
        /// Column, row, depth: the place is the inner part of the channel's number.
        Crd = "CRD",
    }
}

/// The sizes of a batch of images, and the size of a block, checked.
fn images(x: &Tensor, blocksize: i64) -> Result<([usize; 4], usize), OpError> {
    let &[n, c, h, w] = x.shape() else {
        bail!("expected rank 4, found {:?}", x.shape());
    };
    let block = usize::try_from(blocksize).ok().filter(|&block| block > 0);
    let block = block
        .ok_or_else(|| OpError::attribute("blocksize", format!("{blocksize} is not positive")))?;
    Ok(([n, c, h, w], block))
}

attributes! {
    /// Moves channels into blocks of pixels (ONNX `DepthToSpace`), of any type.
    ///
    /// Input: [N, C·b·b, H, W]. Output: [N, C, H·b, W·b].
    "" "DepthToSpace" inputs(1..=1)
    pub struct DepthToSpace {
        /// The side b of a block, at least 1.
        blocksize: i64,
        /// How a channel names a place in a block.
        mode: BlockOrder = BlockOrder::Dcr,
    }
}

impl Operator for DepthToSpace {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let ([n, c, h, w], b) = images(x, self.blocksize)?;
        let depth = depth(c, b)?;
        let output = Shape::from_slice(&[
            n,
            depth,
            checked_elements(&[h, b])?,
            checked_elements(&[w, b])?,
        ]);
        let y = match self.mode {
            BlockOrder::Dcr => permute(x, &[n, b, b, depth, h, w], &[0, 3, 4, 1, 5, 2], output)?,
            BlockOrder::Crd => permute(x, &[n, depth, b, b, h, w], &[0, 1, 4, 2, 5, 3], output)?,
        };
        Ok(vec![y])
    }
}

/// The channels of the result: of `c` channels, one for each block of `b` by `b`.
fn depth(c: usize, b: usize) -> Result<usize, OpError> {
    let block = checked_elements(&[b, b])?;
    if !c.is_multiple_of(block) {
        bail!("{c} channels do not fill blocks of {b} by {b}");
    }
    Ok(c / block)
}

attributes! {
    /// [`DepthToSpace`] of channels-last images; the layout pass makes it.
    ///
    /// Input: [N, H, W, C·b·b]. Output: [N, H·b, W·b, C], of any type.
    "octofold" "DepthToSpace" inputs(1..=1)
    pub struct NhwcDepthToSpace {
        /// The side b of a block, at least 1.
        blocksize: i64,
        /// How a channel names a place in a block.
        mode: BlockOrder = BlockOrder::Dcr,
    }
}

impl Operator for NhwcDepthToSpace {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let ([n, h, w, c], b) = images(x, self.blocksize)?;
        let depth = depth(c, b)?;
        let output = Shape::from_slice(&[
            n,
            checked_elements(&[h, b])?,
            checked_elements(&[w, b])?,
            depth,
        ]);
        let y = match self.mode {
            BlockOrder::Dcr => permute(x, &[n, h, w, b, b, depth], &[0, 1, 3, 2, 4, 5], output)?,
            BlockOrder::Crd => permute(x, &[n, h, w, depth, b, b], &[0, 1, 4, 2, 5, 3], output)?,
        };
        Ok(vec![y])
    }
}

attributes! {
    /// Moves blocks of pixels into channels (ONNX `SpaceToDepth`), of any type.
    ///
    /// Input: [N, C, H·b, W·b]. Output: [N, C·b·b, H, W].
    "" "SpaceToDepth" inputs(1..=1)
    pub struct SpaceToDepth {
        /// The side b of a block, at least 1.
        blocksize: i64,
        /// How a channel names a place in a block.
        mode: BlockOrder = BlockOrder::Dcr,
    }
}

impl Operator for SpaceToDepth {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let ([n, c, h, w], b) = images(x, self.blocksize)?;
        if h % b != 0 || w % b != 0 {
            bail!("{h} by {w} pixels do not fill blocks of {b} by {b}");
        }
        let (h, w) = (h / b, w / b);
        let output = Shape::from_slice(&[n, checked_elements(&[c, b, b])?, h, w]);
        let perm = match self.mode {
            BlockOrder::Dcr => [0, 3, 5, 1, 2, 4],
            BlockOrder::Crd => [0, 1, 3, 5, 2, 4],
        };
        Ok(vec![permute(x, &[n, c, h, b, w, b], &perm, output)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, x: &Tensor) -> Result<Tensor, OpError> {
        op.evaluate(Inputs(&[Some(x)]), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i32;
        Tensor::new(shape.iter().copied(), (0..count).collect()).unwrap()
    }

    #[test]
    fn axes_change_places() {
        let x = counting(&[2, 3]);
        let y = run(&Transpose { perm: vec![] }, &x).unwrap();
        assert_eq!(y, Tensor::new([3, 2], vec![0, 3, 1, 4, 2, 5]).unwrap());
        let y = run(
            &Transpose {
                perm: vec![1, 2, 0],
            },
            &counting(&[2, 1, 3]),
        )
        .unwrap();
        assert_eq!(y, Tensor::new([1, 3, 2], vec![0, 3, 1, 4, 2, 5]).unwrap());
        assert_eq!(
            run(&Transpose { perm: vec![] }, &Tensor::scalar(1_u8)).unwrap(),
            Tensor::scalar(1_u8)
        );
        for perm in [vec![0], vec![0, 0], vec![0, 2], vec![0, 1, 2]] {
            assert!(run(&Transpose { perm }, &x).is_err());
        }
    }

    #[test]
    fn channels_last_blocks_are_those_of_channels_first() {
        let x = counting(&[2, 12, 3, 2]);
        let to_nhwc = Transpose {
            perm: vec![0, 2, 3, 1],
        };
        for mode in [BlockOrder::Dcr, BlockOrder::Crd] {
            let first = DepthToSpace { blocksize: 2, mode };
            let last = NhwcDepthToSpace { blocksize: 2, mode };
            let expected = run(&to_nhwc, &run(&first, &x).unwrap()).unwrap();
            let found = run(&last, &run(&to_nhwc, &x).unwrap()).unwrap();
            assert_eq!(found, expected);
        }
        let blocksize = 3;
        let mode = BlockOrder::Dcr;
        assert!(run(&NhwcDepthToSpace { blocksize, mode }, &x).is_err());
    }

    #[test]
    fn blocks_and_channels_change_places() {
        let x = counting(&[1, 8, 1, 1]);
        let dcr = run(
            &DepthToSpace {
                blocksize: 2,
                mode: BlockOrder::Dcr,
            },
            &x,
        )
        .unwrap();
        assert_eq!(
            dcr,
            Tensor::new([1, 2, 2, 2], vec![0, 2, 4, 6, 1, 3, 5, 7]).unwrap()
        );
        let crd = run(
            &DepthToSpace {
                blocksize: 2,
                mode: BlockOrder::Crd,
            },
            &x,
        )
        .unwrap();
        assert_eq!(
            crd,
            Tensor::new([1, 2, 2, 2], vec![0, 1, 2, 3, 4, 5, 6, 7]).unwrap()
        );
        assert_eq!(
            run(
                &SpaceToDepth {
                    blocksize: 2,
                    mode: BlockOrder::Dcr
                },
                &dcr
            )
            .unwrap(),
            x
        );
        assert_eq!(
            run(
                &SpaceToDepth {
                    blocksize: 2,
                    mode: BlockOrder::Crd
                },
                &crd
            )
            .unwrap(),
            x
        );
        for blocksize in [0, -1, 3, i64::MAX] {
            assert!(
                run(
                    &DepthToSpace {
                        blocksize,
                        mode: BlockOrder::Dcr
                    },
                    &x
                )
                .is_err()
            );
            assert!(
                run(
                    &SpaceToDepth {
                        blocksize,
                        mode: BlockOrder::Dcr
                    },
                    &dcr
                )
                .is_err()
            );
        }
    }
}
