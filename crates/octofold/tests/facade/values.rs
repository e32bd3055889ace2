//! Values whose readers want different types, and values with settings of their own.

use anyhow::{Context, Result, ensure};
use octofold::calibrate::{DataOptions, DataSet};
use octofold::ir::{Graph, text};
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping, SpecEdit};
use octofold::quant::{ObserverKind, QuantType};
use octofold::runtime::SessionOptions;
use octofold::tensor::Tensor;
use octofold::{Model, Prepared};

use crate::common::{self, MODELS, load};

/// A value between two types has one observer and two conversions; its producer's type is its own.
#[test]
fn a_reader_of_another_type_converts() -> Result<()> {
    let wide = QConfig::default().with_activation_type(QuantType::Uint16);
    let mapping = QConfigMapping::global(QConfig::default())
        .set_module_name("layer1.0", Some(wide))
        .set_value("input", SpecEdit::fixed(0.02, 110));
    let prepared = octofold::prepare(load(MODELS[0])?, &mapping, &BackendConfig::fbgemm())?;
    let conversions = &prepared.annotations.conversions;
    ensure!(!conversions.is_empty());
    for (used, conversion) in conversions {
        let value = prepared
            .graph
            .node(used.node)
            .input(used.slot)
            .context("an operand")?;
        ensure!(prepared.annotations.values[&value].spec.dtype != conversion.spec.dtype);
    }
    let statistics = common::calibrate(&prepared, 32, Some(32), 1)?;
    let decibels = signal_to_noise(
        &load(MODELS[0])?,
        &octofold::convert(&prepared, &statistics)?,
        ("input", &common::images(50)?),
    )?;
    ensure!(decibels > 25.0, "{decibels} dB");
    Ok(())
}

/// Calibrates on noise and gives the signal-to-noise ratio of the plan against the float plan, in decibels.
fn decibels(model: &Model, prepared: &Prepared) -> Result<f64> {
    let samples = common::noise(&[32, 2, 4, 4], 1.0);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.npz");
    let file = std::fs::File::create(&path)?;
    octofold::tensor::npy::write_npz(file, &[("x".to_owned(), samples.clone())])?;
    let data = DataSet::open(&path, model.inputs(), DataOptions::default())?;
    let statistics = octofold::calibrate(prepared, &data, SessionOptions::default(), |_| {})?;
    let reference = octofold::convert(prepared, &statistics)?;
    signal_to_noise(model, &reference, ("x", &samples))
}

/// The signal-to-noise ratio of a quantized graph's first output against the float model's, in decibels.
fn signal_to_noise(
    model: &Model,
    quantized: &Graph,
    (name, input): (&str, &Tensor),
) -> Result<f64> {
    let run = |graph: &Graph| -> Result<Vec<f32>> {
        let plan = common::plan(graph)?;
        let outputs = common::session(&plan, 1, None)?.run(&[(name, input.clone())])?;
        Ok(outputs[0].1.values::<f32>()?.to_vec())
    };
    let (expected, found) = (run(&model.graph)?, run(quantized)?);
    let pairs = expected.iter().zip(&found);
    let noise: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let signal: f64 = expected.iter().map(|&a| f64::from(a).powi(2)).sum();
    Ok(10.0 * (signal / noise).log10())
}

/// The parameters of a sigmoid, of a tanh and of a given value are of one type; a reader of another takes the same range.
#[test]
fn given_parameters_are_not_those_of_another_type() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    let all = || QConfigMapping::global(QConfig::default());
    let signed = QConfig::default().with_activation_type(QuantType::Int8);
    for function in ["Sigmoid", "Tanh"] {
        let text = format!(
            r#"net (float[N,2,4,4] x) => (y)
            <float[2,2,1,1] w = {{1, -2, 3, 0.5}}, float[2,2,1,1] v = {{1, 2, -3, 1}}> {{
                [c1] a = Conv (x, w)
                [f] s = {function} (a)
                [c2] t = Conv (s, w)
                [c3] u = Conv (x, v)
                y = Add (t, u)
            }}"#
        );
        let model = Model::new(text::parse(&text, None)?);
        let given = all().set_value("x", SpecEdit::fixed(0.008, 128));
        for mapping in [all(), given] {
            // c2 reads the function, c3 the value that c1 reads as uint8.
            for name in ["c2", "c3"] {
                let mapping = mapping.clone().set_module_name(name, Some(signed.clone()));
                let prepared = octofold::prepare(model.clone(), &mapping, &backend)?;
                ensure!(
                    !prepared.annotations.conversions.is_empty(),
                    "{function} {name}"
                );
                let decibels = decibels(&model, &prepared)?;
                ensure!(decibels > 30.0, "{function} {name}: {decibels} dB");
            }
        }
        let mut own = QConfig::default();
        own.activation = own.activation.fixed(0.01, 10);
        let own = all().set_module_name("f", Some(own));
        let prepared = octofold::prepare(model, &own, &backend)?;
        let value = prepared.graph.value_named("s").context("the value")?;
        let observer = prepared.annotations.values[&value].spec.observer;
        ensure!(observer.to_string() == "fixed=0.01:10", "{observer}");
    }
    Ok(())
}

/// Values that share an observer and have different types keep their types when the setting of one changes.
#[test]
fn a_setting_of_a_value_leaves_the_types_of_others() -> Result<()> {
    let text = r#"
        net (float[N,2,4,4] x) => (z, u)
        <float[2,2,1,1] w = {1, -2, 3, 0.5}> {
            [c1] a = Conv (x, w)
            [mp] y = MaxPool <kernel_shape = [2,2]> (a)
            [c2] z = Conv (y, w)
            [c3] u = Conv (a, w)
        }"#;
    let model = Model::new(text::parse(text, None)?);
    let signed = QConfig::default().with_activation_type(QuantType::Int8);
    let mapping = QConfigMapping::global(QConfig::default())
        .set_module_name("mp", Some(signed.clone()))
        .set_module_name("c2", Some(signed));
    let types = |mapping: &QConfigMapping| -> Result<Vec<String>> {
        let prepared = octofold::prepare(model.clone(), mapping, &BackendConfig::fbgemm())?;
        let values = ["x", "a", "y"].into_iter().map(|name| {
            let value = prepared.graph.value_named(name).context("a value")?;
            let spec = &prepared.annotations.values[&value].spec;
            Ok(format!("{} {}", spec.dtype, spec.observer))
        });
        values.collect()
    };
    let histogram = "histogram=4096";
    let expected = |observer: &str| {
        vec![
            format!("uint8 {histogram}"),
            format!("uint8 {observer}"),
            format!("int8 {observer}"),
        ]
    };
    ensure!(types(&mapping)? == expected(histogram));
    let edit = SpecEdit {
        observer: Some(ObserverKind::MinMax),
        ..SpecEdit::default()
    };
    for name in ["a", "y"] {
        let changed = types(&mapping.clone().set_value(name, edit.clone()))?;
        ensure!(changed == expected("minmax"), "{name}: {changed:?}");
    }
    Ok(())
}

/// What only concatenations read is observed where it is joined at last, unless it has a setting or a specification of its own.
#[test]
fn operands_of_concatenations_share_its_observer() -> Result<()> {
    let text = r#"net (float[1,2,4,4] x) => (y, z)
        <float[2,2,1,1] v = {1, -2, 3, 0.5}, float[2,2,1,1] w = {1, 2, -3, 1}, float[2,2,1,1] s = {2, 1, 3, -1},
         float[2,2,1,1] t = {0.5, 2, 3, 1}, float[1,8,1,1] u = {1, 2, 3, 4, 5, 6, 7, 8}> {
            [c1] a = Conv (x, v)
            [c2] b = Conv (x, w)
            [k1] ab = Concat <axis = 1> (a, b)
            [c3] c = Conv (x, s)
            [c4] d = Conv (x, t)
            [k2] abcd = Concat <axis = 1> (ab, c, d)
            [c5] y = Conv (abcd, u)
            [c6] z = Conv (d, w)
        }"#;
    let observed = |mapping: &QConfigMapping| -> Result<Vec<String>> {
        let model = Model::new(text::parse(text, None)?);
        let prepared = octofold::prepare(model, mapping, &BackendConfig::fbgemm())?;
        ["a", "b", "ab", "c", "d", "abcd"]
            .iter()
            .map(|name| {
                let value = prepared.graph.value_named(name).context("a value")?;
                let annotation = &prepared.annotations.values[&value];
                Ok(prepared.graph.value(annotation.observed).name().to_owned())
            })
            .collect()
    };
    let all = || QConfigMapping::global(QConfig::default());
    // `d` has another reader.
    let found = observed(&all())?;
    ensure!(
        found == ["abcd", "abcd", "abcd", "abcd", "d", "abcd"],
        "{found:?}"
    );
    let given = all().set_value("b", SpecEdit::fixed(0.02, 110));
    ensure!(observed(&given)? == ["abcd", "b", "abcd", "abcd", "d", "abcd"]);
    let given = all().set_value("abcd", SpecEdit::fixed(0.02, 110));
    ensure!(observed(&given)? == ["ab", "ab", "ab", "c", "d", "abcd"]);
    let exact = QConfig::default().with_observer(ObserverKind::MinMax);
    let other = all().set_module_name("c3", Some(exact));
    ensure!(observed(&other)? == ["abcd", "abcd", "abcd", "c", "d", "abcd"]);
    Ok(())
}
