//! The command: options, and what is done in which order.

mod recording;
mod report;
mod run;

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use gradstep::Cpu;
use gradstep::reference::{Reference, entries};
use serde_json::{Map, Value as Json};

use self::recording::Recording;
use self::report::{Compared, Run};

pub(crate) type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: cargo run --release --example replay -- FILE.safetensors [OPTION …]
  --out FILE          where trajectories and state are written (required)
  --optimizer NAME    another optimizer than the file's
  --set KEY=VALUE …   settings of the optimizer, before those of the file; VALUE is JSON or a text
  --backend cpu|gpu   where it is computed (cpu; gpu needs the feature gpu)
  --threads N         threads of the CPU
  --f64               compute in double precision
  --tolerance X       the greatest error that passes (1e-5)
  --json              a report for machines
  --help              this, and the optimizers with their settings and defaults";

/// Runs the command; returns the exit status.
pub(crate) fn command(
    args: impl IntoIterator<Item = String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    match Options::parse(args.into_iter()).and_then(|options| act(options, out)) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(err, "{error}");
            2
        }
    }
}

fn act(options: Option<Options>, out: &mut dyn Write) -> Result<bool> {
    let Some(options) = options else {
        writeln!(out, "{}", help())?;
        return Ok(true);
    };
    let recording = Recording::read(&options.file)?;
    let (reference, recorded) = options.reference(&recording)?;
    // A rate that is set here holds at all steps.
    let scheduled = recorded && !options.settings.contains_key("lr");
    let job = run::Job { recording: &recording, reference: &reference, scheduled };
    let replayed = match options.backend {
        Backend::Gpu => run::on_gpu(&job)?,
        Backend::Cpu if options.f64 => run::on_cpu::<f64>(&job, &options.cpu()?)?,
        Backend::Cpu => run::on_cpu::<f32>(&job, &options.cpu()?)?,
    };
    let run = Run { options: &options, recording: &recording, reference: &reference };
    report::write(&run, &replayed)?;
    let unit = if options.f64 { f64::EPSILON } else { f32::EPSILON.into() };
    let unit = recording.epsilon.max(unit) / 2.0;
    let compared: Vec<_> = recording
        .tensors
        .iter()
        .zip(&replayed)
        .map(|(tensor, replayed)| Compared::new(tensor, replayed, unit))
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

fn help() -> String {
    let mut text = format!("{USAGE}\n\noptimizers and their settings:");
    for entry in entries() {
        // Writing to a text cannot fail.
        let _ = write!(text, "\n  {entry}");
    }
    text
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
    fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>> {
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
            let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--json" => options.json = true,
                "--f64" => options.f64 = true,
                "--out" => out = Some(value()?.into()),
                "--optimizer" => options.optimizer = Some(value()?),
                "--threads" => options.threads = Some(parse(&arg, &value()?, "a whole number")?),
                "--tolerance" => {
                    options.tolerance = parse(&arg, &value()?, "a number that is not negative")?;
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
                    while let Some(more) = args.next_if(|a| !a.starts_with("--") && a.contains('='))
                    {
                        options.set(&more)?;
                    }
                }
                other if other.starts_with("--") || file.is_some() => {
                    return Err(format!("{other} is not known\n{USAGE}").into());
                }
                _ => file = Some(arg.into()),
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
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        self.settings.insert(key.into(), value);
        Ok(())
    }

    fn cpu(&self) -> Result<Cpu> {
        match self.threads {
            None => Ok(Cpu::default()),
            Some(1) => Ok(Cpu::single_threaded()),
            #[cfg(feature = "parallel")]
            Some(n) if n > 1 => Ok(Cpu::default().with_threads(n)?),
            #[cfg(not(feature = "parallel"))]
            Some(n) if n > 1 => Err("--threads needs the feature parallel".into()),
            Some(_) => Err("--threads must be at least 1".into()),
        }
    }

    /// The optimizer of the options, and where they say nothing, of the file; and whether it is the
    /// recorded one.
    fn reference(&self, recording: &Recording) -> Result<(Reference, bool)> {
        let class = |name: &str| name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
        let recorded = recording.optimizer.as_deref();
        let given = self.optimizer.as_deref();
        let same = |a: &str, b: &str| class(a) == class(b);
        let mut settings = recording.settings.clone();
        let mut is_recorded = true;
        let name = match (given, recorded) {
            (None, None) => {
                return Err(format!(
                    "{}: its metadata does not name an `optimizer`; name it with --optimizer",
                    self.file.display()
                )
                .into());
            }
            (None, Some(recorded)) => recorded,
            // The class with its module says more.
            (Some(given), Some(recorded)) if same(given, recorded) && !given.contains('.') => {
                recorded
            }
            (Some(given), recorded) => {
                if recorded.is_some_and(|r| !same(given, r)) {
                    settings.clear();
                    is_recorded = false;
                }
                given
            }
        };
        settings.extend(self.settings.clone());
        let reference = Reference::with_epsilon(name, &settings, recording.epsilon)?;
        Ok((reference, is_recorded))
    }
}

fn parse<T: std::str::FromStr>(option: &str, value: &str, expected: &str) -> Result<T> {
    value.parse().map_err(|_| format!("{option} is {value}; it must be {expected}").into())
}
