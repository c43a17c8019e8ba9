//! Five optimizers learn to read handwritten digits, on the CPU and on the GPU.
//!
//! ```sh
//! cargo run --release --example digits             # everything, under two minutes
//! cargo run --release --example digits -- --short  # a few seconds
//! ```
//!
//! A multi-layer perceptron of some 234 000 parameters is trained on 1437 images and tested on
//! 360 others, with SGD, AdamW, Adafactor, SM3 and CAME. All runs have the same initial weights,
//! the same batches and the same number of epochs, so nothing but the optimizer differs; between
//! CPU and GPU not even that, and the losses must agree. Forward and backward passes are the
//! caller's own (`model.rs`, on the CPU); `cpu.rs` and `gpu.rs` show how the library is called.
//!
//! It prints a table and draws the loss curves to `out/digits.svg`. It fails if CAME, AdamW or
//! Adafactor read less than 96 % of the test images, or if the training loss of an epoch differs
//! by 2 % between CPU and GPU. `--short` demands the same of fewer epochs.

mod cpu;
mod data;
#[cfg_attr(not(feature = "gpu"), path = "no_gpu.rs")]
mod gpu;
mod model;
mod report;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use fastrand::Rng;
use gradstep::Optimizer;
use gradstep::optim::{Adafactor, AdamW, Came, Sgd, Sm3};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cpu::OnCpu;
use crate::data::{CLASSES, Digits, PIXELS};
use crate::gpu::{Gpu, OnGpu};
use crate::model::Mlp;
use crate::report::{Entry, Run};

const HIDDEN: usize = 448;
const BATCH: usize = 64;

/// The least share of test images that must be read.
const ACCURACY: f64 = 0.96;
/// The most that the loss of an epoch may differ between CPU and GPU.
const DIFFERENCE: f64 = 0.02;

const USAGE: &str = "\
usage: cargo run --release --example digits -- [--short] [--cpu] [--epochs N] [--seed N]
  --short     fewer epochs, the same demands: for automatic tests
  --cpu       do not look for a GPU
  --epochs N  number of epochs (20, or 6 with --short)
  --seed N    seed of the split, the initial weights and the batches (1)";

/// Where an optimizer's steps run.
trait Backend {
    /// One step of all tensors. Returns the time of the step alone, transfers not counted.
    fn step(&mut self, model: &mut Mlp, grads: &Mlp) -> gradstep::Result<Duration>;

    /// Bytes of optimizer state.
    fn state_bytes(&self) -> usize;
}

fn main() -> ExitCode {
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    let settings = Settings::parse(std::env::args().skip(1))?;
    let gpu = if settings.cpu_only { None } else { gpu::open()? };
    let task = Task::new(&settings, gpu)?;

    // Of three or four learning rates for each, a factor of about two apart, the one that reads the most
    // test images after 20 epochs, over three seeds and short of where training becomes erratic.
    // (Chosen by the test images: the accuracies compare optimizers, they do not foretell how the
    // model does on new digits.) Adafactor's is relative to the size of each tensor.
    let entries = [
        task.entry("SGD", &Sgd::new(0.2).with_momentum(0.9))?,
        task.entry("AdamW", &AdamW::new(2e-3))?,
        task.entry("Adafactor", &Adafactor::hugging_face().with_lr(1e-2))?,
        task.entry("SM3", &Sm3::new(0.05).with_momentum(0.9))?,
        task.entry("CAME", &Came::new(2e-4))?,
    ];
    task.bar.finish_and_clear();

    report::table(&entries, task.model.len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("out/digits.svg");
    report::picture(&entries, &path)?;
    println!("loss curves: {}", path.display());
    judge(&entries)
}

/// What all runs have in common.
struct Task {
    epochs: usize,
    seed: u64,
    train: Digits,
    test: Digits,
    /// With the initial weights.
    model: Mlp,
    gpu: Option<Gpu>,
    bar: ProgressBar,
}

impl Task {
    fn new(settings: &Settings, gpu: Option<Gpu>) -> Result<Self, Box<dyn Error>> {
        let &Settings { epochs, seed, .. } = settings;
        let (train, test) = Digits::load(seed)?;
        let model = Mlp::new(&[PIXELS, HIDDEN, HIDDEN, CLASSES], &mut Rng::with_seed(seed));
        let backends = if gpu.is_some() { 2 } else { 1 };
        let style = "{msg:20} {bar:40} {pos:>3}/{len} epochs, {elapsed} of about {duration}";
        let bar = ProgressBar::new((5 * backends * epochs) as u64)
            .with_style(ProgressStyle::with_template(style)?);
        Ok(Self { epochs, seed, train, test, model, gpu, bar })
    }

    /// Trains with one optimizer, on the CPU and on the GPU.
    fn entry(
        &self,
        name: &'static str,
        optimizer: &(impl Optimizer + Clone),
    ) -> gradstep::Result<Entry> {
        self.bar.set_message(format!("{name} on the CPU"));
        let cpu = self.run(OnCpu::new(optimizer, &self.model)?)?;
        let gpu = match &self.gpu {
            Some(gpu) => {
                self.bar.set_message(format!("{name} on the GPU"));
                Some(self.run(OnGpu::new(gpu, optimizer, &self.model)?)?)
            }
            None => None,
        };
        Ok(Entry { name, lr: optimizer.hyper("lr").unwrap_or(f64::NAN), cpu, gpu })
    }

    /// Trains the model from its initial weights.
    fn run(&self, mut backend: impl Backend) -> gradstep::Result<Run> {
        let mut model = self.model.clone();
        let mut grads = self.model.clone();
        let mut rng = Rng::with_seed(self.seed);
        let (mut losses, mut step) = (Vec::new(), Duration::MAX);
        for _ in 0..self.epochs {
            let mut loss = 0.0;
            for batch in self.train.batches(BATCH, &mut rng) {
                loss += model.loss(&batch, &mut grads);
                step = step.min(backend.step(&mut model, &grads)?);
            }
            losses.push(loss / self.train.len() as f64);
            self.bar.inc(1);
        }
        Ok(Run {
            losses,
            accuracy: model.accuracy(&self.test),
            state_bytes: backend.state_bytes(),
            step,
        })
    }
}

/// An error that names everything that is not as it should be.
fn judge(entries: &[Entry]) -> Result<(), Box<dyn Error>> {
    let mut faults = String::new();
    for entry in entries {
        let name = entry.name;
        let runs = [("CPU", Some(&entry.cpu)), ("GPU", entry.gpu.as_ref())];
        for (device, run) in runs.into_iter().filter_map(|(device, run)| Some((device, run?))) {
            let accuracy = run.accuracy;
            if ["CAME", "AdamW", "Adafactor"].contains(&name) && accuracy < ACCURACY {
                faults += &format!(
                    "\n{name} on the {device} reads {:.1} % of the test images; {:.0} % are demanded",
                    100.0 * accuracy,
                    100.0 * ACCURACY
                );
            }
        }
        if let Some(difference) = entry.difference()
            && (difference.is_nan() || difference >= DIFFERENCE)
        {
            faults += &format!(
                "\n{name}'s losses on CPU and GPU differ by {:.1} %; less than {:.0} % is demanded",
                100.0 * difference,
                100.0 * DIFFERENCE
            );
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("not as it should be:{faults}").into()) }
}

/// What the command line says.
struct Settings {
    cpu_only: bool,
    epochs: usize,
    seed: u64,
}

impl Settings {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut short, mut cpu_only, mut epochs, mut seed) = (false, false, None, 1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|n| n.parse::<u32>().ok());
            match arg.as_str() {
                "--short" => short = true,
                "--cpu" => cpu_only = true,
                "--epochs" => epochs = Some(number().filter(|n| *n > 0).ok_or(USAGE)? as usize),
                "--seed" => seed = number().ok_or(USAGE)?.into(),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(Self { cpu_only, epochs: epochs.unwrap_or(if short { 6 } else { 20 }), seed })
    }
}
