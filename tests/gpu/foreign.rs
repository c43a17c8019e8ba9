//! Tensors in the caller's own buffers: the same steps as in an arena, and nothing else touched.

use gradstep::gpu::{Foreign, Gpu, wgpu};
use gradstep::optim::{AdamW, Came};
use gradstep::{Layout, Optimizer};

use crate::common::gate;
use crate::common::run::widen;
use crate::common::table::{Any, Tensor, Values, optimizers, seed_of};
use crate::common::tolerance::{self, F32};
use crate::run::{Run, bits, bytes, finish, list, read, submit, tensor, wait};
use crate::table::MOST_DISPATCHES;

/// What the bytes around parameters and gradients are filled with.
const GUARD: f32 = 7.5;

fn tensors() -> Vec<Tensor> {
    use Layout::{Auto, Flatten, LastTwo};
    let shapes: [(&[usize], Layout); 9] = [
        (&[], Auto),
        (&[67], Auto),
        (&[5, 18], Auto),
        (&[0, 3], Auto),
        (&[300, 7], Auto),
        (&[3, 5, 4], LastTwo),
        (&[3, 5, 4], Flatten),
        (&[1, 37], Auto),
        (&[5003], Auto),
    ];
    shapes.map(|(shape, layout)| tensor(shape, layout)).to_vec()
}

fn run(name: &str, tensors: Vec<Tensor>, test: &'static str) -> Run {
    let (name, values) = (name.to_string(), Values::Mixed);
    Run { seed: seed_of(&name), name, tensors, values, steps: 6, test }
}

/// Where something lies: buffer, first element, number of elements.
pub(crate) type Place = (usize, usize, usize);

/// A way to lay out tensors in buffers: the sizes of the buffers, and the places of each parameter
/// and gradient.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plot {
    pub(crate) name: &'static str,
    pub(crate) sizes: Vec<usize>,
    pub(crate) places: Vec<[Place; 2]>,
}

impl Plot {
    pub(crate) fn place(&mut self, buffer: usize, gap: usize, len: usize) -> Place {
        self.sizes.resize(self.sizes.len().max(buffer + 1), 0);
        let at = self.sizes[buffer] + gap;
        self.sizes[buffer] = at + len;
        (buffer, at, len)
    }
}

fn plots(tensors: &[Tensor]) -> Vec<Plot> {
    let lens: Vec<usize> = tensors.iter().map(|t| t.shape.iter().product()).collect();
    let mut plots = Vec::new();
    let mut add = |name, f: &dyn Fn(&mut Plot, usize, usize) -> [Place; 2]| {
        let mut plot = Plot { name, ..Plot::default() };
        for (i, &len) in lens.iter().enumerate() {
            let places = f(&mut plot, i, len);
            plot.places.push(places);
        }
        plot.sizes.iter_mut().for_each(|n| *n += 3);
        plots.push(plot);
    };
    add("a buffer for all parameters, one for all gradients", &|p, _, n| {
        [p.place(0, 3, n), p.place(1, 5, n)]
    });
    add("two buffers for each tensor", &|p, i, n| [p.place(2 * i, 0, n), p.place(2 * i + 1, 1, n)]);
    add("one buffer, parameter and gradient adjacent", &|p, i, n| {
        [p.place(0, 1 + i % 4, n), p.place(0, 0, n)]
    });
    add("one buffer, gradient before parameter", &|p, i, n| {
        let grad = p.place(0, 3 + i % 4, n);
        [p.place(0, 0, n), grad]
    });
    add("one buffer, far apart", &|p, _, n| {
        let param = p.place(0, 1, n);
        [param, p.place(0, 70_001, n)]
    });
    add("parameter and gradient take turns in two buffers", &|p, i, n| {
        [p.place(i % 2, 7, n), p.place(1 - i % 2, 2, n)]
    });
    plots
}

fn usage() -> wgpu::BufferUsages {
    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC
}

fn buffer(gpu: &Gpu, elements: usize, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("the caller's"),
        size: (elements * 4) as u64,
        usage,
        mapped_at_creation: false,
    })
}

/// Buffers of a caller.
pub(crate) struct Ground {
    plot: Plot,
    buffers: Vec<wgpu::Buffer>,
}

impl Ground {
    pub(crate) fn new(gpu: &Gpu, plot: Plot) -> Self {
        let make = |&n: &usize| {
            let buffer = buffer(gpu, n, usage());
            gpu.queue().write_buffer(&buffer, 0, &bytes(&vec![GUARD; n]));
            buffer
        };
        Self { buffers: plot.sizes.iter().map(make).collect(), plot }
    }

    fn slice(&self, (buffer, at, len): Place) -> wgpu::BufferSlice<'_> {
        self.buffers[buffer].slice(at as u64 * 4..(at + len) as u64 * 4)
    }

    fn slices(&self) -> Vec<(wgpu::BufferSlice<'_>, wgpu::BufferSlice<'_>)> {
        self.plot.places.iter().map(|&[p, g]| (self.slice(p), self.slice(g))).collect()
    }

    fn write(&self, gpu: &Gpu, (buffer, at, _): Place, values: &[f32]) {
        gpu.queue().write_buffer(&self.buffers[buffer], at as u64 * 4, &bytes(values));
    }

    pub(crate) fn write_params(&self, gpu: &Gpu, run: &Run) {
        for (i, places) in self.plot.places.iter().enumerate() {
            self.write(gpu, places[0], &run.start(i));
        }
    }

    pub(crate) fn write_grads(&self, gpu: &Gpu, run: &Run, t: u64) {
        for (i, places) in self.plot.places.iter().enumerate() {
            self.write(gpu, places[1], &run.gradient(i, t));
        }
    }

    /// The parameters, after a look at everything else.
    pub(crate) fn params(&self, gpu: &Gpu, run: &Run, t: u64) -> Vec<Vec<f32>> {
        let mut contents: Vec<_> = self.buffers.iter().map(|b| read(gpu, b)).collect();
        let mut found = Vec::new();
        for (i, &[(pb, p, n), (gb, g, _)]) in self.plot.places.iter().enumerate() {
            let name = format!("{} {:?}: {}", run.name, run.tensors[i].shape, self.plot.name);
            found.push(contents[pb][p..p + n].to_vec());
            assert_eq!(contents[gb][g..g + n], run.gradient(i, t), "{name}: the gradient");
            contents[pb][p..p + n].fill(GUARD);
            contents[gb][g..g + n].fill(GUARD);
        }
        for buffer in contents {
            let touched = buffer.iter().position(|&x| x != GUARD);
            assert_eq!(touched, None, "{}: {}: the neighbours", run.name, self.plot.name);
        }
        found
    }
}

pub(crate) fn foreign<O: Optimizer>(gpu: &Gpu, optimizer: O, run: &Run) -> Foreign<O> {
    let foreign = wait(gpu.foreign_with(optimizer, &list(&run.tensors)));
    foreign.unwrap_or_else(|e| panic!("{}: {e}", run.name))
}

pub(crate) fn step<O: Optimizer>(gpu: &Gpu, foreign: &mut Foreign<O>, ground: &Ground) {
    submit(gpu, |encoder| foreign.encode(encoder, &ground.slices())).expect("a valid step");
}

#[test]
fn every_place_in_the_callers_buffers_gives_the_steps_of_an_arena() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        let test = "every_place_in_the_callers_buffers_gives_the_steps_of_an_arena";
        let run = run(case.name, tensors(), test);
        let sums = case.optimizer.recipe().is_factored();
        let mut arena = run.arena(gpu, case.optimizer.clone());
        (1..=run.steps).for_each(|t| run.step(gpu, &mut arena, t));
        for plot in plots(&run.tensors) {
            let ground = Ground::new(gpu, plot);
            ground.write_params(gpu, &run);
            let mut foreign = foreign(gpu, case.optimizer.clone(), &run);
            for t in 1..=run.steps {
                ground.write_grads(gpu, &run, t);
                step(gpu, &mut foreign, &ground);
            }
            for (i, found) in ground.params(gpu, &run, run.steps).iter().enumerate() {
                let shape = &run.tensors[i].shape;
                let name = format!("{} {:?}: {}", run.name, run.tensors[i], ground.plot.name);
                let wanted = wait(arena.read_param(i)).expect("read");
                // Four columns at once, and one, add up in another order.
                if sums && (shape.len() < 2 || shape[shape.len() - 1] == 4) {
                    let [start, found, wanted] = [&run.start(i), found, &wanted].map(|x| widen(x));
                    let what = run.what(i, run.steps);
                    let gpu = tolerance::GPU;
                    tolerance::check(gpu, F32, &what, &mut 0.0, &start, &found, &wanted);
                    continue;
                }
                assert_eq!(bits(found), bits(&wanted), "{name}");
                for plan in arena.plans() {
                    for slot in &plan.graph.slots {
                        let wanted = wait(arena.read_slot(i, slot.name));
                        let found = wait(foreign.read_slot(i, slot.name));
                        assert_eq!(found, wanted, "{name}: {}", slot.name);
                    }
                }
            }
            assert_eq!(foreign.steps(), run.steps, "{}", run.name);
        }
    }
}

#[test]
fn the_dispatches_of_one_tensor_are_at_most_eight() {
    let Some(gpu) = gate::gpu() else { return };
    for case in optimizers() {
        for shape in [&[7][..], &[3, 5], &[300, 5], &[2, 16_385]] {
            let foreign = wait(gpu.foreign(case.optimizer.clone(), &[shape])).expect("valid");
            let n = foreign.dispatches();
            assert!(
                (1..=MOST_DISPATCHES).contains(&n),
                "{} {shape:?} takes {n} dispatches",
                case.name
            );
        }
    }
}

/// An instance with two devices. (Objects of two *instances* cannot even be compared: wgpu panics
/// or takes one for the other.)
fn two_devices() -> (wgpu::Instance, [Gpu; 2]) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let devices = [(); 2].map(|()| {
        let adapter = wait(instance.request_adapter(&Default::default())).expect("an adapter");
        let (device, queue) = wait(adapter.request_device(&Default::default())).expect("a device");
        Gpu::new(&device, &queue).expect("a device with the default limits")
    });
    (instance, devices)
}

#[test]
fn callers_that_take_turns_between_buffers_bind_each_of_them_once() {
    if gate::gpu().is_none() {
        return;
    }
    // An instance of the test's own, whose objects nobody else counts among.
    let (instance, [gpu, _]) = &two_devices();
    let bound = || instance.generate_report().map(|r| r.hub.bind_groups.num_allocated);

    let test = "callers_that_take_turns_between_buffers_bind_each_of_them_once";
    let run = run(
        "double-buffered",
        vec![tensor(&[6, 17], Layout::Auto), tensor(&[5, 18], Layout::Auto)],
        test,
    );
    let mut arena = run.arena(gpu, Came::new(1e-3));
    let plots = plots(&run.tensors);
    // One pair of buffers for the parameters, and gradients in two others by turns.
    let grounds = [Ground::new(gpu, plots[0].clone()), Ground::new(gpu, plots[0].clone())];
    grounds[0].write_params(gpu, &run);
    let mut foreign = foreign(gpu, Came::new(1e-3), &run);
    let before = bound();
    let mut after_two = None;
    for t in 1..=run.steps {
        run.step(gpu, &mut arena, t);
        let turn = &grounds[usize::from(t % 2 == 1)];
        turn.write_grads(gpu, &run, t);
        let params = grounds[0].slices();
        let pairs: Vec<_> = params.iter().zip(turn.slices()).map(|(p, g)| (p.0, g.1)).collect();
        submit(gpu, |encoder| foreign.encode(encoder, &pairs)).expect("a valid step");
        if t == 2 {
            after_two = bound();
            assert_eq!(after_two, before.map(|n| n + 4), "two tensors, two turns");
        }
    }
    assert_eq!(bound(), after_two, "nothing was bound anew");
    for (i, &[(b, at, n), _]) in grounds[0].plot.places.iter().enumerate() {
        let found = &read(gpu, &grounds[0].buffers[b])[at..at + n];
        let wanted = wait(arena.read_param(i)).expect("read");
        assert_eq!(bits(found), bits(&wanted), "tensor {i}");
    }
}

#[test]
fn more_buffers_than_are_kept_still_give_the_same_steps() {
    let Some(gpu) = gate::gpu() else { return };
    let test = "more_buffers_than_are_kept_still_give_the_same_steps";
    let run = run("seven buffers", vec![tensor(&[33], Layout::Auto)], test);
    let mut arena = run.arena(gpu, AdamW::default());
    let mut foreign = foreign(gpu, AdamW::default(), &run);
    let params = buffer(gpu, 33, usage());
    gpu.queue().write_buffer(&params, 0, &bytes(&run.start(0)));
    let grads: Vec<_> = (0..7).map(|_| buffer(gpu, 33, usage())).collect();
    for t in 1..=21 {
        run.step(gpu, &mut arena, t);
        let grad = &grads[usize::try_from(t % 7).expect("small")];
        gpu.queue().write_buffer(grad, 0, &bytes(&run.gradient(0, t)));
        let pair = [(params.slice(..), grad.slice(..))];
        submit(gpu, |encoder| foreign.encode(encoder, &pair)).expect("a valid step");
    }
    let wanted = wait(arena.read_param(0)).expect("read");
    assert_eq!(bits(&read(gpu, &params)), bits(&wanted), "after three rounds");
}

/// Each of these pairs is refused, with these words, and nothing is recorded.
fn refused(
    gpu: &Gpu,
    foreign: &mut Foreign<Any>,
    pairs: &[(wgpu::BufferSlice<'_>, wgpu::BufferSlice<'_>)],
    words: &[&str],
) {
    let steps = foreign.steps();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let error = foreign.encode(&mut encoder, pairs).expect_err("refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert_eq!(foreign.steps(), steps, "the step does not count: {error}");
    gpu.queue().submit([encoder.finish()]);
}

#[test]
fn ranges_that_cannot_be_used_are_refused_and_nothing_is_recorded() {
    if gate::gpu().is_none() {
        return;
    }
    let (_instance, [gpu, other]) = &two_devices();
    for name in ["adamw", "came"] {
        let case = optimizers().into_iter().find(|c| c.name == name).expect("in the table");
        let shapes = [tensor(&[6], Layout::Auto), tensor(&[3, 4], Layout::Auto)];
        let run = run(name, shapes.to_vec(), "ranges_that_cannot_be_used");
        let mut foreign = foreign(gpu, case.optimizer, &run);
        let start: Vec<f32> = (0..64u8).map(f32::from).collect();
        let (p, g) = (buffer(gpu, 64, usage()), buffer(gpu, 64, usage()));
        gpu.queue().write_buffer(&p, 0, &bytes(&start));
        gpu.queue().write_buffer(&g, 0, &bytes(&start));
        let first = (p.slice(..24), g.slice(..24));
        let second = (p.slice(64..112), g.slice(64..112));

        let no_storage = buffer(gpu, 64, wgpu::BufferUsages::COPY_DST);
        let f = &mut foreign;
        refused(
            gpu,
            f,
            &[(no_storage.slice(..24), first.1), second],
            &["parameter", "tensor 0", "STORAGE", "COPY_DST"],
        );
        refused(
            gpu,
            f,
            &[first, (second.0, no_storage.slice(..48))],
            &["gradient", "tensor 1", "STORAGE"],
        );
        refused(
            gpu,
            f,
            &[first, (p.slice(64..108), second.1)],
            &["parameter", "tensor 1", "44 bytes", "48"],
        );
        refused(
            gpu,
            f,
            &[(first.0, g.slice(..28)), second],
            &["gradient", "tensor 0", "28 bytes", "24"],
        );
        refused(
            gpu,
            f,
            &[first, (p.slice(66..114), second.1)],
            &["parameter", "byte 66", "multiple of 4"],
        );
        refused(
            gpu,
            f,
            &[first, (second.0, g.slice(65..113))],
            &["gradient", "byte 65", "multiple of 4"],
        );
        refused(
            gpu,
            f,
            &[first, (second.0, second.0)],
            &["gradient", "tensor 1", "byte 64", "apart"],
        );
        refused(
            gpu,
            f,
            &[first, (second.0, p.slice(108..156))],
            &["gradient", "tensor 1", "byte 108", "64 to 112"],
        );
        refused(
            gpu,
            f,
            &[first, (second.0, p.slice(20..68))],
            &["gradient", "tensor 1", "byte 20"],
        );
        refused(gpu, f, &[first], &["1 pairs", "2 are registered"]);
        refused(gpu, f, &[first, second, second], &["3 pairs", "2 are registered"]);
        refused(gpu, f, &[], &["0 pairs"]);

        let theirs = buffer(other, 64, usage());
        refused(gpu, f, &[first, (theirs.slice(..48), second.1)], &["tensor 1", "device"]);
        refused(gpu, f, &[(first.0, theirs.slice(..24)), second], &["tensor 0", "device"]);
        let destroyed = buffer(gpu, 64, usage());
        destroyed.destroy();
        refused(gpu, f, &[first, (destroyed.slice(..48), second.1)], &["tensor 1", "destroyed"]);
        refused(gpu, f, &[(first.0, destroyed.slice(..24)), second], &["tensor 0", "destroyed"]);

        assert_eq!(read(gpu, &p), start, "{name}: the parameters");
        assert_eq!(read(gpu, &g), start, "{name}: the gradients");
        assert_eq!(foreign.steps(), 0, "{name}");
        // All is well afterwards: neighbours without a gap, and none of them in the other's way.
        submit(gpu, |e| foreign.encode(e, &[(p.slice(..24), p.slice(24..48)), second]))
            .expect("fine");
        submit(gpu, |e| foreign.encode(e, &[(p.slice(24..48), p.slice(..24)), second]))
            .expect("fine");
        finish(gpu);
        assert_eq!(foreign.steps(), 2, "{name}");
        assert_eq!(read(gpu, &g), start, "{name}: the gradients, still");
    }
}

#[test]
fn tensors_without_elements_need_no_bytes() {
    let Some(gpu) = gate::gpu() else { return };
    let mut foreign = wait(gpu.foreign(Came::new(1e-3), &[[0, 3], [3, 0]])).expect("valid");
    let (p, g) = (buffer(gpu, 4, usage()), buffer(gpu, 4, usage()));
    let pair = (p.slice(4..4), g.slice(8..8));
    submit(gpu, |e| foreign.encode(e, &[pair, pair])).expect("nothing to do");
    assert_eq!((foreign.steps(), foreign.dispatches()), (1, 0), "it counts all the same");
}
