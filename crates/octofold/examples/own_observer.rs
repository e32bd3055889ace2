//! An observer of one's own: the mean plus and minus three standard deviations, cut to the extremes.
#![allow(clippy::print_stdout, reason = "a program shows what it made")]

use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::quant::observer::{Choice, MergeError, ObserveError, Observer};
use octofold::quant::{ObserverKind, QuantRange, Scheme};
use octofold::tensor::npy;
use octofold::{DataOptions, Model, SessionOptions, StatisticsFile, Tensor};

/// What is remembered does not depend on the order of the batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sigma {
    extremes: Option<(f32, f32)>,
    count: u64,
    sum: f64,
    squares: f64,
}

impl Observer for Sigma {
    const NAME: &'static str = "sigma";

    fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let value = values[index];
            return Err(ObserveError::NotFinite { index, value });
        }
        for &value in values {
            let (min, max) = self.extremes.unwrap_or((value, value));
            self.extremes = Some((min.min(value), max.max(value)));
            self.count += 1;
            self.sum += f64::from(value);
            self.squares += f64::from(value) * f64::from(value);
        }
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        self.extremes = match (self.extremes, other.extremes) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (own, others) => own.or(others),
        };
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        Ok(())
    }

    fn observed(&self) -> Option<(f32, f32)> {
        self.extremes
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn choose(&self, range: QuantRange, scheme: Scheme, eps: f32) -> Option<Choice> {
        let (min, max) = self.extremes?;
        let count = self.count as f64;
        let mean = self.sum / count;
        let deviation = (self.squares / count - mean * mean).max(0.0).sqrt();
        let end = |side: f64| ((mean + side * 3.0 * deviation) as f32).clamp(min, max);
        Some(Choice::new(end(-1.0), end(1.0), range, scheme, eps))
    }

    fn save(&self) -> String {
        let (min, max) = self.extremes.unwrap_or_default();
        format!("{min} {max} {} {} {}", self.count, self.sum, self.squares)
    }

    fn load(text: &str) -> Option<Self> {
        let numbers: Option<Vec<f64>> = text.split(' ').map(|word| word.parse().ok()).collect();
        let &[min, max, count, sum, squares] = &numbers?[..] else {
            return None;
        };
        Some(Self {
            extremes: (count > 0.0).then_some((min as f32, max as f32)),
            count: count as u64,
            sum,
            squares,
        })
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.npz");
    let samples = Tensor::new([8, 4], (0..32).map(|i| (i * i % 31) as f32 - 9.0).collect())?;
    npy::write_npz(std::fs::File::create(&path)?, &[("x".to_owned(), samples)])?;

    let network = "net (float[N,4] x) => (y) <float[4,2] w = {1, -2, 3, 0.5, 2, 1, -1, 4}> { y = MatMul (x, w) }";
    let model = Model::new(octofold::ir::text::parse(network, None)?);
    let data = model.data(&path, DataOptions::default())?;
    let qconfig = QConfig::default().with_observer(ObserverKind::custom::<Sigma>());
    let mapping = QConfigMapping::global(qconfig);
    let prepared = octofold::prepare(model, &mapping, &BackendConfig::fbgemm())?;
    let statistics = octofold::calibrate(&prepared, &data, SessionOptions::default(), |_| {})?;

    // A file has the state under the name of the observer. This program can read it again, and a program without the observer cannot.
    let saved = StatisticsFile::new(&prepared, statistics.clone()).to_json();
    let read = StatisticsFile::from_json(&saved, "saved")?.statistics_for(&prepared)?;
    assert_eq!(read, statistics);
    let graph = octofold::convert(&prepared, &read)?;
    println!("{}", octofold::compile(&octofold::lower(&graph)?.0)?);
    Ok(())
}
