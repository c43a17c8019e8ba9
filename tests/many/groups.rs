//! Which tensor falls where, and what its group does to it.

use gradstep::optim::{AdamW, Came, Sgd};
use gradstep::value::{Interpreter, Step};
use gradstep::{
    Cpu, Definition, Error, Group, Layout, Levels, Missing, Optimizer, Recipe, Select, Setup,
};

use crate::side::{OnCpu, Side, grads, make, model, on_all, starts, two_groups};

on_all! {
    frozen_tensors_are_left_out,
    factors_masks_and_schedules_reach_their_tensors,
}

fn fails(setup: &Setup) -> String {
    setup.cpu::<f32>(&Cpu::default()).map(|_| ()).expect_err("it does not fit").to_string()
}

#[test]
fn the_first_group_that_selects_takes_a_tensor_and_the_listing_says_why() {
    let optimizer = two_groups(model()).cpu::<f32>(&Cpu::default()).expect("valid");
    let groups = optimizer.groups();
    assert_eq!(groups.of("layers.0.weight").expect("known").0, "matrices");
    let (group, why) = groups.of("layers.2.bias").expect("known");
    assert_eq!((group, why), ("others", "it takes every tensor"));
    let text = groups.to_string();
    for has in ["matrices: came", "others: adamw", "rank is at least 2", "size is at least 100"] {
        assert!(text.contains(has), "{text}\nlacks {has}");
    }
    let lines = text.lines().filter(|l| l.starts_with("  ")).count();
    assert_eq!(lines, model().len(), "{text}");
}

#[cfg(feature = "patterns")]
#[test]
fn globs_and_regular_expressions_choose_by_name() {
    let glob = |g: &str| Select::glob(g).expect("a glob");
    let regex = |r: &str| Select::regex(r).expect("an expression");
    let taken = |select: Select| {
        let optimizer = Setup::new()
            .tensors(model())
            .group(Group::new("chosen", Sgd::new(0.1)).of(select))
            .group(Group::new("rest", Sgd::new(0.1)))
            .cpu::<f32>(&Cpu::default())
            .expect("valid");
        let names: Vec<_> = optimizer.groups().tensors().map(|t| t.name.clone()).collect();
        let chosen = |n: &String| optimizer.groups().of(n).expect("known").0 == "chosen";
        names.into_iter().filter(chosen).collect::<Vec<_>>().join(" ")
    };
    let layers =
        |what: &str| (0..5).map(|i| format!("layers.{i}.{what}")).collect::<Vec<_>>().join(" ");
    assert_eq!(taken(glob("*.bias")), layers("bias"));
    assert_eq!(taken(glob("layers.[12].weight")), "layers.1.weight layers.2.weight");
    assert_eq!(
        taken(glob("{embed,layers.0}.*").and(glob("*.weight"))),
        "embed.weight layers.0.weight"
    );
    assert_eq!(taken(regex("^s|^e.*y$")), "scale empty");
    assert_eq!(taken(regex(r"\.\d\.w")), layers("weight"));
    assert_eq!(taken(regex("(?i)^SC")), "scale", "in both cases");
    assert_eq!(taken(Select::rank(..1).or(Select::size(0..=0))), "scale empty");
    assert_eq!(taken(glob("layers.*").not()), "embed.weight scale empty");
    assert_eq!(taken(Select::test("the third", |t| t.name == "scale")), "scale");
    for error in [Select::glob("a[").map(|_| ()), Select::regex("(").map(|_| ())] {
        assert!(matches!(error, Err(Error::Setup { .. })), "{error:?}");
    }
}

/// A definition with names that a set has uses for (0 to 2), without a learning rate (3), with a slot
/// that is never set (4).
#[derive(Clone, Debug)]
struct Reserved<const N: u8>;

impl<const N: u8> Definition for Reserved<N> {
    const NAME: &'static str = "reserved";
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let slot = s.full(["param_average", "averaged_steps", "m", "m", "m"][usize::from(N)]);
        if N != 4 {
            slot.set(s.grad());
        }
        s.set_param(s.param() - s.grad());
    }
}

impl<const N: u8> Optimizer for Reserved<N> {
    fn hyper(&self, name: &str) -> Option<f64> {
        (N == 2 && name == "grad_scale").then_some(1.0)
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<Self>()
    }
}

#[test]
fn what_does_not_fit_together_names_the_tensor_or_the_group() {
    let one = || Setup::new().tensor("w", [2, 3]);
    let group = |name: &str| Group::new(name, AdamW::new(0.1));
    for (setup, has) in [
        (one().tensor("w", [1]).group(group("a")), "tensors 0 and 1"),
        (one(), "tensor `w` of shape [2, 3]"),
        (one().group(group("a").of(Select::names(["v"]))), "none of 1 groups"),
        (one().group(group("a")).group(group("a")), "group `a`"),
        (one().group(group("a").lr_factor(f64::NAN)), "lr_factor is NaN"),
        (one().group(group("a").schedule_with("lt", |_| 0.1)), "no number `lt`"),
        (one().group(Group::frozen("f").schedule_with("lr", |_| 0.1)), "frozen"),
        (
            one().group(group("a").schedule_with("lr", |_| 0.1).schedule_with("lr", |_| 0.2)),
            "two schedules",
        ),
        (one().group(Group::new("a", AdamW::new(-1.0))), "group `a`: hyper-parameter `lr`"),
        (
            one().group(Group::new("a", Reserved::<0>)),
            "group `a`: its definition has a `param_average`",
        ),
        (one().group(Group::new("a", Reserved::<1>)), "has a `averaged_steps`"),
        (one().group(Group::new("a", Reserved::<2>)), "has a `grad_scale`"),
        (one().group(Group::new("a", Reserved::<3>).lr_factor(0.5)), "it has no `lr`"),
        (one().group(Group::new("a", Reserved::<3>).without_decay(Select::all())), "weight_decay"),
        (one().group(Group::new("a", Reserved::<4>)), "tensor `w`: the definition of reserved"),
        (Setup::new().tensor("huge", [usize::MAX, 2]).group(group("a")), "tensor `huge`: shape"),
        (Setup::new().tensor("huge", [usize::MAX, 2]).group(Group::frozen("f")), "tensor `huge`"),
    ] {
        let error = fails(&setup);
        assert!(error.contains(has), "{error}\nlacks {has}");
    }
}

#[test]
fn a_step_that_does_not_fit_names_the_tensor_and_changes_nothing() {
    let setup = |missing| {
        Setup::new()
            .tensor("w", [2, 3])
            .tensor("b", [3])
            .tensor("f", [2])
            .group(Group::frozen("still").of(Select::names(["f"])))
            .group(Group::new("all", AdamW::new(0.1)))
            .missing(missing)
    };
    let mut optimizer = setup(Missing::Error).cpu::<f32>(&Cpu::default()).expect("valid");
    let (mut w, mut b, mut f) = ([1.0f32; 6], [1.0f32; 3], [1.0f32; 2]);
    {
        let mut step = optimizer.begin();
        let mut other = [0.0f32; 6];
        let message = |e: gradstep::Result<()>| e.expect_err("it does not fit").to_string();
        assert!(message(step.tensor("v", &mut other, &[1.0; 6])).contains("`v`"));
        let mut other = [0.0f32; 5];
        let text = message(step.tensor("w", &mut other, &[1.0; 6]));
        assert!(text.contains("parameter `w`") && text.contains("[5]"), "{text}");
        let text = message(step.tensor("f", &mut f, &[1.0; 2]));
        assert!(text.contains("`f` is frozen by group `still`"), "{text}");
        let mut other = [0.0f32; 6];
        let g = ndarray::Array2::<f32>::zeros((3, 2));
        let text = message(step.tensor("w", &mut other, &g));
        assert!(text.contains("gradient of `w`") && text.contains("[3, 2]"), "{text}");
        step.tensor("w", &mut w, &[1.0; 6]).expect("it fits");
        let mut other = [0.0f32; 6];
        assert!(message(step.tensor("w", &mut other, &[1.0; 6])).contains("twice"));
        let error = step.finish().expect_err("b is missing").to_string();
        assert!(error.contains("`b` has no gradient"), "{error}");
    }
    assert_eq!((w, optimizer.steps()), ([1.0; 6], 0));

    let mut optimizer = setup(Missing::Skip).cpu::<f32>(&Cpu::default()).expect("valid");
    let mut step = optimizer.begin();
    step.tensor("w", &mut w, &[1.0; 6]).expect("it fits");
    step.finish().expect("b is skipped");
    assert!(w[0] < 1.0 && optimizer.steps() == 1, "{w:?}");
    let mut step = optimizer.begin();
    step.tensor("b", &mut b, &[1.0; 3]).expect("it fits");
    step.finish().expect("w is skipped");
    assert!(b[0] < 1.0 && optimizer.steps() == 2, "{b:?}");
}

#[test]
fn handles_and_names_are_the_same_tensor() {
    let mut optimizer = two_groups(model()).cpu::<f64>(&Cpu::default()).expect("valid");
    let id = optimizer.groups().id("layers.1.bias").expect("known");
    assert_eq!(optimizer.groups().tensors().nth(id.index()).expect("known").name, "layers.1.bias");
    let names: Vec<_> = optimizer.slots(id).expect("known").map(|s| s.0).collect();
    assert_eq!(names, ["exp_avg", "exp_avg_sq"]);
    optimizer.set_slot("layers.1.bias", "exp_avg", &[2.0; 20]).expect("its size");
    assert_eq!(optimizer.slot(id, "exp_avg").expect("known"), [2.0; 20]);
    assert_eq!(optimizer.groups().id("nobody"), None);
    assert!(optimizer.plan(id).expect("known").to_string().contains("exp_avg"));
}

fn frozen_tensors_are_left_out<S: Side>() {
    // The last tensors of a model are frozen, so that lists of the others are short.
    let tensors = model();
    let few: Vec<_> = tensors[..4].to_vec();
    let frozen = Select::test("it comes later", {
        let names: Vec<_> = few.iter().map(|t| t.0.clone()).collect();
        move |t| !names.contains(&t.name)
    });
    let setup = Setup::new()
        .tensors(tensors.clone())
        .group(Group::frozen("still").of(frozen))
        .group(Group::new("all", AdamW::new(0.1)));
    let mut side = make!(S, setup, starts(&few));
    let mut free = make!(
        S,
        Setup::new().tensors(few.clone()).group(Group::new("all", AdamW::new(0.1))),
        starts(&few)
    );
    for t in 1..=2 {
        side.step(&grads(&few, t)).expect("a step");
        free.step(&grads(&few, t)).expect("a step");
    }
    assert_eq!(side.params(), free.params(), "on the {}", S::NAME);
}

fn factors_masks_and_schedules_reach_their_tensors<S: Side>() {
    let tensors: Vec<(String, Vec<usize>)> =
        ["a", "b", "c", "d"].map(|n| (n.to_string(), vec![3])).into();
    let is = |name: &'static str| Select::names([name]);
    let sgd = Sgd::new(1.0).with_decoupled_weight_decay(0.5);
    let setup = Setup::new()
        .tensors(tensors.clone())
        .group(Group::new("slow", Sgd::new(1.0)).of(is("a")).lr_factor(0.25))
        .group(Group::new("scheduled", Sgd::new(7.0)).of(is("b")).schedule_with("lr", |t| {
            #[allow(clippy::cast_precision_loss, reason = "small")]
            let t = t as f64;
            0.5 + t
        }))
        .group(Group::new("decayed", sgd).without_decay(is("d")));
    let params = vec![vec![8.0f32; 3]; 4];
    let g = vec![vec![1.0f32; 3]; 4];
    let mut side = make!(S, setup, params);
    side.step(&g).expect("a step");
    let firsts = |p: Vec<Vec<f32>>| p.iter().map(|p| p[0]).collect::<Vec<_>>();
    assert_eq!(firsts(side.params()), [7.75, 7.5, 3.0, 7.0], "on the {}", S::NAME);
    side.groups_mut().set_hyper("slow", "lr", 4.0).expect("a number");
    side.groups_mut().set_hyper("decayed", "lr", 0.0).expect("a number");
    side.step(&g).expect("a step");
    assert_eq!(firsts(side.params()), [6.75, 6.0, 3.0, 7.0], "on the {}", S::NAME);
    assert_eq!(side.groups_mut().hyper("slow", "lr").expect("a number"), 1.0, "4 times a quarter");
    assert!(side.groups_mut().set_hyper("slow", "beta1", 0.5).is_err(), "SGD has no beta1");
    assert!(side.groups_mut().set_hyper("nobody", "lr", 0.5).is_err(), "no such group");
    // What is set wrong is an error of the step, which changes nothing.
    side.groups_mut().set_hyper("slow", "lr", f64::NAN).expect("a number");
    let before = side.params();
    assert!(matches!(side.step(&g), Err(Error::In { .. })), "NaN was taken");
    assert_eq!(side.params(), before, "on the {}", S::NAME);
}

#[test]
fn layouts_come_from_the_tensor_or_else_the_group() {
    let came = || Group::new("all", Came::new(1e-3)).layout(Layout::LastTwo);
    let setup = Setup::new()
        .tensor("conv", [4, 2, 3, 3])
        .tensor_with("flat", [4, 2, 3, 3], Layout::Flatten)
        .group(came());
    let optimizer = setup.cpu::<f32>(&Cpu::default()).expect("valid");
    let rows = |name: &str| optimizer.slot(name, "exp_avg_sq_row").expect("a slot").len();
    assert_eq!((rows("conv"), rows("flat")), (24, 4));
    let _: OnCpu = OnCpu::make(&setup, &vec![vec![]; 2]).expect("CPU").expect("valid");
}
