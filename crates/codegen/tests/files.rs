//! Plan files: what is damaged or made by hand is refused, or runs without doing harm.

mod support;

use std::io::Write;
use std::sync::Arc;

use octofold_ops::families::{
    Activation, ConstantOfShape, FusedConv, Layout, Outcome, OutputQuantization, Product,
    QuantizeLinear, Relu, Reshape, Transpose,
};
use octofold_ops::{Attribute, Described};
use octofold_quant::{QParams, QuantType};
use octofold_runtime::{Plan, PlanError, RunError, Session, SessionOptions};
use octofold_tensor::{DType, Tensor};
use support::{Builder, Random, plan, session};

fn default<T: Described>(attributes: &[(&str, Attribute)]) -> T {
    let mut map = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    T::from_attributes(&mut map).expect("valid attributes")
}

/// A small plan with kernels, a view, a portable step and a constant in use by it.
fn example() -> (Arc<Plan>, Tensor) {
    let mut random = Random::new(3);
    let mut builder = Builder::new();
    let shape = [1, 3, 6, 6];
    let x = builder.input("x", DType::F32, &shape);
    let relu = builder.node(Relu {}, &[Some(x)]);
    let scale = builder.constant(Tensor::scalar(0.01_f32));
    let q = builder.node(default::<QuantizeLinear>(&[]), &[Some(relu), Some(scale)]);
    let nhwc = builder.node(
        Transpose {
            perm: vec![0, 2, 3, 1],
        },
        &[Some(q)],
    );
    let w = builder.constant(random.tensor(DType::I8, &[5, 3, 3, 3]));
    let conv = FusedConv {
        layout: Layout::Nhwc,
        product: Product::integer(
            QParams {
                scale: 0.01,
                zero_point: 0,
            },
            vec![0.01],
            Outcome::Bytes(OutputQuantization::new(
                QuantType::Uint8,
                QParams {
                    scale: 0.02,
                    zero_point: 3,
                },
                Activation::None,
            )),
        ),
        ..default(&[])
    };
    let y = builder.node(conv, &[Some(nhwc), Some(w)]);
    let to = builder.constant(Tensor::vector(vec![4_i64, -1]));
    let y = builder.node(default::<Reshape>(&[]), &[Some(y), Some(to)]);
    let y = builder.node(Transpose { perm: vec![1, 0] }, &[Some(y)]);
    builder.output(y);
    let x = random.tensor(DType::F32, &shape);
    (plan(&builder.graph), x)
}

#[test]
fn a_mapped_file_gives_the_same_results() {
    let (plan, x) = example();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.oct");
    plan.save(&path).unwrap();
    let loaded = Plan::load(&path).unwrap();
    assert_eq!(loaded, *plan);
    assert!(loaded.parts().blob.is_mapped());
    let run = |plan: Arc<Plan>| {
        Session::new(plan, SessionOptions::default())
            .unwrap()
            .run(&[("x", x.clone())])
            .unwrap()
    };
    assert_eq!(run(Arc::new(loaded)), run(plan));
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        1,
        "no temporary file is left"
    );
    assert!(matches!(
        Plan::load(folder.path().join("none.oct")),
        Err(PlanError::Io { .. })
    ));
    std::fs::write(&path, b"OCTOPLAN").unwrap();
    let error = Plan::load(&path).unwrap_err().to_string();
    assert!(error.contains("model.oct"), "{error}");
}

/// A mapped file must not be changed in place. A session notices another length or time before it runs; a plan that was read does not need its file.
#[test]
fn a_mapped_file_that_was_changed_is_noticed_before_a_run() {
    let (plan, x) = example();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.oct");
    let expected = session(&plan).run(&[("x", x.clone())]).unwrap();
    let append = || {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(&[0]).unwrap();
    };
    let touch = || {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
    };
    let replace = || plan.save(&path).unwrap();
    let changes: [(&dyn Fn(), bool); 3] = [(&append, true), (&touch, true), (&replace, false)];
    for (change, is_noticed) in changes {
        plan.save(&path).unwrap();
        let read = Arc::new(Plan::read(&path).unwrap());
        let (mut mapped, mut read) = (
            session(&Arc::new(Plan::load(&path).unwrap())),
            session(&read),
        );
        for session in [&mut mapped, &mut read] {
            assert_eq!(session.run(&[("x", x.clone())]).unwrap(), expected);
        }
        change();
        let found = mapped.run(&[("x", x.clone())]);
        if is_noticed {
            let error = found.unwrap_err();
            assert!(
                matches!(error, RunError::Plan(PlanError::Changed)),
                "{error}"
            );
        } else {
            assert_eq!(found.unwrap(), expected);
        }
        assert_eq!(read.run(&[("x", x.clone())]).unwrap(), expected);
    }
    let error = Plan::read_within(&path, 100).unwrap_err().to_string();
    assert!(error.contains("plan-bytes"), "{error}");
}

#[test]
fn every_flipped_or_missing_byte_is_noticed() {
    let (plan, _) = example();
    let bytes = plan.to_bytes().unwrap();
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (position % 8);
        assert!(Plan::from_bytes(&damaged).is_err(), "byte {position}");
    }
    for len in (0..bytes.len()).step_by(7) {
        assert!(Plan::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Plan::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

/// Changes the metadata and makes all checksums and lengths right again, as one who means harm would.
fn forge(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let mut metadata = bytes[64..64 + long(16)].to_vec();
    change(&mut metadata);
    let blob = &bytes[long(24)..];
    let mut header = bytes[..64].to_vec();
    let offset = (64 + metadata.len()).next_multiple_of(4096);
    header[16..24].copy_from_slice(&(metadata.len() as u64).to_le_bytes());
    header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
    header[40..44].copy_from_slice(&crc32fast::hash(&metadata).to_le_bytes());
    let own = crc32fast::hash(&header[..48]);
    header[48..52].copy_from_slice(&own.to_le_bytes());
    header.extend_from_slice(&metadata);
    header.resize(offset, 0);
    header.extend_from_slice(blob);
    header
}

#[test]
fn forged_plans_fail_or_run_but_do_no_harm() {
    let (plan, x) = example();
    let bytes = plan.to_bytes().unwrap();
    assert_eq!(Plan::from_bytes(&forge(&bytes, |_| {})).unwrap(), *plan);
    let mut random = Random::new(11);
    let (mut refused, mut failed, mut ran) = (0, 0, 0);
    for _ in 0..4000 {
        let forged = forge(&bytes, |metadata| {
            for _ in 0..=random.below(2) {
                let at = random.below(metadata.len() as u64);
                match random.below(4) {
                    0 => metadata[at] = random.next() as u8,
                    1 => metadata[at] = metadata[at].wrapping_add(1),
                    2 => drop(metadata.remove(at)),
                    _ => metadata.insert(at, random.next() as u8),
                }
            }
        });
        let Ok(plan) = Plan::from_bytes(&forged) else {
            refused += 1;
            continue;
        };
        let _ = plan.to_text();
        let Ok(mut session) = Session::new(
            Arc::new(plan),
            SessionOptions {
                threads: 1,
                isa: None,
                allow_portable: true,
                ..SessionOptions::DEFAULT
            },
        ) else {
            failed += 1;
            continue;
        };
        match session.run(&[("x", x.clone())]) {
            Ok(_) => ran += 1,
            Err(_) => failed += 1,
        }
    }
    assert!(
        refused > 100 && ran > 100,
        "{refused} refused, {failed} failed, {ran} ran"
    );
}

/// What a plan asks for is looked at before memory is taken: sizes that are known when it is loaded, and those that depend on data.
#[test]
fn a_run_keeps_to_its_budget_of_memory() {
    let (plan, x) = example();
    let with = |memory| SessionOptions {
        threads: 1,
        memory,
        ..SessionOptions::DEFAULT
    };
    let mut session = Session::new(Arc::clone(&plan), with(1 << 20)).unwrap();
    session.run(&[("x", x)]).unwrap();
    let error = Session::new(plan, with(100)).unwrap_err();
    assert!(
        matches!(error, RunError::Budget { limit: 100, .. }),
        "{error}"
    );

    let mut builder = Builder::new();
    let shape = builder.input("shape", DType::I64, &[2]);
    let y = builder.node(ConstantOfShape { value: None }, &[Some(shape)]);
    builder.output(y);
    let plan = support::plan(&builder.graph);
    let mut session = Session::new(plan, with(1 << 20)).unwrap();
    let mut run = |size: i64| session.run(&[("shape", Tensor::vector(vec![size, size]))]);
    assert_eq!(run(500).unwrap()[0].1.len(), 250_000);
    let error = run(600).unwrap_err().to_string();
    assert!(
        error.contains("360000 elements") && error.contains("--limit memory"),
        "{error}"
    );
    assert!(run(1 << 40).is_err());
    assert!(run(500).is_ok());
}

#[test]
fn the_text_form_says_what_runs() {
    let (plan, _) = example();
    let text = plan.to_text();
    for part in [
        "plan \"test\" for fbgemm on avx2 {",
        "input %x: float[1, 3, 6, 6]",
        "QuantizeLinear by quantize nchw→nhwc(",
        "Conv by qconv(",
        "output output",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A transposition that moves nothing changes the order of the axes all the same.
#[test]
fn values_say_which_images_are_channels_last() {
    for channels in [1, 3] {
        let mut builder = Builder::new();
        let x = builder.input("x", DType::F32, &[1, channels, 4, 4]);
        let transpose = |perm: [i64; 4]| Transpose { perm: perm.into() };
        let nhwc = builder.node(transpose([0, 2, 3, 1]), &[Some(x)]);
        let relu = builder.node(Relu {}, &[Some(nhwc)]);
        let to = builder.constant(Tensor::vector(vec![1_i64, -1]));
        let flat = builder.node(default::<Reshape>(&[]), &[Some(relu), Some(to)]);
        let nchw = builder.node(transpose([0, 3, 1, 2]), &[Some(relu)]);
        builder.output(flat);
        builder.output(nchw);
        let plan = plan(&builder.graph);
        let channels_last: Vec<_> = plan.values().iter().map(|v| v.channels_last).collect();
        assert_eq!(channels_last, [false, true, true, false, false], "{plan}");
    }
}
