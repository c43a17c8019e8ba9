//! Steps on the CPU against the memory and against loops written by hand.
//!
//! `cargo bench --bench step` prints the headline; `-- --all` every optimizer on every shape, on one thread and on
//! all, in `f32` and `f64` (`--optimizer NAME`, `--shape NAME`, `--threads 1|all`, `--type f32|f64` choose
//! among them). Up to three loops take turns in one process, and the least time of all rounds counts, so
//! that a busy machine disturbs little:
//!
//! * *floor*: reads and writes what the plan's sweeps read and write, in memory of its own that lies as
//!   that of a step does ([`memory`]), and computes next to nothing;
//! * *hand*: AdamW, CAME and Lion fused by hand ([`hand`]), their state in such memory. A rival, not a
//!   reference: its results must agree to 1e-5;
//! * *gradstep*: the definition. Lion is defined here, as a user of the library would define it.
//!
//! `-- --serve` is for `benches/peers.py`: it takes steps when it is told to.

mod hand;
mod memory;

use std::io::{BufRead, Write};
use std::time::Instant;

use gradstep::blocks::descend;
use gradstep::optim::{Adafactor, Adam, AdamW, Came, Sgd, Sm3};
use gradstep::value::{Interpreter, Step};
use gradstep::{
    Buffer, Cpu, CpuOptimizer, Definition, Element, Group, Levels, Optimizer, Plan, Recipe, Setup,
    TensorId,
};

use hand::{LR, Rival, traffic};
use memory::Laid;

// ---- An optimizer of one's own -------------------------------------------------------------

#[derive(Clone, Debug)]
struct Lion;

struct LionStep;

impl Definition for LionStep {
    const NAME: &'static str = "lion";
    const LEVELS: Levels = Levels::flat(1);

    #[inline(always)]
    fn step<I: Interpreter>(s: Step<'_, I>) {
        let [lr, beta1, beta2, weight_decay] = s.hyper(["lr", "beta1", "beta2", "weight_decay"]);
        let (g, w) = (s.grad(), s.param());
        let m = s.full("m");
        let u = m.old().lerp(g, 1.0 - beta1).sign();
        m.ema(g, beta2);
        s.set_param(descend(w, u * lr, lr * weight_decay));
    }
}

impl Optimizer for Lion {
    fn hyper(&self, name: &str) -> Option<f64> {
        Some(match name {
            "lr" => LR,
            "beta1" => 0.9,
            "beta2" => 0.99,
            "weight_decay" => 0.1,
            _ => return None,
        })
    }

    fn recipe(&self) -> Recipe {
        Recipe::of::<LionStep>()
    }
}

// ---- What is measured ----------------------------------------------------------------------

const OPTIMIZERS: [&str; 14] = [
    "sgd",
    "sgd-momentum",
    "adam",
    "adamw",
    "adamw-amsgrad",
    "adafactor",
    "adafactor-scaled",
    "adafactor-momentum",
    "adafactor-torch",
    "sm3",
    "sm3-momentum",
    "came",
    "came-clipped",
    "lion",
];

fn group(optimizer: &str) -> Option<Group> {
    let plain =
        Adafactor::hugging_face().with_lr(LR).with_relative_step(false).with_scale_parameter(false);
    Some(match optimizer {
        "sgd" => Group::new("all", Sgd::new(LR)),
        "sgd-momentum" => Group::new("all", Sgd::new(LR).with_momentum(0.9)),
        "adam" => Group::new("all", Adam::new(LR)),
        "adamw" => Group::new("all", AdamW::new(LR)),
        "adamw-amsgrad" => Group::new("all", AdamW::new(LR).with_amsgrad(true)),
        "adafactor" => Group::new("all", plain),
        "adafactor-scaled" => Group::new("all", Adafactor::hugging_face()),
        "adafactor-momentum" => Group::new("all", plain.with_beta1(Some(0.9))),
        "adafactor-torch" => Group::new("all", Adafactor::torch()),
        "sm3" => Group::new("all", Sm3::new(LR)),
        "sm3-momentum" => Group::new("all", Sm3::new(LR).with_momentum(0.9)),
        "came" => Group::new("all", Came::new(LR)),
        "came-clipped" => Group::new("all", Came::new(LR).with_clip_update(Some(1.0))),
        "lion" => Group::new("all", Lion),
        _ => return None,
    })
}

/// Shapes whose time per parameter may not differ much from that of a square.
const WORST: [&str; 19] = [
    "1x1000000",
    "1000000x1",
    "1000000x2",
    "300000x3",
    "200000x5",
    "150000x7",
    "1000000x8",
    "60000x17",
    "10000x127",
    "2x500000",
    "3x1000000",
    "333x3001",
    "50000x2",
    "12500x8",
    "11200x9",
    "6000x17",
    "2x50000",
    "3x40000",
    "4x25000",
];

const SHAPES: [&str; 11] = [
    "768",
    "64x64",
    "256x256",
    "768x768",
    "1024x1024",
    "4096x4096",
    "1000000x8",
    "3x1000000",
    "gpt2",
    "200*768x768",
    "1000*768",
];

/// `[COUNT*]ROWS[xCOLS…]`, several with `,` between them; `gpt2` for the tensors of GPT-2 small.
fn shapes(name: &str) -> Option<Vec<Vec<usize>>> {
    if name == "gpt2" {
        let mut list = vec![vec![50257, 768], vec![1024, 768]];
        for _ in 0..12 {
            for shape in [
                &[768][..],
                &[768],
                &[768, 2304],
                &[2304],
                &[768, 768],
                &[768],
                &[768],
                &[768],
                &[768, 3072],
                &[3072],
                &[3072, 768],
                &[768],
            ] {
                list.push(shape.to_vec());
            }
        }
        list.extend([vec![768], vec![768]]);
        return Some(list);
    }
    let mut list = Vec::new();
    for part in name.split(',') {
        let (count, shape) = part.split_once('*').unwrap_or(("1", part));
        let shape = shape.split('x').map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>()?;
        list.extend(vec![shape; count.parse().ok()?]);
    }
    Some(list)
}

/// Numbers in −scale … scale.
fn noise<T: Element>(n: usize, seed: u64, scale: f64) -> Laid<T> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut number = move |_| T::from((random.f64() * 2.0 - 1.0) * scale).unwrap_or_default();
    Laid::tensor((0..n).map(&mut number))
}

const PARAM_SCALE: f64 = 1e-2;

/// A set of tensors with everything that a step needs.
struct Run<T: Element> {
    set: CpuOptimizer<T>,
    params: Vec<Laid<T>>,
}

impl<T: Element> Run<T> {
    fn new(optimizer: &str, shapes: &[Vec<usize>], all_threads: bool) -> Self {
        let cpu = if all_threads { Cpu::default() } else { Cpu::single_threaded() };
        let tensors = shapes.iter().enumerate().map(|(i, s)| (format!("t{i}"), s.clone()));
        let group = group(optimizer).expect("a known optimizer");
        let set = Setup::new().tensors(tensors).group(group).cpu(&cpu).expect("a valid setup");
        let param = |(i, s): (usize, &Vec<usize>)| noise(s.iter().product(), i as u64, PARAM_SCALE);
        Self { set, params: shapes.iter().enumerate().map(param).collect() }
    }

    fn step(&mut self, ids: &[TensorId], grads: &[Laid<T>]) {
        let mut step = self.set.begin();
        for ((&id, p), g) in ids.iter().zip(&mut self.params).zip(grads) {
            step.tensor(id, &mut **p, &**g).expect("a tensor");
        }
        step.finish().expect("a step");
    }
}

/// Numbers as those of the loops by hand.
fn singles<T: Element>(x: &[T]) -> &[f32] {
    assert_eq!(size_of::<T>(), 4, "numbers of single precision");
    // SAFETY: the only element of four bytes is `f32`.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

fn singles_mut<T: Element>(x: &mut [T]) -> &mut [f32] {
    assert_eq!(size_of::<T>(), 4, "numbers of single precision");
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// The memory traffic of a plan: over the gradients and parameters of the steps where they are `f32`, since what
/// pages they were given makes a difference, and over state of its own.
struct Floor {
    tensors: Vec<FloorTensor>,
    all_threads: bool,
}

struct FloorTensor {
    /// What each sweep reads and writes.
    sweeps: Vec<(Vec<usize>, Vec<usize>)>,
    /// Gradient, parameter, slots. Nothing, where it is lent.
    memory: Vec<Laid<f32>>,
    words: usize,
}

/// What a thread takes of a large tensor.
const SHARE: usize = 1 << 18;

impl FloorTensor {
    fn new(plan: &Plan, words: usize, lent: bool) -> Self {
        let place = |b: &Buffer| match *b {
            Buffer::Grad => 0,
            Buffer::Param => 1,
            Buffer::Slot(s) => 2 + s,
        };
        let places = |list: &[Buffer]| list.iter().map(place).collect::<Vec<_>>();
        let sweeps: Vec<_> =
            plan.sweeps.iter().map(|s| (places(&s.loads), places(&s.stores))).collect();
        let used = |k| sweeps.iter().any(|(l, s)| l.contains(&k) || s.contains(&k));
        let memory = (0..2 + plan.graph.slots.len())
            .map(|k| {
                let own = used(k) && !(lent && k < 2);
                let values = noise(if own { words } else { 0 }, k as u64, 1.0);
                if k < 2 {
                    return values;
                }
                let mut state = Laid::state(k - 2, values.len());
                state.copy_from_slice(&values);
                state
            })
            .collect();
        Self { sweeps, memory, words }
    }

    /// `lent`: where a gradient and a parameter begin.
    fn run(&mut self, all_threads: bool, lent: Option<[usize; 2]>) {
        let words = self.words;
        let begin = |m: &mut Laid<f32>| m.as_mut_ptr() as usize;
        let mut memory: Vec<_> = self.memory.iter_mut().map(begin).collect();
        if let Some(lent) = lent {
            memory[..2].copy_from_slice(&lent);
        }
        for (loads, stores) in &self.sweeps {
            let piece = |first: usize| {
                let n = SHARE.min(words - first);
                let at = |k: usize| (memory[k] as *mut f32).wrapping_add(first);
                macro_rules! pick {
                    ($(($l:literal, $s:literal))*) => {
                        match (loads.len(), stores.len()) {
                            $(($l, $s) => traffic::<$l, $s>(
                                std::array::from_fn(|i| at(loads[i]).cast_const()),
                                std::array::from_fn(|i| at(stores[i])),
                                n,
                            ),)*
                            other => panic!("no loop for {other:?} arrays"),
                        }
                    };
                }
                pick!((1, 0)(1, 1)(2, 0)(2, 1)(2, 2)(3, 1)(3, 2)(3, 3)(4, 2)(4, 3)(5, 4)(4, 4)(
                    5, 3
                ));
            };
            #[cfg(feature = "parallel")]
            if all_threads && words > SHARE {
                use rayon::prelude::*;
                (0..words.div_ceil(SHARE)).into_par_iter().for_each(|i| piece(i * SHARE));
                continue;
            }
            let _ = all_threads;
            (0..words).step_by(SHARE).for_each(piece);
        }
    }
}

impl Floor {
    fn new<T: Element>(
        run: &Run<T>,
        shapes: &[Vec<usize>],
        ids: &[TensorId],
        all_threads: bool,
    ) -> Self {
        let tensor = |(shape, &id): (&Vec<usize>, &TensorId)| {
            let words = shape.iter().product::<usize>() * size_of::<T>() / 4;
            FloorTensor::new(run.set.plan(id).expect("a plan"), words, size_of::<T>() == 4)
        };
        Self { tensors: shapes.iter().zip(ids).map(tensor).collect(), all_threads }
    }

    fn step<T: Element>(&mut self, params: &mut [Laid<T>], grads: &[Laid<T>]) {
        let begin = |(p, g): (&mut Laid<T>, &Laid<T>)| {
            (size_of::<T>() == 4).then(|| [g.as_ptr() as usize, p.as_mut_ptr() as usize])
        };
        let lent: Vec<_> = params.iter_mut().zip(grads).map(begin).collect();
        #[cfg(feature = "parallel")]
        if self.all_threads && self.tensors.len() > 1 {
            use rayon::prelude::*;
            self.tensors.par_iter_mut().zip(lent).for_each(|(t, lent)| t.run(false, lent));
            return;
        }
        self.tensors.iter_mut().zip(lent).for_each(|(t, lent)| t.run(self.all_threads, lent));
    }
}

fn ids<T: Element>(run: &Run<T>, n: usize) -> Vec<TensorId> {
    (0..n).map(|i| run.set.groups().id(&format!("t{i}")).expect("a name")).collect()
}

// ---- Measuring -----------------------------------------------------------------------------

/// Seconds a step: of the floor, of the rival, of the definition.
struct Times {
    floor: f64,
    hand: Option<f64>,
    ours: f64,
    /// Bytes that a step moves, and parameters.
    bytes: f64,
    params: f64,
}

const STEPS_COMPARED: usize = 5;

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times and counts"
)]
fn measure<T: Element>(
    optimizer: &str,
    shapes: &[Vec<usize>],
    all_threads: bool,
    seconds: f64,
) -> Times {
    let grads: Vec<Laid<T>> =
        shapes.iter().map(|s| noise(s.iter().product(), 7 + s.len() as u64, 1.0)).collect();
    let mut ours = Run::<T>::new(optimizer, shapes, all_threads);
    let ids = ids(&ours, shapes.len());
    let mut floor = Floor::new(&ours, shapes, &ids, all_threads);
    let params: usize = grads.iter().map(|g| g.len()).sum();
    let mut bytes = 0;
    for (id, g) in ids.iter().zip(&grads) {
        bytes += ours.set.plan(*id).expect("a plan").bytes_per_parameter(size_of::<T>()) * g.len();
    }

    // The rival has f32 and one thread.
    let rivals = shapes.iter().map(|s| Rival::new(optimizer, s)).collect::<Option<Vec<_>>>();
    let mut rival = rivals.filter(|_| size_of::<T>() == 4 && !all_threads).map(|rivals| {
        let narrow = |x: &Laid<T>| Laid::tensor(x.iter().map(|x| x.to_f32().unwrap_or(0.0)));
        let params: Vec<_> = ours.params.iter().map(narrow).collect();
        let grads: Vec<_> = grads.iter().map(narrow).collect();
        rivals.into_iter().zip(params).zip(grads).collect::<Vec<_>>()
    });
    if let Some(rival) = &mut rival {
        for _ in 0..STEPS_COMPARED {
            ours.step(&ids, &grads);
            rival.iter_mut().for_each(|((r, w), g)| r.step(w, g));
        }
        for (((_, hand), _), ours) in rival.iter().zip(&ours.params) {
            agree(optimizer, hand, ours);
        }
    }
    // From here on over the same memory.
    let mut rival: Option<Vec<_>> = rival.map(|r| r.into_iter().map(|((r, _), _)| r).collect());

    ours.step(&ids, &grads);
    let start = Instant::now();
    ours.step(&ids, &grads);
    // Small tensors are stepped several times for one reading of the clock.
    let repeat = (1e-3 / start.elapsed().as_secs_f64()).clamp(1.0, 4000.0) as usize;
    let mut times = Times {
        floor: f64::MAX,
        hand: None,
        ours: f64::MAX,
        bytes: bytes as f64,
        params: params as f64,
    };
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < 7 || begun.elapsed().as_secs_f64() < seconds {
        let time = |work: &mut dyn FnMut()| {
            let start = Instant::now();
            (0..repeat).for_each(|_| work());
            start.elapsed().as_secs_f64() / repeat as f64
        };
        times.floor = times.floor.min(time(&mut || floor.step(&mut ours.params, &grads)));
        if let Some(rival) = &mut rival {
            let hand = time(&mut || {
                for ((r, w), g) in rival.iter_mut().zip(&mut ours.params).zip(&grads) {
                    r.step(singles_mut(w), singles(g));
                }
            });
            times.hand = Some(times.hand.map_or(hand, |best| best.min(hand)));
        }
        times.ours = times.ours.min(time(&mut || ours.step(&ids, &grads)));
        rounds += 1;
    }
    times
}

fn agree<T: Element>(name: &str, hand: &[f32], ours: &[T]) {
    let (mut worst, mut greatest) = (0.0f64, 0.0f64);
    for (&a, b) in hand.iter().zip(ours) {
        let (a, b) = (f64::from(a), b.to_f64().unwrap_or(f64::NAN));
        worst = worst.max((a - b).abs());
        greatest = greatest.max(a.abs());
    }
    assert!(
        worst <= 1e-5 * greatest,
        "{name}: the loop by hand differs from the definition by {worst:e} of {greatest:e}"
    );
}

fn header() {
    println!(
        "| {:18} | {:12} | {:7} | {:4} | {:>8} | {:>7} | {:>6} | {:>7} | {:>7} | {:>10} |",
        "optimizer",
        "shape",
        "threads",
        "type",
        "ns/param",
        "B/param",
        "GB/s",
        "× floor",
        "× hand",
        "µs/step"
    );
    println!("|{}", "---|".repeat(10));
}

fn line(optimizer: &str, shape: &str, all_threads: bool, kind: &str, seconds: f64) {
    let list = shapes(shape).expect("a shape");
    let times = match kind {
        "f64" => measure::<f64>(optimizer, &list, all_threads, seconds),
        _ => measure::<f32>(optimizer, &list, all_threads, seconds),
    };
    println!(
        "| {optimizer:18} | {shape:12} | {:7} | {kind:4} | {:8.3} | {:7.1} | {:6.1} | {:7.2} | {:>7} | {:10.2} |",
        if all_threads { "all" } else { "1" },
        times.ours * 1e9 / times.params,
        times.bytes / times.params,
        times.bytes / times.ours / 1e9,
        times.ours / times.floor,
        times.hand.map_or("".into(), |hand| format!("{:.2}", times.ours / hand)),
        times.ours * 1e6
    );
}

/// What the project promises of itself, and what a look at it shows.
fn headline(seconds: f64) {
    header();
    for optimizer in ["adamw", "came", "lion", "adafactor"] {
        for shape in ["4096x4096", "4096x1024", "1024x1024", "256x256", "768", "100*768"] {
            line(optimizer, shape, false, "f32", seconds);
        }
    }
    for optimizer in ["adamw", "came"] {
        for shape in ["4096x4096", "gpt2", "200*768x768"] {
            line(optimizer, shape, true, "f32", seconds);
        }
    }
    came_beside_adamw(4.0 * seconds);
    worst(seconds / 2.0);
}

/// They wait for memory that others use, too: a round's two steps are compared, not the least of each, which may
/// be minutes apart.
fn came_beside_adamw(seconds: f64) {
    let both = || ["adamw", "came"].map(|optimizer| Alone::new(optimizer, vec![4096, 4096]));
    let places = taking_turns(both, seconds);
    let least = median(places.each_ref().map(|[adamw, came]| came.best() / adamw.best()));
    let of_rounds = places.map(|[adamw, came]| {
        let mut ratios: Vec<_> = came.times.iter().zip(&adamw.times).map(|(c, a)| c / a).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    });
    println!(
        "\nCAME at 4096x4096 takes {:.2} × AdamW's time, taking turns: the median of a round's ratio, in {PLACES} \
         pieces of memory {}; {least:.2} by least times.",
        median(of_rounds),
        of_rounds.map(|r| format!("{r:.2}")).join(", ")
    );
}

/// Steps without rivals.
struct Alone {
    run: Run<f32>,
    ids: Vec<TensorId>,
    grads: Vec<Laid<f32>>,
    /// Seconds for a parameter, of each step.
    times: Vec<f64>,
}

impl Alone {
    fn new(optimizer: &str, shape: Vec<usize>) -> Self {
        let grads = vec![noise(shape.iter().product(), 7, 1.0)];
        let run = Run::new(optimizer, &[shape], false);
        let ids = ids(&run, 1);
        let mut this = Self { run, ids, grads, times: Vec::new() };
        this.run.step(&this.ids, &this.grads);
        this
    }

    #[allow(clippy::cast_precision_loss, reason = "a count of elements")]
    fn step(&mut self) {
        let start = Instant::now();
        self.run.step(&self.ids, &self.grads);
        self.times.push(start.elapsed().as_secs_f64() / self.grads[0].len() as f64);
    }

    fn best(&self) -> f64 {
        self.times.iter().copied().fold(f64::MAX, f64::min)
    }
}

/// Pieces of memory that sets are compared in: which pages they get is chance, and decides some percent.
const PLACES: usize = 3;

/// Steps of each, one after the other, in each of several pieces of memory.
fn taking_turns<const N: usize>(
    make: impl Fn() -> [Alone; N],
    seconds: f64,
) -> [[Alone; N]; PLACES] {
    // All are kept, so that the next one does not get the same pages.
    let mut places = Vec::new();
    for _ in 0..PLACES {
        let mut all = make();
        let begun = Instant::now();
        let mut rounds = 0;
        while rounds < 7 || begun.elapsed().as_secs_f64() < seconds / PLACES as f64 {
            all.iter_mut().for_each(Alone::step);
            rounds += 1;
        }
        places.push(all);
    }
    places.try_into().ok().expect("as many")
}

fn median(mut of: [f64; PLACES]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[PLACES / 2]
}

/// The side, in whole vectors, of the square that has about as many elements.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a side, about"
)]
fn side(shape: &[usize]) -> usize {
    let elements: usize = shape.iter().product();
    ((elements as f64).sqrt() / 16.0).round() as usize * 16
}

fn worst(seconds: f64) {
    let (mut to_1024, mut to_square) = (Vec::new(), Vec::new());
    for shape in WORST {
        let list = shapes(shape).expect("a shape");
        let ratios = OPTIMIZERS.map(|optimizer| {
            let side = side(&list[0]);
            let shapes = [list[0].clone(), vec![1024, 1024], vec![side, side]];
            let all = || shapes.clone().map(|shape| Alone::new(optimizer, shape));
            let times = taking_turns(all, seconds).map(|all| all.map(|set| set.best()));
            [
                median(times.map(|[this, of_1024, _]| this / of_1024)),
                median(times.map(|[this, _, square]| this / square)),
            ]
        });
        to_1024.push(ratios.map(|r| r[0]));
        to_square.push(ratios.map(|r| r[1]));
    }
    for (ratios, to) in [
        (to_1024, "1024x1024 of the same optimizer"),
        (to_square, "a square of as many elements of the same optimizer"),
    ] {
        println!(
            "\nTime per parameter of a shape, relative to {to}, taking turns (one thread, f32):\n"
        );
        println!("| shape | {} |", OPTIMIZERS.join(" | "));
        println!("|{}", "---|".repeat(1 + OPTIMIZERS.len()));
        for (shape, ratios) in WORST.iter().zip(ratios) {
            println!("| {shape} | {} |", ratios.map(|r| format!("{r:.2}")).join(" | "));
        }
    }
}

/// Takes steps when it is told to: a line `OPTIMIZER SHAPES THREADS FILE` (1 or all) prepares, a line with a number
/// takes that many steps and answers with the seconds they took. The file has the parameter and the gradient of
/// each tensor, one after the other, each from a multiple of 64 bytes on: whoever asks has mapped it, too, so
/// that both go over the same pages.
fn serve() {
    let mut run = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        match (words.as_slice(), &mut run) {
            ([optimizer, shape, threads, file], _) => {
                let list = shapes(shape).expect("shapes");
                let mut new = Run::<f32>::new(optimizer, &list, *threads == "all");
                let ids = ids(&new, list.len());
                let file = std::fs::File::options().read(true).write(true).open(file);
                let file = file.expect("a file that is there");
                let mut byte = 0;
                let mut next = |len: usize| {
                    let numbers = Laid::in_file(&file, byte, len).expect("memory of the file");
                    byte += (len * 4).next_multiple_of(64);
                    numbers
                };
                let pair = |s: &Vec<usize>| {
                    let len = s.iter().product();
                    (next(len), next(len))
                };
                let grads: Vec<Laid<f32>>;
                (new.params, grads) = list.iter().map(pair).unzip();
                run = Some((new, ids, grads));
                println!("ready");
            }
            ([steps], Some((run, ids, grads))) => {
                let steps = steps.parse().expect("a number of steps");
                let start = Instant::now();
                (0..steps).for_each(|_| run.step(ids, grads));
                println!("{:e}", start.elapsed().as_secs_f64());
            }
            _ => panic!("what is `{line}`?"),
        }
        std::io::stdout().flush().expect("somebody who listens");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let has = |name: &str| args.iter().any(|a| a == name);
    let of = |name: &str| {
        let i = args.iter().position(|a| a == name)?;
        args.get(i + 1).map(String::as_str)
    };
    if has("--serve") {
        return serve();
    }
    let seconds = of("--seconds").and_then(|s| s.parse().ok()).unwrap_or(1.0);
    println!("gradstep with {}; least times", gradstep::Isa::detect().name());
    println!(
        "loops by hand: {}\n",
        if hand::has_avx2() { "AVX2 with FMA" } else { "plain code, for want of AVX2 with FMA" }
    );
    if has("--turns") {
        came_beside_adamw(4.0 * seconds);
        return;
    }
    if has("--worst") {
        return worst(seconds / 2.0);
    }
    let filters = ["--optimizer", "--shape", "--threads", "--type"].map(of);
    if !has("--all") && filters.iter().all(Option::is_none) {
        return headline(seconds);
    }
    let [optimizer, shape, threads, kind] = filters;
    let pick = |asked: Option<&'_ str>, all: &[&'static str]| -> Vec<String> {
        match asked {
            Some(one) => vec![one.to_string()],
            None => all.iter().map(ToString::to_string).collect(),
        }
    };
    header();
    for shape in pick(shape, &SHAPES) {
        for optimizer in pick(optimizer, &OPTIMIZERS) {
            for kind in pick(kind, &["f32", "f64"]) {
                for threads in pick(threads, &["1", "all"]) {
                    line(&optimizer, &shape, threads == "all", &kind, seconds);
                }
            }
        }
    }
}
