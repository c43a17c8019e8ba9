//! Every built-in optimizer, with any shape, any layout, any values (not a number, infinite,
//! subnormal) and any hyper-parameters: a step never panics, and one that is refused leaves the
//! parameter as it was.
//!
//! `cargo +nightly fuzz run step`

#![no_main]

#[path = "../../tests/common/table.rs"]
#[allow(dead_code, unreachable_pub, clippy::all, reason = "shared with the tests")]
mod table;

use std::sync::LazyLock;

use gradstep::optim::{Adafactor, Adam, AdamW, Came, Sgd, Sm3};
use gradstep::{Cpu, CpuStep, Error, Kind, Layout, Optimizer};
use libfuzzer_sys::fuzz_target;

static CASES: LazyLock<Vec<table::Case>> = LazyLock::new(table::optimizers);

/// Numbers from bytes; zeros when there are none left.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn f32(&mut self) -> f32 {
        f32::from_bits(u32::from_le_bytes([(); 4].map(|()| self.byte())))
    }

    fn f64(&mut self) -> f64 {
        f64::from_bits(u64::from_le_bytes([(); 8].map(|()| self.byte())))
    }

    /// Any number, or one that a hyper-parameter may have.
    fn setting(&mut self) -> f64 {
        match self.byte() {
            0 => 0.0,
            b @ 1..=99 => f64::from(b) / 100.0,
            100 => 1.0,
            101 => -1.0,
            102 => f64::NAN,
            103 => f64::INFINITY,
            104 => f64::MIN_POSITIVE,
            105 => 1e300,
            _ => self.f64(),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data.iter());
    let rank = usize::from(bytes.byte()) % 7;
    let most = [1, 600, 48, 12, 7, 5, 4][rank];
    let shape: Vec<usize> = (0..rank)
        .map(|_| match bytes.byte() {
            // Now and then something that cannot exist, unless another dimension is zero.
            255 => usize::MAX >> (bytes.byte() % 64),
            b => usize::from(b) * 3 % (most + 1),
        })
        .collect();
    let layouts = [Layout::Auto, Layout::LastTwo, Layout::Flatten, Layout::Vector];
    let layout = layouts[usize::from(bytes.byte()) % layouts.len()];
    // Real tensors stay small; what is large has to be refused or be empty.
    let large = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none_or(|n| n > 100_000);
    let refusable = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    if large && refusable.is_some_and(|n| n <= isize::MAX as usize / 8) {
        return;
    }
    let which = usize::from(bytes.byte());
    if which < 128 {
        // Hyper-parameters that no check has seen.
        let mut any = CASES[which % CASES.len()].optimizer.clone();
        for kind in [Kind::Vector, Kind::Matrix] {
            let names = any.recipe().trace(kind).map(|g| g.hypers).unwrap_or_default();
            for name in names {
                if bytes.byte() % 2 == 1 {
                    let value = bytes.setting();
                    any.set(name, value);
                }
            }
        }
        return run(any, &shape, layout, &mut bytes);
    }
    let mut f = || bytes.setting();
    match which % 6 {
        0 => {
            let sgd = Sgd::new(f()).with_momentum(f()).with_dampening(f()).with_weight_decay(f());
            let sgd = sgd.with_decoupled_weight_decay(f()).with_nesterov(which % 16 > 7);
            run(sgd, &shape, layout, &mut bytes);
        }
        1 => {
            let adam = Adam::new(f()).with_beta1(f()).with_beta2(f()).with_eps(f());
            run(adam.with_amsgrad(which % 16 > 7), &shape, layout, &mut bytes);
        }
        2 => {
            let adam = AdamW::new(f()).with_beta1(f()).with_beta2(f()).with_eps(f());
            run(adam.with_weight_decay(f()), &shape, layout, &mut bytes);
        }
        3 => {
            let base = match which % 5 {
                0 | 1 => Adafactor::hugging_face(),
                2 => Adafactor::torch(),
                _ => Adafactor::paper(),
            };
            let base = base.with_lr(f()).with_decay_rate(f()).with_eps1(f()).with_eps2(f());
            let base = base.with_clip_threshold(f()).with_weight_decay(f());
            let beta1 = (which % 16 > 7).then(&mut f);
            run(base.with_beta1(beta1), &shape, layout, &mut bytes);
        }
        4 => {
            let sm3 = Sm3::new(f()).with_momentum(f()).with_eps(f());
            run(sm3, &shape, layout, &mut bytes);
        }
        _ => {
            let came = Came::new(f()).with_beta1(f()).with_beta2(f()).with_beta3(f());
            let came = came.with_eps1(f()).with_eps2(f()).with_clip_threshold(f());
            let clip = (which % 16 > 7).then(&mut f);
            run(came.with_clip_update(clip), &shape, layout, &mut bytes);
        }
    }
});

fn run(optimizer: impl Optimizer, shape: &[usize], layout: Layout, bytes: &mut Bytes) {
    let prepared = Cpu::single_threaded().prepare_with(optimizer, shape, layout);
    let mut step: CpuStep<f32, _> = match prepared {
        Ok(step) => step,
        Err(Error::Definition { .. }) => panic!("a built-in definition is not valid"),
        Err(_) => return,
    };
    let n: usize = shape.iter().product();
    let mut param: Vec<f32> = (0..n).map(|_| bytes.f32()).collect();
    if bytes.byte() == 255 {
        step.set_steps(u64::MAX - 1);
    }
    for _ in 0..2 {
        let grad: Vec<f32> = (0..n).map(|_| bytes.f32()).collect();
        step.step(&mut param, &grad).expect("it was checked when it was prepared");
    }
    let before: Vec<u32> = param.iter().map(|x| x.to_bits()).collect();
    step.step(&mut param, &vec![1.0; n + 1]).expect_err("a gradient of another length");
    let after: Vec<u32> = param.iter().map(|x| x.to_bits()).collect();
    assert_eq!(before, after, "a refused step changes nothing");
    for (name, _) in step.slots().map(|s| (s.0, s.1)).collect::<Vec<_>>() {
        let values = step.slot(name).expect("a slot");
        step.set_slot(name, &values).expect("its own values");
    }
}
