//! The table of the engine's abilities tells the truth: what it lists has kernels, what it does not list stays float and says why.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use octofold::ir::{Graph, interpret, text};
use octofold::kernels::Isa;
use octofold::passes::backend::{BackendConfig, Observation, OpClass};
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::passes::convert::Statistics;
use octofold::quant::{QuantRange, QuantType, Scheme};
use octofold::runtime::{Core, Kernel, Plan};
use octofold::tensor::Tensor;
use octofold::{Model, PrepareOptions, UnmatchedPolicy};

use crate::common::{noise, plan, session};

const TYPES: [QuantType; 7] = [
    QuantType::Uint4,
    QuantType::Int4,
    QuantType::Uint8,
    QuantType::Int8,
    QuantType::Uint16,
    QuantType::Int16,
    QuantType::Int32,
];

/// Operators as text over the operands `a` and `b`, the weights `w`, the bias `c` and the constants of [`Example::head`], behind the name of
/// their class, the kernel that computes them, and the sizes of their weights.
/// What no kernel moves is moved as bytes by the portable operator.
const EXAMPLES: &str = "
    conv         | qconv                | 16 8 3 3 | Conv <pads = [1,1,1,1]> (a, w, c)
    conv         | qconv                | 16 8 1 1 | Conv (a, w, c)
    conv         | qconv                | 16 4 3 3 | Conv <group = 2, strides = [2,2]> (a, w, c)
    conv         | qconv_depthwise      | 8 1 3 3  | Conv <group = 8> (a, w, c)
    linear       | qlinear              | 8 16     | Gemm (a, w, c)
    linear       | qlinear              | 16 8     | Gemm <transB = 1> (a, w, c)
    add          | qadd                 |          | Add (a, b)
    mul          | qmul                 |          | Mul (a, b)
    concat       | qconcat              |          | Concat <axis = 1> (a, b)
    max-pool     | qmax_pool            |          | MaxPool <kernel_shape = [3,3]> (a)
    max-pool     | qmax_pool            |          | GlobalMaxPool (a)
    average-pool | qaverage_pool        |          | AveragePool <kernel_shape = [2,2]> (a)
    average-pool | qglobal_average_pool |          | GlobalAveragePool (a)
    pointwise    | qtable               |          | Relu (a)
    pointwise    | qtable               |          | LeakyRelu <alpha = 0.1> (a)
    pointwise    | qtable               |          | Sigmoid (a)
    pointwise    | qtable               |          | HardSwish (a)
    pointwise    | qtable               |          | Clip (a, zero, one)
    pointwise    | qtable               |          | Mul (a, half)
    movement     | view                 |          | Flatten (a)
    movement     | view                 |          | Unsqueeze (a, first)
    movement     | view                 |          | Reshape (a, sizes)
    movement     | transpose            |          | Transpose <perm = [0,1,3,2]> (a)
    movement     | move                 |          | Transpose <perm = [0,3,2,1]> (a)
    movement     | move                 |          | DepthToSpace <blocksize = 2> (a)
    movement     | move                 |          | DepthToSpace <blocksize = 2, mode = \"CRD\"> (a)
    movement     | move                 |          | Slice (a, first, second, second)
    movement     | move                 |          | Slice (a, last, front, third, back)
    movement     | move                 |          | Pad (a, pads)
    movement     | move                 |          | Pad <mode = \"reflect\"> (a, pads)
    movement     | move                 |          | Pad <mode = \"edge\"> (a, pads)
    movement     | move                 |          | Pad <mode = \"wrap\"> (a, pads)
    movement     | move                 |          | Resize <coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> (a, , factors)
    movement     | move                 |          | Expand (a, wider)
    movement     | move                 |          | Tile (a, twice)
    movement     | move                 |          | Gather <axis = 2> (a, picks)
    movement     | portable             |          | SpaceToDepth <blocksize = 2> (a)
";

/// A line of [`EXAMPLES`].
struct Example {
    class: OpClass,
    core: Core,
    weights: Vec<usize>,
    operator: &'static str,
}

fn examples() -> Vec<Example> {
    let lines = EXAMPLES.lines().filter(|line| !line.trim().is_empty());
    let example = |line: &'static str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let classes = BackendConfig::fbgemm().capabilities;
        let mut classes = classes.iter().map(|capability| capability.class);
        let sizes = columns[2].split_whitespace().map(str::parse);
        Example {
            class: classes
                .find(|class| class.name() == columns[0])
                .expect("a class"),
            core: columns[1].parse::<Kernel>().expect("a kernel").core(),
            weights: sizes.collect::<Result<_, _>>().expect("sizes"),
            operator: columns[3],
        }
    };
    lines.map(example).collect()
}

/// The step of `a` and `b`, of the weights, and of results that have parameters of their own.
const OPERAND_STEP: f32 = 0.02;
const WEIGHT_STEP: f32 = 0.005;
const RESULT_STEP: f32 = 0.03;

impl Example {
    fn operands(&self) -> &'static [usize] {
        if self.class == OpClass::Linear {
            &[2, 8]
        } else {
            &[2, 8, 6, 6]
        }
    }

    /// The axis of the weights along which the output channels lie.
    fn axis(&self) -> usize {
        usize::from(self.class == OpClass::Linear && !self.operator.contains("transB"))
    }

    fn has_two_operands(&self) -> bool {
        self.operator.contains("(a, b)")
    }

    fn inputs(&self) -> Vec<(&'static str, Tensor)> {
        let count = if self.has_two_operands() { 2 } else { 1 };
        let both = [
            ("a", noise(self.operands(), 2.5)),
            ("b", noise(self.operands(), 1.5)),
        ];
        both.into_iter().take(count).collect()
    }

    fn sizes(sizes: &[usize]) -> String {
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        sizes.join(",")
    }

    /// The head of a text: inputs, and small constants of all examples.
    fn head(&self) -> String {
        let sizes = Self::sizes(self.operands());
        let second = if self.has_two_operands() {
            format!(", float[{sizes}] b_real")
        } else {
            String::new()
        };
        format!(
            "<ir_version: 10, opset_import: [\"\" : 21]> g (float[{sizes}] a_real{second}) => (y)
            <float zero = {{0}}, float half = {{0.5}}, float one = {{1}}, int64[1] first = {{0}}, int64[1] second = {{1}},
            int64[2] sizes = {{2,-1}}, int64[8] pads = {{0,0,1,1,0,0,1,1}}, int64[1] last = {{-1}}, int64[1] front = {{-7}},
            int64[1] third = {{2}}, int64[1] back = {{-2}}, float[4] factors = {{1,1,2,1.5}}, int64[5] wider = {{2,1,1,1,1}},
            int64[4] twice = {{1,2,1,3}}, int64[3] picks = {{5,0,-2}}"
        )
    }

    /// A graph in which the operator stands between quantized operands and a quantized result.
    fn quantized(
        &self,
        activation: QuantType,
        weight: QuantType,
        per_channel: bool,
    ) -> Result<Graph> {
        let middle =
            |low: i32, high: i32, at: f64| low + ((f64::from(high) - f64::from(low)) * at) as i32;
        let zero_point = |at| middle(activation.min(), activation.max(), at);
        let capability = BackendConfig::fbgemm().capability(self.class).cloned();
        let shares = capability
            .is_some_and(|capability| capability.observation == Observation::SharedWithInput);
        let (result_step, result_zero) = if shares {
            (OPERAND_STEP, zero_point(0.5))
        } else {
            (RESULT_STEP, zero_point(0.4))
        };
        let mut text = self.head();
        write!(
            text,
            ", float xs = {{{OPERAND_STEP}}}, {activation} xz = {{{}}}",
            zero_point(0.5)
        )?;
        write!(
            text,
            ", float ys = {{{result_step}}}, {activation} yz = {{{result_zero}}}"
        )?;
        if !self.weights.is_empty() {
            let (sizes, axis) = (&self.weights, self.axis());
            let channels = if per_channel { sizes[axis] } else { 1 };
            let shape = if per_channel {
                format!("[{channels}]")
            } else {
                String::new()
            };
            let zero = if weight.is_signed() {
                0
            } else {
                middle(0, weight.max(), 0.5) + 1
            };
            let list =
                |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(",");
            let weights = noise(sizes, 120.0);
            let weights = list(
                &mut weights
                    .values::<f32>()?
                    .iter()
                    .map(|&w| (w as i32 + zero).to_string()),
            );
            let steps = || (0..channels).map(|channel| WEIGHT_STEP * (1.0 + channel as f32 / 8.0));
            let bias = list(&mut (0..sizes[axis]).map(|channel| (channel * 40).to_string()));
            write!(
                text,
                ", {weight}[{}] wq = {{{weights}}}",
                Self::sizes(sizes)
            )?;
            write!(
                text,
                ", float{shape} ws = {{{}}}",
                list(&mut steps().map(|step| format!("{step:?}")))
            )?;
            write!(
                text,
                ", {weight}{shape} wz = {{{}}}",
                list(&mut steps().map(|_| zero.to_string()))
            )?;
            write!(text, ", int32[{}] cq = {{{bias}}}", sizes[axis])?;
            write!(
                text,
                ", float{shape} cs = {{{}}}",
                list(&mut steps().map(|step| format!("{:?}", step * OPERAND_STEP)))
            )?;
        }
        text += "> {\naq = QuantizeLinear (a_real, xs, xz)\na = DequantizeLinear (aq, xs, xz)\n";
        if self.has_two_operands() {
            text += "bq = QuantizeLinear (b_real, xs, xz)\nb = DequantizeLinear (bq, xs, xz)\n";
        }
        if !self.weights.is_empty() {
            let axis = self.axis();
            writeln!(
                text,
                "w = DequantizeLinear <axis = {axis}> (wq, ws, wz)\nc = DequantizeLinear <axis = 0> (cq, cs)"
            )?;
        }
        writeln!(
            text,
            "[op] r = {}\nyq = QuantizeLinear (r, ys, yz)\ny = DequantizeLinear (yq, ys, yz)\n}}",
            self.operator
        )?;
        text::parse(&text, None).with_context(|| text)
    }

    /// A float model: the operator and, so that its result is demanded, a convolution or linear layer.
    fn float(&self) -> Result<Graph> {
        let mut text = self.head();
        if !self.weights.is_empty() {
            let (sizes, axis) = (&self.weights, self.axis());
            let list = |count: usize| {
                (0..count)
                    .map(|i| format!("{}.5", i % 3))
                    .collect::<Vec<_>>()
                    .join(",")
            };
            write!(
                text,
                ", float[{}] w = {{{}}}",
                Self::sizes(sizes),
                list(sizes.iter().product())
            )?;
            write!(
                text,
                ", float[{}] c = {{{}}}",
                sizes[axis],
                list(sizes[axis])
            )?;
        }
        text = text.replace("_real", "");
        writeln!(text, "> {{\n[op] y = {}\n}}", self.operator)?;
        text::parse(&text, None).with_context(|| text)
    }
}

/// Whether a kernel computes on quantized values.
fn is_integer(core: Core) -> bool {
    core.name().starts_with('q') && core != Core::Quantize
}

/// Runs a graph under every instruction set; gives its plan and the largest difference from the interpreted graph.
fn run(graph: &Graph, inputs: &[(&'static str, Tensor)]) -> Result<(std::sync::Arc<Plan>, f32)> {
    let names = [("a", "a_real"), ("b", "b_real")];
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| {
            let real = names
                .iter()
                .find(|(short, real)| short == name && graph.value_named(real).is_some());
            (real.map_or(*name, |(_, real)| *real), tensor.clone())
        })
        .collect();
    let plan = plan(graph)?;
    let expected = interpret(graph, &inputs)?.remove(0);
    let (lowered, _) = octofold::lower(graph)?;
    let lowered = interpret(&lowered, &inputs)?.remove(0);
    let mut worst = 0.0_f32;
    for isa in Isa::supported() {
        let found = session(&plan, 2, Some(isa))?.run(&inputs)?.remove(0).1;
        ensure!(
            found.shape() == expected.shape(),
            "{:?} instead of {:?}",
            found.shape(),
            expected.shape()
        );
        let pairs = found.values::<f32>()?.iter().zip(expected.values::<f32>()?);
        worst = pairs.fold(worst, |worst, (x, y)| worst.max((x - y).abs()));
        let on_integers = plan
            .steps()
            .iter()
            .any(|step| is_integer(step.kernel.core()));
        ensure!(
            !on_integers || found == lowered,
            "{isa}: not the bits of the lowered graph"
        );
    }
    Ok((plan, worst))
}

/// Checks that a plan computes the operator of an example with the kernel that it names, on bytes, within one step of the QDQ graph.
fn check_case(
    example: &Example,
    activation: QuantType,
    weight: QuantType,
    per_channel: bool,
) -> Result<()> {
    let graph = example.quantized(activation, weight, per_channel)?;
    let (plan, worst) = run(&graph, &example.inputs())?;
    let mut steps = plan.steps().iter();
    let step = steps.find(|step| step.name == "op").context("no step")?;
    let (kernel, note) = (step.kernel, &step.note);
    ensure!(kernel == example.core.into(), "{kernel}: {note}\n{plan}");
    let is_portable = kernel.core() == Core::Portable;
    ensure!(is_portable != note.is_empty(), "{kernel}: `{note}`");
    let result = plan.values()[step.outputs[0].index()].dtype;
    ensure!(result.name() == activation.name(), "{result}\n{plan}");
    ensure!(worst <= 1.01 * RESULT_STEP, "{worst} off\n{plan}");
    Ok(())
}

/// Every class, with every type of activations, every type of weights and every granularity that the table lists, has an integer kernel.
#[test]
fn what_the_table_lists_has_kernels() -> Result<()> {
    let (backend, examples) = (BackendConfig::fbgemm(), examples());
    for capability in &backend.capabilities {
        let class = capability.class;
        ensure!(
            capability.weights.is_empty() != class.has_weights(),
            "{class}"
        );
        // Without weights, their type and granularity are nothing.
        let weights: Vec<QuantType> = if class.has_weights() {
            capability
                .weights
                .iter()
                .map(|config| config.dtype)
                .collect()
        } else {
            vec![QuantType::Int8]
        };
        let granularities = if capability.per_channel_weights {
            &[false, true][..]
        } else {
            &[false]
        };
        let own: Vec<&Example> = examples
            .iter()
            .filter(|example| example.class == class)
            .collect();
        ensure!(!own.is_empty(), "{class} has no example");
        for example in own {
            for activation in capability.activations.iter().map(|config| config.dtype) {
                for &weight in &weights {
                    for &per_channel in granularities {
                        check_case(example, activation, weight, per_channel).with_context(
                            || {
                                format!(
                                    "{} on {activation} by {weight}, per channel: {per_channel}",
                                    example.operator
                                )
                            },
                        )?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// No integer kernel is there that no class leads to.
#[test]
fn every_integer_kernel_is_reached() -> Result<()> {
    let reached: BTreeSet<Core> = examples().iter().map(|example| example.core).collect();
    for &core in Core::ALL {
        ensure!(
            !is_integer(core) || reached.contains(&core),
            "no class leads to {}",
            core.name()
        );
    }
    Ok(())
}

/// A model that is prepared with settings of which nothing may be quantized: every reason names what is missing, and the plan computes
/// what the float plan does.
fn stays_float(example: &Example, qconfig: QConfig, words: &[&str]) -> Result<()> {
    let graph = example.float()?;
    let (model, mapping) = (Model::new(graph.clone()), QConfigMapping::global(qconfig));
    let backend = BackendConfig::fbgemm();
    let strict = octofold::prepare(model.clone(), &mapping, &backend);
    ensure!(
        matches!(strict, Err(octofold::Error::Unhonoured(_))),
        "{}: what cannot be honoured is an error",
        example.operator
    );
    let options = PrepareOptions {
        unmatched: UnmatchedPolicy::Warn,
        ..PrepareOptions::default()
    };
    let prepared = octofold::prepare_with(model, &mapping, &backend, options)?;
    ensure!(!prepared.warnings.is_empty(), "no warning");
    ensure!(
        prepared.annotations.values.is_empty(),
        "{}: values are quantized",
        example.operator
    );
    for fate in &prepared.fates {
        ensure!(!fate.quantized, "{}: {}", fate.node, fate.explanation);
        let named = words.iter().all(|word| fate.explanation.contains(word));
        ensure!(
            named,
            "{}: `{}` does not name {words:?}",
            fate.node,
            fate.explanation
        );
    }
    let reference = octofold::convert(&prepared, &Statistics::new())?;
    let outputs = |graph: &Graph| -> Result<_> {
        Ok(session(&plan(graph)?, 1, None)?.run(&example.inputs())?)
    };
    ensure!(
        outputs(&reference)? == outputs(&graph)?,
        "{}: another result than in float",
        example.operator
    );
    Ok(())
}

#[test]
fn types_that_the_table_lacks_stay_float_and_are_named() -> Result<()> {
    let backend = BackendConfig::fbgemm();
    for example in &examples() {
        let capability = backend
            .capability(example.class)
            .context("a class of the table")?;
        for dtype in TYPES {
            let known = capability.activations.iter().chain(&capability.reference);
            if known.into_iter().all(|known| known.dtype != dtype) {
                let qconfig = QConfig::default().with_activation_type(dtype);
                stays_float(
                    example,
                    qconfig,
                    &["fbgemm", dtype.name(), example.class.name(), "activations"],
                )?;
            }
            let mut weights = capability.weights.iter();
            if example.class.has_weights() && weights.all(|known| known.dtype != dtype) {
                let mut qconfig = QConfig::default();
                let range = QuantRange::symmetric(dtype);
                (
                    qconfig.weight.dtype,
                    qconfig.weight.quant_min,
                    qconfig.weight.quant_max,
                ) = (dtype, range.min, range.max);
                stays_float(
                    example,
                    qconfig,
                    &["fbgemm", dtype.name(), example.class.name(), "weights"],
                )?;
            }
        }
        if example.class.has_weights() {
            let mut qconfig = QConfig::default();
            qconfig.weight.scheme = Scheme::Affine;
            stays_float(
                example,
                qconfig,
                &["fbgemm", example.class.name(), "zero point"],
            )?;
        }
    }
    Ok(())
}

/// Others quantize with types that no kernel has: their models run all the same, as they say.
#[test]
fn foreign_models_of_other_types_keep_their_meaning() -> Result<()> {
    for example in &examples() {
        for activation in [
            QuantType::Uint16,
            QuantType::Int16,
            QuantType::Uint8,
            QuantType::Int8,
        ] {
            for weight in [QuantType::Uint8, QuantType::Int8, QuantType::Int16] {
                let graph = example.quantized(activation, weight, true)?;
                let case = || format!("{} on {activation} by {weight}", example.operator);
                let (_, worst) = run(&graph, &example.inputs()).with_context(case)?;
                ensure!(worst <= 1.01 * RESULT_STEP, "{}: {worst} off", case());
            }
        }
    }
    Ok(())
}
