//! One model, two kinds of optimizers, a schedule, clipping, and a checkpoint half-way.
//!
//! ```sh
//! cargo run --release --example groups
//! ```
//!
//! A multi-layer perceptron learns to read handwritten digits. CAME trains the hidden matrices,
//! AdamW the head and the biases, each with a learning rate that warms up and falls along a
//! cosine; the norm of all gradients together is clipped. The run is made twice: straight through,
//! and with a stop after half of the epochs, where everything is written to a file, thrown away,
//! and read again. Both must end with the same bits. Where there is a GPU, the second half runs
//! there too, from the same file.
//!
//! It fails if the bits differ, if a GPU ends with another loss (2 %), or if less than 96 % of the
//! test images are read. `--short` takes fewer epochs.

#[path = "digits/data.rs"]
mod data;
#[path = "digits/model.rs"]
mod model;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fastrand::Rng;
use gradstep::optim::{AdamW, Came};
use gradstep::{
    Cpu, CpuOptimizer, Gradients, Group, Schedule, Select, Setup, Snapshot, checkpoint,
};

use crate::data::{CLASSES, Digits, PIXELS};
use crate::model::Mlp;

const HIDDEN: usize = 128;
const BATCH: usize = 64;
const NAMES: [&str; 6] = [
    "hidden.0.weight",
    "hidden.0.bias",
    "hidden.1.weight",
    "hidden.1.bias",
    "head.weight",
    "head.bias",
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let short = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--short") => true,
        Some(other) => return Err(format!("{other:?} is not --short, the only option").into()),
    };
    let task = Task::new(if short { 6 } else { 20 })?;
    let half = task.epochs / 2;

    // Straight through.
    let mut straight = task.begin()?;
    println!("{}", straight.optimizer.groups());
    println!("epoch  lr of CAME    loss  norm of the gradients");
    for epoch in 0..task.epochs {
        let report = task.epoch(&mut straight, epoch)?;
        let lr = straight.optimizer.groups().hyper("matrices", "lr")?;
        println!("{:5}  {lr:10.2e}  {:6.4}  {:6.3}", epoch + 1, report.loss, report.grad_norm);
    }

    // The same with a stop half-way.
    let mut first = task.begin()?;
    for epoch in 0..half {
        task.epoch(&mut first, epoch)?;
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("out/groups.safetensors");
    first.save(&path)?;
    drop(first);
    let bytes = std::fs::metadata(&path)?.len();
    println!("\nafter {half} epochs: {bytes} bytes in {}", path.display());

    let mut resumed = task.load(&path)?;
    let mut loss = f64::NAN;
    for epoch in half..task.epochs {
        loss = task.epoch(&mut resumed, epoch)?.loss;
    }
    let bits = |run: &Training| -> Vec<u32> {
        run.model
            .tensors()
            .flat_map(|t| t.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            .collect()
    };
    if bits(&straight) != bits(&resumed) {
        return Err("the resumed run ended with other bits than the straight one".into());
    }
    println!("resumed from there: the same {} parameters, bit for bit", task.model.len());

    match task.on_gpu(&path, half)? {
        None => println!("no GPU was found: the second half ran on the CPU only"),
        Some((name, on_gpu)) => {
            let apart = (on_gpu / loss - 1.0).abs();
            println!("resumed on {name}: last loss {on_gpu:.6}, on the CPU {loss:.6}");
            if apart.is_nan() || apart > 0.02 {
                return Err(format!("these differ by {:.1} %", 100.0 * apart).into());
            }
        }
    }

    let accuracy = resumed.model.accuracy(&task.test);
    println!("{:.1} % of {} test images are read", 100.0 * accuracy, task.test.len());
    if accuracy < 0.96 {
        return Err("less than 96 % of the test images are read".into());
    }
    Ok(())
}

/// What both runs have in common.
struct Task {
    epochs: usize,
    train: Digits,
    test: Digits,
    /// With the initial weights.
    model: Mlp,
    setup: Setup,
}

/// A run.
struct Training {
    model: Mlp,
    optimizer: CpuOptimizer<f32>,
}

struct Report {
    /// Mean over an epoch.
    loss: f64,
    /// At the last step of it.
    grad_norm: f64,
}

impl Task {
    fn new(epochs: usize) -> Result<Self> {
        let (train, test) = Digits::load(1)?;
        let sizes = [PIXELS, HIDDEN, HIDDEN, CLASSES];
        let model = Mlp::new(&sizes, &mut Rng::with_seed(1));

        let steps = (epochs * train.len().div_ceil(BATCH)) as u64;
        let warmup = steps / 20;
        let falling = |peak: f64| -> gradstep::Result<_> {
            Ok(Schedule::cosine(peak, 0.0, steps - warmup)?.with_warmup(warmup))
        };
        let matrices = Select::glob("hidden.*")?.and(Select::rank(2..));
        let setup = Setup::new()
            .tensors(NAMES.into_iter().zip(model.shapes()))
            .group(
                Group::new("matrices", Came::default().with_weight_decay(0.01))
                    .of(matrices)
                    .schedule("lr", falling(1e-3)?),
            )
            .group(
                Group::new("head and biases", AdamW::default().with_weight_decay(0.01))
                    .without_decay(Select::glob("*.bias")?)
                    .schedule("lr", falling(4e-3)?),
            )
            .gradients(Gradients::new().clip_norm(1.0).check_finite());
        Ok(Self { epochs, train, test, model, setup })
    }

    fn begin(&self) -> Result<Training> {
        Ok(Training { model: self.model.clone(), optimizer: self.setup.cpu(&Cpu::default())? })
    }

    fn load(&self, path: &Path) -> Result<Training> {
        let snapshot = checkpoint::load(path)?;
        let mut training = self.begin()?;
        training.optimizer.restore(&snapshot)?;
        for (name, mut param) in NAMES.into_iter().zip(training.model.tensors_mut()) {
            let values = saved(&snapshot, name)?;
            param.iter_mut().zip(values).for_each(|(to, x)| *to = x);
        }
        Ok(training)
    }

    /// The batches of an epoch: nothing but its number decides on them.
    fn batches(&self, epoch: usize) -> Vec<Digits> {
        self.train.batches(BATCH, &mut Rng::with_seed(epoch as u64)).collect()
    }

    fn epoch(&self, training: &mut Training, epoch: usize) -> Result<Report> {
        let Training { model, optimizer } = training;
        let mut grads = model.clone();
        let mut report = Report { loss: 0.0, grad_norm: f64::NAN };
        for batch in self.batches(epoch) {
            report.loss += model.loss(&batch, &mut grads) / self.train.len() as f64;
            let mut step = optimizer.begin();
            for ((name, param), grad) in
                NAMES.into_iter().zip(model.tensors_mut()).zip(grads.tensors())
            {
                step.tensor(name, param, grad)?;
            }
            report.grad_norm = step.finish()?.grad_norm.unwrap_or(f64::NAN);
        }
        Ok(report)
    }

    /// The second half on a GPU, from the same file: its name and the loss of the last epoch.
    #[cfg(feature = "gpu")]
    fn on_gpu(&self, path: &Path, half: usize) -> Result<Option<(String, f64)>> {
        use gradstep::gpu::Gpu;
        use pollster::block_on;

        let gpu = match block_on(Gpu::open()) {
            Ok(gpu) => gpu,
            Err(gradstep::Error::NoAdapter { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut optimizer = block_on(self.setup.gpu(&gpu))?;
        optimizer.restore(&checkpoint::load(path)?)?;
        let (mut model, mut grads) = (self.model.clone(), self.model.clone());
        let mut loss = f64::NAN;
        for epoch in half..self.epochs {
            loss = 0.0;
            for batch in self.batches(epoch) {
                // The model is on the CPU: parameters come down and gradients go up.
                let params = block_on(optimizer.read_params())?;
                for (mut param, (_, values)) in model.tensors_mut().zip(params) {
                    param.iter_mut().zip(values).for_each(|(to, x)| *to = x);
                }
                loss += model.loss(&batch, &mut grads) / self.train.len() as f64;
                for (name, grad) in NAMES.into_iter().zip(grads.tensors()) {
                    optimizer
                        .write_grad(name, grad.as_slice().ok_or("gradients lie row by row")?)?;
                }
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                optimizer.encode(&mut encoder)?;
                gpu.queue().submit([encoder.finish()]);
            }
        }
        Ok(Some((gpu.name(), loss)))
    }

    #[cfg(not(feature = "gpu"))]
    fn on_gpu(&self, _: &Path, _: usize) -> Result<Option<(String, f64)>> {
        Ok(None)
    }
}

impl Training {
    fn save(&self, path: &Path) -> Result<()> {
        let mut snapshot = self.optimizer.snapshot()?;
        for (name, param) in NAMES.into_iter().zip(self.model.tensors()) {
            snapshot.set_param(name, param.iter().copied().collect::<Vec<f32>>())?;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(checkpoint::save(&snapshot, path)?)
    }
}

fn saved(snapshot: &Snapshot, name: &str) -> Result<Vec<f32>> {
    let param = snapshot.tensor(name).and_then(|t| t.param.as_ref());
    Ok(param.ok_or_else(|| format!("the file has no parameter {name}"))?.to())
}
