//! Four columns at once, and one: which tensors are taken how, and that the steps are the same.

use gradstep::gpu::{Arena, Foreign, Gpu};
use gradstep::optim::{AdamW, Came, Sgd};
use gradstep::{Gradients, Group, Layout, Optimizer, Setup};

use crate::common::gate;
use crate::common::run::widen;
use crate::common::table::{Any, Tensor, Values, optimizers, seed_of};
use crate::common::tolerance::{self, F32};
use crate::foreign::{Ground, Plot, foreign, step};
use crate::run::{Run, bits, submit, tensor, wait};
use crate::table::even_shapes;

/// Parameter and slots of each tensor after all steps.
type All = Vec<Vec<(String, Vec<f32>)>>;

/// Matrices whose columns four do not divide, in whole rows and in pieces of rows.
fn uneven() -> [Tensor; 2] {
    [tensor(&[7, 15], Layout::Auto), tensor(&[2, 16_386], Layout::Auto)]
}

fn slots(
    optimizer: &Any,
    t: &Tensor,
    read: impl Fn(&'static str) -> Vec<f32>,
) -> Vec<(String, Vec<f32>)> {
    let (_, graph) = t.layout.resolve(optimizer.recipe(), &t.shape).expect("valid");
    graph.slots.iter().map(|s| (s.name.to_string(), read(s.name))).collect()
}

/// In an arena, together with others behind them.
fn in_arena(gpu: &Gpu, optimizer: &Any, run: &Run, others: &[Tensor]) -> All {
    let with = Run { tensors: [&run.tensors, others].concat(), ..run.clone() };
    let mut arena = with.arena(gpu, optimizer.clone());
    (1..=run.steps).for_each(|t| with.step(gpu, &mut arena, t));
    let all = |(i, t): (usize, &Tensor)| {
        let mut all = slots(optimizer, t, |name| wait(arena.read_slot(i, name)).expect("read"));
        all.push(("param".into(), wait(arena.read_param(i)).expect("read")));
        all
    };
    run.tensors.iter().enumerate().map(all).collect()
}

/// In the caller's buffers: so many elements before each parameter and each gradient, in one buffer or
/// in two.
fn in_buffers(gpu: &Gpu, optimizer: &Any, run: &Run, gaps: [usize; 2], pooled: bool) -> All {
    let mut plot = Plot { name: "even or not", ..Plot::default() };
    for (i, t) in run.tensors.iter().enumerate() {
        let len: usize = t.shape.iter().product();
        // What follows begins at a multiple of four again.
        let room = len.next_multiple_of(4) - len;
        let mut place = |buffer: usize, gap: usize| {
            let place = plot.place(buffer, gap, len);
            plot.sizes[buffer] += room;
            place
        };
        let grad = if pooled { 2 * i } else { 2 * i + 1 };
        let places = [place(2 * i, gaps[0]), place(grad, gaps[1])];
        plot.places.push(places);
    }
    plot.sizes.iter_mut().for_each(|n| *n += 4);
    let ground = Ground::new(gpu, plot);
    ground.write_params(gpu, run);
    let mut foreign: Foreign<Any> = foreign(gpu, optimizer.clone(), run);
    for t in 1..=run.steps {
        ground.write_grads(gpu, run, t);
        step(gpu, &mut foreign, &ground);
    }
    let params = ground.params(gpu, run, run.steps);
    let all = |((i, t), param): ((usize, &Tensor), Vec<f32>)| {
        let mut all = slots(optimizer, t, |name| wait(foreign.read_slot(i, name)).expect("read"));
        all.push(("param".into(), param));
        all
    };
    run.tensors.iter().enumerate().zip(params).map(all).collect()
}

fn all_bits(all: &All) -> Vec<Vec<Vec<u32>>> {
    all.iter().map(|of| of.iter().map(|(_, x)| bits(x)).collect()).collect()
}

fn assert_close(run: &Run, found: &All, wanted: &All) {
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let what = run.what(i, run.steps);
        for ((name, found), (_, wanted)) in found.iter().zip(wanted) {
            let [start, found, wanted] = [&run.start(i), found, wanted].map(|x| widen(x));
            let (gpu, most) = (tolerance::GPU, &mut 0.0);
            match name.as_str() {
                "param" => tolerance::check(gpu, F32, &what, most, &start, &found, &wanted),
                name => tolerance::check_slot(gpu, F32, &what, name, most, &found, &wanted),
            }
        }
    }
}

#[test]
fn one_column_at_once_and_four_give_the_same_steps() {
    let Some(gpu) = gate::gpu() else { return };
    let test = "one_column_at_once_and_four_give_the_same_steps";
    for case in optimizers() {
        let (name, optimizer) = (case.name.to_string(), &case.optimizer);
        let run = Run {
            seed: seed_of(case.name),
            name,
            tensors: even_shapes(),
            values: Values::Mixed,
            steps: 4,
            test,
        };
        let fours = in_arena(gpu, optimizer, &run, &[]);
        let ones = in_buffers(gpu, optimizer, &run, [1, 0], false);
        if optimizer.recipe().is_factored() {
            assert_close(&run, &ones, &fours);
        } else {
            assert_eq!(all_bits(&ones), all_bits(&fours), "{}: no sums", run.name);
        }
        // One that is not aligned is enough.
        for (gaps, pooled) in [([0, 2], false), ([3, 0], true), ([4, 1], true)] {
            let found = in_buffers(gpu, optimizer, &run, gaps, pooled);
            assert_eq!(all_bits(&found), all_bits(&ones), "{}: {gaps:?} {pooled}", run.name);
        }
        // Lengths that four do not divide end in an arena only where vectors do.
        let whole = |i: usize| run.tensors[i].shape.iter().product::<usize>() % 4 == 0;
        for (gaps, pooled) in [([0, 0], false), ([4, 8], false), ([0, 0], true), ([8, 4], true)] {
            let found = all_bits(&in_buffers(gpu, optimizer, &run, gaps, pooled));
            for (i, found) in found.iter().enumerate() {
                let wanted = &all_bits(if whole(i) { &fours } else { &ones })[i];
                let shape = &run.tensors[i].shape;
                assert_eq!(found, wanted, "{} {shape:?}: {gaps:?} {pooled}", run.name);
            }
        }
        // Matrices of an arena go one way all together, and vectors another one.
        let beside = all_bits(&in_arena(gpu, optimizer, &run, &uneven()));
        for (i, found) in beside.iter().enumerate() {
            let t = &run.tensors[i];
            let wanted = &all_bits(if t.shape.len() > 1 { &ones } else { &fours })[i];
            assert_eq!(found, wanted, "{} {:?} beside uneven ones", run.name, t.shape);
        }
        // Both ways are there: sums tell them apart.
        let differ = all_bits(&ones).iter().zip(&all_bits(&fours)).filter(|(a, b)| a != b).count();
        let sums = optimizer.recipe().is_factored() && !case.name.starts_with("sm3");
        assert!(!sums || differ > 5, "{}: {differ} tensors differ", run.name);
    }
}

#[test]
fn an_uneven_tensor_takes_no_dispatch_of_its_own() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        let count = |shapes: &[&[usize]]| {
            let arena: Arena<Any> = wait(gpu.arena(case.optimizer.clone(), shapes)).expect("valid");
            arena.dispatches()
        };
        let even: [&[usize]; 4] = [&[8], &[3, 8], &[300, 8], &[2, 16_388]];
        let mixed: [&[usize]; 8] =
            [&[8], &[3, 8], &[300, 8], &[2, 16_388], &[7], &[3, 7], &[300, 7], &[2, 16_385]];
        assert_eq!(count(&mixed), count(&even), "{}", case.name);
    }
}

#[test]
fn what_lies_behind_the_last_element_is_neither_measured_nor_summed() {
    let Some(gpu) = gate::gpu() else { return };
    // A million in each place behind an element would show.
    for len in [1, 2, 3, 5, 4097, 4098, 4099] {
        let mut arena = wait(gpu.arena(Came::new(1e-3), &[[len], [len]])).expect("valid");
        let regions = arena.grad(0).expect("known");
        let end = regions[0].offset + len as u64 * 4;
        let behind = vec![0x49u8; (len.next_multiple_of(4) - len) * 4];
        gpu.queue().write_buffer(regions[0].buffer, end, &behind);
        let param = arena.param(0).expect("known")[0].buffer;
        gpu.queue().write_buffer(param, end, &behind);
        let g: Vec<f32> = (0..len).map(|i| 0.1 + (i % 7) as f32).collect();
        for i in 0..2 {
            arena.write_grad(i, &g).expect("written");
            arena.write_param(i, &vec![1.0; len]).expect("written");
        }
        submit(gpu, |e| arena.encode(e)).expect("a valid step");
        let [a, b] = [0, 1].map(|i| wait(arena.read_param(i)).expect("read"));
        assert_eq!(bits(&a), bits(&b), "{len} elements");
    }
}

#[test]
fn a_nan_is_found_in_every_place_of_a_vector_and_stays_there() {
    let Some(gpu) = gate::gpu() else { return };
    let tensors: [(&str, &[usize]); 4] = [("a", &[9]), ("b", &[3, 8]), ("c", &[6]), ("d", &[])];
    let g = |len: usize| -> Vec<f32> { (0..len).map(|i| 0.25 + i as f32).collect() };
    let lens = tensors.map(|t| t.1.iter().product::<usize>());
    let setup = Setup::new().tensors(tensors).group(Group::new("all", Sgd::new(1.0)));
    let mut tested = wait(setup.clone().gradients(Gradients::new().check_finite()).gpu(gpu))
        .expect("a valid setup");
    let mut plain = wait(setup.gpu(gpu)).expect("a valid setup");
    for (bad, len) in lens.into_iter().enumerate() {
        for place in 0..len {
            for (i, (name, _)) in tensors.iter().enumerate() {
                let mut g = g(lens[i]);
                if i == bad {
                    g[place] = f32::NAN;
                }
                for set in [&tested, &plain] {
                    set.write_grad(*name, &g).expect("written");
                    set.write_param(*name, &vec![1.0; lens[i]]).expect("written");
                }
            }
            submit(gpu, |e| tested.encode(e)).expect("a step");
            submit(gpu, |e| plain.encode(e)).expect("a step");
            assert!(wait(tested.outcome()).expect("read").skipped, "{place} of tensor {bad}");
            for (i, (name, _)) in tensors.iter().enumerate() {
                let kept = wait(tested.read_param(*name)).expect("read");
                assert_eq!(kept, vec![1.0; lens[i]], "{name}: skipped");
                for (k, x) in wait(plain.read_param(*name)).expect("read").iter().enumerate() {
                    let wanted = 0.75 - k as f32;
                    assert!((i, k) == (bad, place) || *x == wanted, "{name}[{k}] is {x}");
                }
            }
        }
    }
}

#[test]
fn conditioned_gradients_are_the_same_either_way() {
    let Some(gpu) = gate::gpu() else { return };
    let test = "conditioned_gradients_are_the_same_either_way";
    for optimizer in [Any::new(AdamW::new(1e-2)), Any::new(Came::new(1e-2))] {
        let gradients = Gradients::new().clip_value(0.8).clip_norm(5.0).check_finite();
        let run = Run {
            name: format!("conditioned {}", optimizer.recipe().name()),
            tensors: even_shapes(),
            values: Values::Normal,
            seed: 11,
            steps: 3,
            test,
        };
        let made = |others: &[Tensor]| -> All {
            let with = Run { tensors: [&run.tensors, others].concat(), ..run.clone() };
            let names: Vec<_> = (0..with.tensors.len()).map(|i| i.to_string()).collect();
            let shapes = names.iter().cloned().zip(with.tensors.iter().map(|t| t.shape.clone()));
            let setup = Setup::new().tensors(shapes.collect::<Vec<_>>());
            let setup = setup.group(Group::new("all", optimizer.clone()));
            let mut set = wait(setup.gradients(gradients.clone()).gpu(gpu)).expect("valid");
            for (i, name) in names.iter().enumerate() {
                set.write_param(name.as_str(), &with.start(i)).expect("written");
            }
            for t in 1..=run.steps {
                for (i, name) in names.iter().enumerate() {
                    // Of the others nothing counts.
                    let g = if i < run.tensors.len() {
                        with.gradient(i, t)
                    } else {
                        vec![0.0; with.tensors[i].shape.iter().product()]
                    };
                    set.write_grad(name.as_str(), &g).expect("written");
                }
                submit(gpu, |e| set.encode(e)).expect("a step");
            }
            let read = |i: usize| wait(set.read_param(names[i].as_str())).expect("read");
            (0..run.tensors.len()).map(|i| vec![("param".to_string(), read(i))]).collect()
        };
        assert_close(&run, &made(&uneven()), &made(&[]));
    }
}

#[cfg(feature = "export")]
#[test]
fn an_exported_plan_takes_each_tensor_as_it_can() {
    use gradstep::export::Limits;
    let modules = |shapes: &[&[usize]], optimizer: Any| {
        let tensors = shapes.iter().enumerate().map(|(i, s)| (i.to_string(), s.to_vec()));
        let setup = Setup::new().tensors(tensors.collect::<Vec<_>>());
        let setup = setup.group(Group::new("all", optimizer));
        let setup = setup.gradients(Gradients::new().clip_norm(1.0));
        let plan = setup.export(Limits::default()).expect("a valid setup").json();
        let list = plan["modules"].as_array().expect("a list").clone();
        let text = |m: &serde_json::Value, key: &str| m[key].as_str().expect("a text").to_string();
        let four = |m| text(m, "code").contains("array<vec4<f32>>");
        list.iter().map(|m| (text(m, "name"), four(m))).collect::<Vec<_>>()
    };
    let named = |list: &[(&str, bool)]| {
        list.iter().map(|&(name, four)| (name.to_string(), four)).collect::<Vec<_>>()
    };
    let adamw = || Any::new(AdamW::new(1e-3));
    let even = named(&[("adamw vector", true), ("control vector", true)]);
    assert_eq!(modules(&[&[8], &[3, 4]], adamw()), even);
    let mixed = [("adamw vector", true), ("adamw vector", false), ("control vector", false)];
    assert_eq!(modules(&[&[8], &[3, 3]], adamw()), named(&mixed));
    let came = [("came matrix", false), ("came matrix", true), ("control vector", true)];
    assert_eq!(modules(&[&[4, 3], &[3, 4]], Any::new(Came::new(1e-3))), named(&came));
}
