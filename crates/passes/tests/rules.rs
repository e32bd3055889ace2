//! The driver of rules and the patterns, with rules made for the purpose.

use octofold_ir::{Graph, NodeId, Patch, ValueId, text};
use octofold_ops::families::{Abs, Add, Relu};
use octofold_passes::backend::BackendConfig;
use octofold_passes::fuse::FuseResiduals;
use octofold_passes::lower::FuseQuantizedResiduals;
use octofold_passes::manager::{ManagerOptions, last_rewrite, run_passes};
use octofold_passes::pass::{Pass, PassError, PassReport};
use octofold_passes::pattern::{Match, Pattern, PatternError, SymbolKind};
use octofold_passes::pipeline::{Context, Stage, stage_passes};
use octofold_passes::rewrite::{Named, Rewrite, Rewriter, Rule, Skip};
use octofold_passes::{op, rule, symbols};

fn parse(source: &str) -> Graph {
    text::parse(source, None).unwrap()
}

fn operators(graph: &Graph) -> Vec<&'static str> {
    let order = graph.order().unwrap().into_iter();
    order.map(|id| graph.node(id).op().name()).collect()
}

fn apply(graph: &mut Graph, rules: &[&dyn Rule]) -> Result<PassReport, PassError> {
    let mut rewriter = Rewriter::new("test");
    rewriter.apply_rules(graph, rules)?;
    Ok(rewriter.report)
}

symbols! {
    struct Pair { x: ValueId, y: ValueId }
}

/// `x + y` becomes `x` when `x` has a name; another name is the reason why not.
struct KeepOperand(&'static str);

impl Named for KeepOperand {
    const NAME: &'static str = "keep-operand";
    type Found = Pair;
}

impl Rewrite for KeepOperand {
    fn pattern(&self) -> Pattern {
        Pattern::value("x") + Pattern::value("y")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Pair>) -> Result<Patch, Skip> {
        let name = graph.value(found.x).name();
        if name != self.0 {
            return Err(Skip::because(format!("not `{name}`")));
        }
        Ok(Patch::new().replace_result(graph, found.root(), found.x))
    }
}

const SUM: &str = "g (float[4] a, float[4] b) => (y)\n{\n[sum] y = Add (a, b)\n}\n";

#[test]
fn a_rule_that_declines_gets_the_next_match() {
    for wanted in ["a", "b"] {
        let mut graph = parse(SUM);
        let report = apply(&mut graph, &[&KeepOperand(wanted)]).unwrap();
        assert_eq!(report.to_string(), "keep-operand `sum` applied\n");
        let kept = graph.value(graph.outputs()[0].value);
        assert_eq!(kept.name(), wanted);
    }
}

#[test]
fn the_reason_of_the_last_match_is_reported() {
    let mut graph = parse(SUM);
    let report = apply(&mut graph, &[&KeepOperand("c")]).unwrap();
    assert_eq!(report.to_string(), "keep-operand `sum` skipped: not `b`\n");
}

#[test]
fn a_pattern_matches_in_all_ways() {
    let graph = parse(
        "g (float[4] a, float[4] b) => (y, z)\n{\n[p] m = Mul (a, b)\n[q] y = Add (m, m)\n[r] z = Add (m, y)\n}\n",
    );
    let count = |pattern: &Pattern, node: &str| {
        let node = graph.node_named(node).unwrap();
        pattern.matches(&graph, node).len()
    };
    let (x, y) = (Pattern::value("x"), Pattern::value("y"));
    let product = x.clone() * y.clone();
    assert_eq!(count(&product, "p"), 2);
    // Equal operands have one order.
    assert_eq!(count(&(x.clone() + y.clone()), "q"), 1);
    // Each order of the sum whose one operand is a product, times the orders of that product.
    assert_eq!(count(&(Pattern::value("m") + product.clone()), "r"), 2);
    assert_eq!(count(&(Pattern::value("m") + product), "q"), 2);
    // A symbol that occurs twice is one value.
    assert_eq!(count(&(x.clone() + x.clone()), "q"), 1);
    assert_eq!(count(&(x.clone() + x), "r"), 0);
    assert_eq!(count(&(y.clone() - Pattern::any()), "q"), 0);
}

#[test]
fn numbers_and_absent_operands_match_what_they_say() {
    let graph = parse(
        "g (float[4] a) => (y, z, u)\n<float[4] ones = {1.0, 1.0, 1.0, 1.0}, float[2,2] mixed = {1.0, 1.0, 1.0, 2.0}, float low = {0.0}, float high = {6.0}>\n{\n\
         [one] y = Add (a, ones)\n[two] z = Clip (y, low)\n[three] u = Clip (y, low, high)\n}\n",
    );
    let found = |pattern: Pattern, node: &str| {
        let node = graph.node_named(node).unwrap();
        !pattern.matches(&graph, node).is_empty()
    };
    let x = || Pattern::value("x");
    assert!(found(x() + 1.0, "one"));
    assert!(!found(x() + 2.0, "one"));
    assert!(!found(x() * 1.0, "one"));
    assert!(found(x().clip(0.0, Pattern::absent()), "two"));
    assert!(!found(x().clip(0.0, Pattern::absent()), "three"));
    let bounded = || x().clip(0.0, Pattern::number(6.0).optional());
    assert!(found(bounded(), "two") && found(bounded(), "three"));
    assert!(found(x().clip(0.0, 6.0), "three") && !found(x().clip(0.0, 5.0), "three"));
}

symbols! {
    struct Function { function: NodeId, x: ValueId }
}

symbols! {
    struct MaybeFunction { function: Option<NodeId>, x: ValueId }
}

#[test]
fn a_pattern_binds_the_symbols_of_its_rule_and_no_others() {
    let x = || Pattern::value("x");
    let function = || x().sigmoid().named("function");
    let sum = function() + Pattern::any();
    assert_eq!(sum.check::<Function>(), Ok(()));
    let misspelt = x().sigmoid().named("funktion") + Pattern::any();
    assert_eq!(
        misspelt.check::<Function>(),
        Err(PatternError::Unbound {
            symbol: "function",
            kind: SymbolKind::Node
        })
    );
    let additional = function() + Pattern::constant("c");
    assert_eq!(
        additional.check::<Function>(),
        Err(PatternError::Undeclared("c"))
    );
    // A value where a node is wanted.
    let value = x() + Pattern::value("function");
    assert!(matches!(
        value.check::<Function>(),
        Err(PatternError::Unbound { .. })
    ));
    let either = Pattern::any_of([function() + Pattern::any(), x() * 2.0]);
    assert_eq!(
        either.check::<Function>(),
        Err(PatternError::SometimesUnbound("function"))
    );
    assert_eq!(either.check::<MaybeFunction>(), Ok(()));
    let twice = function() * function();
    assert_eq!(
        twice.check::<Function>(),
        Err(PatternError::Repeated("function"))
    );
    assert_eq!(x().check::<()>(), Err(PatternError::NoRoot));
}

rule! {
    /// A rule whose pattern has another symbol than it declares.
    struct Misspelt("misspelt") finds Pair
}

impl Rewrite for Misspelt {
    fn pattern(&self) -> Pattern {
        Pattern::value("x") + Pattern::value("z")
    }

    fn rewrite(&self, _: &Graph, _: &Match<Pair>) -> Result<Patch, Skip> {
        panic!("a rule with a wrong pattern is never asked")
    }
}

#[test]
fn a_misspelt_symbol_is_an_error_before_any_rule_is_applied() {
    let mut graph = parse(SUM);
    let error = apply(&mut graph, &[&KeepOperand("a"), &Misspelt]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rule `misspelt`: no part of the pattern binds the value `y`"
    );
    assert_eq!(operators(&graph), ["Add"]);
}

/// Puts one function in the place of another: `Abs` of `Relu`, or `Relu` of `Abs`.
struct Exchange<const ABS: bool>;

symbols! {
    struct Argument { x: ValueId }
}

impl<const ABS: bool> Named for Exchange<ABS> {
    const NAME: &'static str = if ABS { "there" } else { "back" };
    type Found = Argument;
}

impl<const ABS: bool> Rewrite for Exchange<ABS> {
    fn pattern(&self) -> Pattern {
        let accepts = if ABS { op!(Relu) } else { op!(Abs) };
        Pattern::node(accepts, [Pattern::value("x")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        let operands = [Some(found.x.into())];
        Ok(match ABS {
            true => found.replace_by(graph, Abs {}, operands),
            false => found.replace_by(graph, Relu {}, operands),
        })
    }
}

#[test]
fn rules_that_undo_each_other_are_an_error_that_names_both() {
    // The second graph has a function in each state, so every sweep applies both rules.
    for source in [
        "g (float[4] a) => (y)\n<float[4] w = {1.0, 2.0, 3.0, 4.0}>\n{\n[f] b = Relu (a)\n[sum] y = Add (b, w)\n}\n",
        "g (float[4] a) => (y)\n{\n[f] b = Relu (a)\n[g] y = Abs (b)\n}\n",
    ] {
        let rules: [&dyn Rule; 3] = [&KeepOperand("none"), &Exchange::<true>, &Exchange::<false>];
        let error = apply(&mut parse(source), &rules).unwrap_err();
        let PassError::Undone {
            pass, mut rules, ..
        } = error.clone()
        else {
            panic!("{error}");
        };
        rules.sort();
        assert_eq!(
            (pass.as_str(), rules),
            ("test", vec!["back".to_owned(), "there".to_owned()])
        );
        assert!(error.to_string().contains("undo each other"), "{error}");
    }
}

rule! {
    /// `x + y` becomes `y + x`, which it also matches.
    struct Swap("swap") finds Pair
}

impl Rewrite for Swap {
    fn pattern(&self) -> Pattern {
        Pattern::value("x") + Pattern::value("y")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Pair>) -> Result<Patch, Skip> {
        let operands = [Some(found.y.into()), Some(found.x.into())];
        Ok(found.replace_by(graph, Add {}, operands))
    }
}

#[test]
fn a_rule_that_undoes_itself_is_an_error() {
    let error = apply(&mut parse(SUM), &[&Swap]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pass `test`: at `sum`, the rule `swap` undoes its own change"
    );
}

rule! {
    /// `x` becomes `relu(x)`, again and again.
    struct Grow("grow") finds Argument
}

impl Rewrite for Grow {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Relu), [Pattern::value("x")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        let mut patch = Patch::new();
        let inner = patch.node("inner", Abs {}, [Some(found.x.into())], vec![]);
        Ok(patch.replace_op(graph, found.root(), Relu {}, [Some(inner)]))
    }
}

#[test]
fn a_rule_that_still_applies_in_the_last_sweep_is_reported() {
    let mut graph = parse("g (float[4] a) => (y)\n{\n[f] y = Relu (a)\n}\n");
    let report = apply(&mut graph, &[&Grow]).unwrap();
    assert_eq!(operators(&graph).len(), 33);
    let last = report.events.last().unwrap().to_string();
    assert_eq!(
        last,
        "grow `f` skipped: it still applied in sweep 32, the last one"
    );
}

/// The operators after a pass, and what the convolution with a residual is called.
fn fused(pass: &dyn Pass, source: &str) -> (Vec<&'static str>, String) {
    let mut graph = parse(source);
    run_passes(&mut graph, &[pass], ManagerOptions::default()).unwrap();
    let order = graph.order().unwrap();
    let residual = order.iter().find(|&&id| graph.node(id).input(3).is_some());
    let name = residual.map(|&id| graph.node(id).name().to_owned());
    (operators(&graph), name.unwrap_or_default())
}

#[test]
fn both_orders_of_a_sum_give_its_convolution_the_residual() {
    for operands in ["c, d", "d, c"] {
        // `first` cannot take the sum: something comes between.
        let source = format!(
            "g (float[N,1,4,4] x) => (y)\n<float[2,1,1,1] w = {{1.0, 2.0}}>\n{{\n\
             [first] c = octofold.Conv <activation = \"relu\"> (x, w)\n[second] d = octofold.Conv (x, w)\n[sum] y = Add ({operands})\n}}\n"
        );
        let (operators, residual) = fused(&FuseResiduals, &source);
        assert_eq!(
            (operators.len(), residual.as_str()),
            (2, "second"),
            "{operators:?}"
        );
    }
    for (operands, a, b) in [("c, d", 0.25, 0.5), ("d, c", 0.5, 0.25)] {
        // `first` cannot take the sum: its result is an output.
        let conv = |scale: f32| {
            format!(
                "octofold.Conv <x_scale = 0.5, x_zero_point = 3, w_scale = [0.5], y_type = \"uint8\", y_scale = {scale}, y_zero_point = 5> (x, w)"
            )
        };
        let source = format!(
            "g (uint8[N,1,4,4] x) => (y, c)\n<int8[2,1,1,1] w = {{1, -2}}>\n{{\n[first] c = {}\n[second] d = {}\n\
             [sum] y = octofold.Binary <kind = \"add\", a_scale = {a}, a_zero_point = 5, b_scale = {b}, b_zero_point = 5, y_type = \"uint8\", y_scale = 0.75, y_zero_point = 7> ({operands})\n}}\n",
            conv(0.25),
            conv(0.5)
        );
        let (operators, residual) = fused(&FuseQuantizedResiduals, &source);
        assert_eq!(
            (operators.len(), residual.as_str()),
            (2, "second"),
            "{operators:?}"
        );
    }
}

/// A graph with work for several passes of `simplify`.
const SEVERAL: &str = "g (float[N,4] x) => (y)\n<float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float[4] b = {1,2,3,4}, float one = {1.0}>\n{\n\
    [same] a = Identity (x)\n[product] c = MatMul (a, w)\n[times] d = Mul (c, one)\n[sum] e = Add (d, b)\n\
    [gate] f = Sigmoid (e)\n[gated] y = Mul (e, f)\n}\n";

#[test]
fn a_run_stops_after_the_patch_that_was_asked_for() {
    let backend = BackendConfig::fbgemm();
    let passes = stage_passes(Stage::Simplify, &Context::new(&backend)).unwrap();
    let passes: Vec<&dyn Pass> = passes.iter().map(|pass| &**pass as &dyn Pass).collect();
    let run = |limit: Option<usize>| {
        let mut graph = parse(SEVERAL);
        let options = ManagerOptions {
            stop_after_rewrite: limit,
            ..ManagerOptions::default()
        };
        let runs = run_passes(&mut graph, &passes, options).unwrap();
        let last =
            last_rewrite(&runs).map(|(number, pass, event)| (number, format!("{pass}: {event}")));
        (operators(&graph), last)
    };
    let (all, last) = run(None);
    assert_eq!(all, ["Linear", "Swish"]);
    let total = last.unwrap().0;
    assert_eq!(run(Some(total)).0, all);
    assert_eq!(run(Some(0)), (operators(&parse(SEVERAL)), None));
    // Each patch changes the graph, and the report names it.
    let mut before = operators(&parse(SEVERAL));
    for number in 1..=total {
        let (operators, last) = run(Some(number));
        let (found, name) = last.unwrap();
        assert_eq!(found, number);
        assert_ne!(operators, before, "{name}");
        before = operators;
    }
    assert_eq!(
        run(Some(1)).1.unwrap().1,
        "eliminate-identities: neutral-operand `times` applied"
    );
}
