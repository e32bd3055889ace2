//! Object detection: ONNX `NonMaxSuppression`.

use octofold_tensor::Tensor;

use super::support::scalar;
use crate::{Inputs, OpError, Operator, attributes, bail};

attributes! {
    /// The best boxes of each class, without those that overlap a better one (ONNX `NonMaxSuppression`), in f32.
    ///
    /// Inputs: `boxes` [batch, n, 4], `scores` [batch, classes, n], and three optional scalars: `max_output_boxes_per_class` (int64, 0 when absent, which
    /// selects nothing), `iou_threshold` (f32 from 0 to 1, 0 when absent), `score_threshold` (f32, no bound when absent). Output: [selected, 3] (int64): batch, class and
    /// box, by batch, then class, then falling score; of equal scores the first box is better. A box is dropped when its intersection over
    /// union with a selected one of its class is above `iou_threshold`, or its score is not above `score_threshold`.
    "" "NonMaxSuppression" inputs(2..=5)
    pub struct NonMaxSuppression {
        /// Whether a box is given by its centre and size (x, y, width, height), instead of two opposite corners (y1, x1, y2, x2, in any order).
        center_point_box: bool = false,
    }
}

/// A box by its lower and upper corner.
#[derive(Clone, Copy)]
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
}

impl Corners {
    fn new(numbers: &[f32], center_point_box: bool) -> Self {
        let at = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
        if center_point_box {
            let half = [at(2) / 2.0, at(3) / 2.0];
            Self {
                low: [at(0) - half[0], at(1) - half[1]],
                high: [at(0) + half[0], at(1) + half[1]],
            }
        } else {
            Self {
                low: [at(0).min(at(2)), at(1).min(at(3))],
                high: [at(0).max(at(2)), at(1).max(at(3))],
            }
        }
    }

    fn area(self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Intersection over union; 0 for boxes without an area.
    fn overlap(self, other: Self) -> f32 {
        let side = |axis: usize| {
            self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis])
        };
        let (height, width) = (side(0), side(1));
        if height <= 0.0 || width <= 0.0 || self.area() <= 0.0 || other.area() <= 0.0 {
            return 0.0;
        }
        let intersection = height * width;
        intersection / (self.area() + other.area() - intersection)
    }
}

impl Operator for NonMaxSuppression {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (boxes, scores) = (inputs.values::<f32>(0)?, inputs.values::<f32>(1)?);
        let (box_shape, score_shape) = (inputs.required(0)?.shape(), inputs.required(1)?.shape());
        let (&[batches, count, 4], &[score_batches, classes, score_count]) =
            (box_shape, score_shape)
        else {
            bail!("boxes {box_shape:?} and scores {score_shape:?} have other axes");
        };
        if batches != score_batches || count != score_count {
            bail!("boxes {box_shape:?} do not fit scores {score_shape:?}");
        }
        let limit = inputs
            .optional(2)
            .map(|limit| scalar::<i64>(limit, "max_output_boxes_per_class"))
            .transpose()?;
        let limit = usize::try_from(limit.unwrap_or(0)).unwrap_or(0);
        let iou_threshold = inputs
            .optional(3)
            .map(|bound| scalar::<f32>(bound, "iou_threshold"))
            .transpose()?;
        let iou_threshold = iou_threshold.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&iou_threshold) {
            bail!("the iou_threshold {iou_threshold} is not from 0 to 1");
        }
        let score_threshold = inputs
            .optional(4)
            .map(|bound| scalar::<f32>(bound, "score_threshold"))
            .transpose()?;
        let mut out = Vec::new();
        let nothing = limit == 0 || count == 0;
        for i in 0..if nothing { 0 } else { batches * classes } {
            let (batch, class) = (i / classes, i % classes);
            let corners = |index: usize| {
                let start = (batch * count + index) * 4;
                Corners::new(&boxes[start..start + 4], self.center_point_box)
            };
            let scores = &scores[i * count..(i + 1) * count];
            let mut candidates: Vec<usize> = (0..count)
                .filter(|&index| score_threshold.is_none_or(|bound| scores[index] > bound))
                .collect();
            candidates.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut selected: Vec<Corners> = Vec::new();
            for index in candidates {
                let candidate = corners(index);
                if selected
                    .iter()
                    .all(|&better| better.overlap(candidate) <= iou_threshold)
                {
                    selected.push(candidate);
                    out.extend([batch as i64, class as i64, index as i64]);
                    if selected.len() == limit {
                        break;
                    }
                }
            }
        }
        Ok(vec![Tensor::new([out.len() / 3, 3], out)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(
        boxes: &[[f32; 4]],
        scores: &[f32],
        limit: i64,
        iou: f32,
        center: bool,
    ) -> Result<Vec<i64>, OpError> {
        let boxes = Tensor::new([1, boxes.len(), 4], boxes.concat()).unwrap();
        let scores = Tensor::new([1, 1, scores.len()], scores.to_vec()).unwrap();
        let (limit, iou) = (Tensor::scalar(limit), Tensor::scalar(iou));
        let inputs = [Some(&boxes), Some(&scores), Some(&limit), Some(&iou)];
        let y = NonMaxSuppression {
            center_point_box: center,
        }
        .evaluate(Inputs(&inputs), 1)?;
        Ok(y[0].values::<i64>()?.chunks(3).map(|row| row[2]).collect())
    }

    #[test]
    fn overlapping_boxes_are_dropped() {
        // The second box covers a third of the union with the first; the third, given by flipped corners, is far away.
        let boxes = [
            [0.0, 0.0, 1.0, 1.0],
            [0.0, 0.5, 1.0, 1.5],
            [11.0, 11.0, 10.0, 10.0],
        ];
        assert_eq!(
            select(&boxes, &[0.9, 0.8, 0.7], 3, 0.3, false).unwrap(),
            [0, 2]
        );
        assert_eq!(
            select(&boxes, &[0.9, 0.8, 0.7], 3, 0.4, false).unwrap(),
            [0, 1, 2]
        );
        assert_eq!(
            select(&boxes, &[0.1, 0.8, 0.7], 1, 0.3, false).unwrap(),
            [1]
        );
        assert_eq!(
            select(&boxes, &[0.9, 0.9, 0.9], 0, 0.3, false).unwrap(),
            Vec::<i64>::new()
        );
        assert!(select(&boxes, &[0.9, 0.9, 0.9], 1, 1.5, false).is_err());
        assert!(select(&boxes, &[0.9, 0.9], 1, 0.5, false).is_err());
        let centers = [[0.5, 0.5, 1.0, 1.0], [1.0, 0.5, 1.0, 1.0]];
        assert_eq!(select(&centers, &[0.5, 0.6], 2, 0.3, true).unwrap(), [1]);
    }
}
