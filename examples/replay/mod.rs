//! The command: options, and what is done in which order.

mod recording;
mod report;
mod run;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use gradstep::Cpu;
use gradstep::reference::{Entry, Reference, entries, entry};
use serde_json::{Map, Number, Value as Json};

use self::recording::{Recording, Tensor};
use self::report::{Compared, Run};

pub(crate) type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: cargo run --release --example replay -- FILE.safetensors [OPTION …]
  --out FILE          where trajectories and state are written (required)
  --optimizer NAME    another optimizer than the file's
  --set KEY=VALUE …   settings of the optimizer, before those of the file; VALUE is JSON or a text,
                      null is the default. Further words are settings too as long as they have
                      a = and no file is called so
  --backend cpu|gpu   where it is computed (cpu; gpu needs the feature gpu)
  --threads N         threads of the CPU, at most 1024
  --f64               compute in double precision
  --tolerance X       the greatest error that passes (1e-5)
  --json              a report for machines
  --help              this, and the optimizers with their settings and defaults";

const MAX_THREADS: usize = 1024;

/// Runs the command; returns the exit status.
pub(crate) fn command(
    args: impl IntoIterator<Item = impl Into<OsString>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let args = args.into_iter().map(Into::into);
    match Options::parse(args).and_then(|options| act(options, out, err)) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(err, "{error}");
            2
        }
    }
}

fn act(options: Option<Options>, out: &mut dyn Write, err: &mut dyn Write) -> Result<bool> {
    let Some(options) = options else {
        writeln!(out, "{}", help())?;
        return Ok(true);
    };
    let recording = Recording::read(&options.file)?;
    if is_same_file(&options.file, &options.out) {
        let file = options.file.display();
        return Err(format!("--out is {file}, the recording itself; name another file").into());
    }
    let choice = options.choice(&recording)?;
    let reference = &choice.reference(&recording, 0)?;
    let job = run::Job { recording: &recording, choice: &choice };
    let replayed = match options.backend {
        Backend::Gpu => run::on_gpu(&job)?,
        Backend::Cpu if options.f64 => run::on_cpu::<f64>(&job, &options.cpu()?)?,
        Backend::Cpu => run::on_cpu::<f32>(&job, &options.cpu()?)?,
    };
    let notes = notes(&options, &choice, &recording);
    for note in &notes {
        let _ = writeln!(err, "note: {note}");
    }
    let run = Run { options: &options, recording: &recording, reference, notes: &notes };
    report::write(&run, &replayed)?;
    let epsilon = if options.f64 { f64::EPSILON } else { f32::EPSILON.into() };
    let compared: Vec<_> = recording
        .tensors
        .iter()
        .zip(&replayed)
        .map(|(tensor, r)| Compared::new(tensor, r, tensor.epsilon.max(epsilon) / 2.0))
        .collect();
    let passed = compared.iter().all(|c| c.passes(options.tolerance));
    let text = if options.json {
        format!("{:#}", run.json(&compared, passed))
    } else {
        run.text(&compared, passed)
    };
    writeln!(out, "{text}")?;
    Ok(passed)
}

/// Whether the output would replace the recording.
fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What whoever reads the report should know.
fn notes(options: &Options, choice: &Choice, recording: &Recording) -> Vec<String> {
    let mut notes = Vec::new();
    // A matrix is a matrix in both, with axes of length 1 before it too.
    let differs = |x: &&Tensor| match x.shape.split_last_chunk::<2>() {
        Some((batch, _)) => batch.iter().product::<usize>() > 1,
        None => false,
    };
    let names: Vec<_> =
        recording.tensors.iter().filter(differs).map(|x| format!("`{}`", x.name)).collect();
    if choice.entry.name == "sm3" && !names.is_empty() {
        notes.push(format!(
            "{} keeps an accumulator for each axis, this library one for the rows and one for the \
             columns of each matrix: the steps of these tensors of more than two dimensions differ: {}",
            choice.entry.reference,
            names.join(", ")
        ));
    }
    let first_eps_is_given =
        || choice.settings(recording, 0).get("eps").is_some_and(|eps| !eps[0].is_null());
    if choice.entry.variant == Some("torch") && recording.mixed && !first_eps_is_given() {
        notes.push(format!(
            "{} takes the first default of eps from the type of the group's first tensor, which the \
             file does not tell; taken is {:e}, of the coarsest type (--set eps=[…,1e-3] for another)",
            choice.entry.reference, recording.epsilon
        ));
    }
    if (0..recording.steps).any(|t| choice.maximizes(recording, t)) {
        notes.push("gradients are negated: maximize is true".into());
    }
    if options.backend == Backend::Gpu && options.threads.is_some() {
        notes.push("--threads has no effect with --backend gpu".into());
    }
    notes
}

fn help() -> String {
    let mut text = format!("{USAGE}\n\noptimizers and their settings:");
    for entry in entries() {
        // Writing to a text cannot fail.
        let _ = write!(text, "\n  {entry}");
    }
    text + "\nmaximize=true is replayed with negated gradients"
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Gpu,
}

#[derive(Debug)]
pub(crate) struct Options {
    file: PathBuf,
    out: PathBuf,
    optimizer: Option<String>,
    settings: Map<String, Json>,
    backend: Backend,
    threads: Option<usize>,
    f64: bool,
    tolerance: f64,
    json: bool,
}

impl Options {
    /// The options, or `None` if help is asked for.
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Self>> {
        let (mut file, mut out) = (None, None);
        let mut options = Self {
            file: PathBuf::new(),
            out: PathBuf::new(),
            optimizer: None,
            settings: Map::new(),
            backend: Backend::Cpu,
            threads: None,
            f64: false,
            tolerance: 1e-5,
            json: false,
        };
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let Some(name) = arg.to_str().filter(|a| a.starts_with('-')) else {
                if file.is_some() {
                    return Err(format!("{} is not known\n{USAGE}", arg.display()).into());
                }
                file = Some(PathBuf::from(arg));
                continue;
            };
            let mut path = || match args.next() {
                None => Err(format!("{name} needs a value\n{USAGE}")),
                Some(value) if value.as_encoded_bytes().starts_with(b"--") => {
                    let value = value.display();
                    Err(format!("{name} needs a value, but {value} follows, which is an option"))
                }
                Some(value) => Ok(value),
            };
            if name == "--out" {
                out = Some(PathBuf::from(path()?));
                continue;
            }
            let mut value = || {
                path()?.into_string().map_err(|x| format!("{name} is {}: not UTF-8", x.display()))
            };
            match name {
                "--help" | "-h" => return Ok(None),
                "--json" => options.json = true,
                "--f64" => options.f64 = true,
                "--optimizer" => options.optimizer = Some(value()?),
                "--threads" => {
                    let threads = parse(name, &value()?, "a whole number")?;
                    if !(1..=MAX_THREADS).contains(&threads) {
                        return Err(format!(
                            "--threads is {threads}; it must be at least 1 and at most {MAX_THREADS}"
                        )
                        .into());
                    }
                    options.threads = Some(threads);
                }
                "--tolerance" => {
                    options.tolerance = parse(name, &value()?, "a number that is not negative")?;
                    if options.tolerance.is_nan() || options.tolerance < 0.0 {
                        return Err("--tolerance must be a number that is not negative".into());
                    }
                }
                "--backend" => {
                    options.backend = match value()?.as_str() {
                        "cpu" => Backend::Cpu,
                        "gpu" => Backend::Gpu,
                        other => return Err(format!("--backend is {other}; cpu or gpu").into()),
                    }
                }
                "--set" => {
                    options.set(&value()?)?;
                    let is_setting = |a: &OsString| {
                        let text = a.to_str().filter(|a| !a.starts_with('-') && a.contains('='));
                        text.is_some_and(|a| !Path::new(a).exists())
                    };
                    while let Some(more) = args.next_if(is_setting) {
                        options.set(&more.to_string_lossy())?;
                    }
                }
                other if other.starts_with("--") || file.is_some() => {
                    return Err(format!("{other} is not known\n{USAGE}").into());
                }
                _ => file = Some(PathBuf::from(arg)),
            }
        }
        options.file = file.ok_or_else(|| format!("no file to replay\n{USAGE}"))?;
        options.out = out.ok_or_else(|| format!("--out is missing\n{USAGE}"))?;
        if options.backend == Backend::Gpu && options.f64 {
            return Err("the GPU computes in f32: leave out --f64 or --backend gpu".into());
        }
        Ok(Some(options))
    }

    fn set(&mut self, setting: &str) -> Result<()> {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--set {setting}: it must be KEY=VALUE, as in --set lr=1e-3"))?;
        let value = match (value, recording::json(value)) {
            // As Python has them.
            ("True", _) => true.into(),
            ("False", _) => false.into(),
            ("None", _) => Json::Null,
            (_, Ok(value)) => value,
            // `.1`, `1.`, `+0.1`
            (_, Err(_)) => value.parse().map_or_else(|_| value.into(), real),
        };
        self.settings.insert(key.into(), value);
        Ok(())
    }

    fn cpu(&self) -> Result<Cpu> {
        match self.threads {
            None => Ok(Cpu::default()),
            Some(1) => Ok(Cpu::single_threaded()),
            #[cfg(feature = "parallel")]
            Some(n) => Ok(Cpu::default().with_threads(n)?),
            #[cfg(not(feature = "parallel"))]
            Some(_) => Err("--threads needs the feature parallel".into()),
        }
    }

    /// The optimizer of the options, and where they say nothing, of the file.
    fn choice(&self, recording: &Recording) -> Result<Choice> {
        let class = |name: &str| name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
        let set: Map<_, _> = self.settings.clone().into_iter().filter(|s| !s.1.is_null()).collect();
        let switched = set.contains_key("variant");
        let recorded = recording.optimizer.as_deref();
        let recorded_entry = recorded.and_then(|r| entry(r, recording.settings(0)).ok());
        let name = match (self.optimizer.as_deref(), recorded) {
            (None, None) => {
                return Err(format!(
                    "{}: its metadata does not name an `optimizer`; name it with --optimizer",
                    self.file.display()
                )
                .into());
            }
            // Another variant is in another package.
            (None, Some(recorded)) if switched && recorded_entry.is_some() => class(recorded),
            (None, Some(recorded)) => recorded.into(),
            // The class with its module says more.
            (Some(given), Some(recorded))
                if recorded_entry.is_some()
                    && !switched
                    && !given.contains('.')
                    && class(given) == class(recorded) =>
            {
                recorded.into()
            }
            (Some(given), _) => given.into(),
        };
        let says_variant = !self.settings.contains_key("variant")
            && (recorded.is_none() || recorded == Some(name.as_str()));
        let variant = recording.settings(0).get("variant").filter(|_| says_variant);
        let mut settings = set;
        if let Some(variant) = variant {
            settings.entry("variant").or_insert(variant.clone());
        }
        let entry = entry(&name, &settings)?;
        let is_recorded =
            recorded.is_none() || recorded_entry.is_some_and(|r| std::ptr::eq(r, entry));
        Ok(Choice { name, entry, is_recorded, set: self.settings.clone() })
    }
}

/// Which optimizer, and what of the settings counts.
#[derive(Debug)]
pub(crate) struct Choice {
    name: String,
    entry: &'static Entry,
    /// Whether the recorded settings are its own.
    is_recorded: bool,
    /// Settings that come before the recorded ones; null stands for the default.
    set: Map<String, Json>,
}

impl Choice {
    /// The optimizer with the settings of step t.
    fn reference(&self, recording: &Recording, t: usize) -> Result<Reference> {
        let mut settings = self.settings(recording, t);
        if self.maximizes(recording, t) {
            settings.insert("maximize".into(), false.into());
        }
        Ok(Reference::with_epsilon(&self.name, &settings, recording.epsilon)?)
    }

    fn settings(&self, recording: &Recording, t: usize) -> Map<String, Json> {
        let mut settings = Map::new();
        if self.is_recorded {
            settings.clone_from(recording.settings(t));
            if let Some(lr) = recording.lr.get(t).copied().flatten() {
                settings.insert("lr".into(), real(lr));
            }
            // What is noted there for others to read: the reference takes its own steps.
            if self.flag(recording, t, "relative_step", true) {
                settings.remove("lr");
            }
        }
        settings.extend(self.set.clone());
        settings.retain(|name, value| !(value.is_null() && self.set.contains_key(name)));
        settings
    }

    /// Whether the gradients of step t are to be negated: what torch does first of all.
    fn maximizes(&self, recording: &Recording, t: usize) -> bool {
        self.flag(recording, t, "maximize", false)
    }

    /// A setting that is true or false; false where there is none of this name.
    fn flag(&self, recording: &Recording, t: usize, name: &str, default: bool) -> bool {
        let recorded = || recording.settings(t).get(name).filter(|_| self.is_recorded);
        let value = match self.set.get(name) {
            Some(value) => Some(value).filter(|v| !v.is_null()),
            None => recorded(),
        };
        let value = value.map_or(default, |v| v == &Json::Bool(true) || v.as_f64() == Some(1.0));
        value && self.entry.settings.iter().any(|s| s.name == name)
    }
}

/// A number of JSON, or the text for one that JSON does not have.
fn real(x: f64) -> Json {
    Number::from_f64(x).map_or_else(|| x.to_string().into(), Json::Number)
}

fn parse<T: std::str::FromStr>(option: &str, value: &str, expected: &str) -> Result<T> {
    value.parse().map_err(|_| format!("{option} is {value}; it must be {expected}").into())
}
