//! Optimizers by the names and the settings of their reference implementations.
//!
//! Who has trained with `torch.optim.AdamW(lr=1e-3, betas=(0.9, 0.95))` finds here the same
//! optimizer from the same words:
//! ```
//! use gradstep::reference::Reference;
//! use gradstep::{Cpu, Group, Optimizer, Setup};
//! use serde_json::json;
//!
//! let settings = json!({"lr": 1e-3, "betas": [0.9, 0.95], "foreach": null});
//! let adamw = Reference::new("adamw", settings.as_object().unwrap())?;
//! assert_eq!(adamw.hyper("beta2"), Some(0.95));
//! assert_eq!(adamw.hyper("weight_decay"), Some(1e-2)); // torch's default
//!
//! // For one tensor …
//! let mut step = Cpu::default().prepare_with::<f32, _>(adamw.clone(), [3], adamw.layout())?;
//! step.step(&mut [1.0, 2.0, 3.0], &[0.1, 0.2, 0.3])?;
//! // … or for a group of them.
//! let layout = adamw.layout();
//! let setup = Setup::new().tensor("w", [3]).group(Group::new("all", adamw).layout(layout));
//! # let _ = setup.cpu::<f32>(&Cpu::default())?;
//! # Ok::<(), gradstep::Error>(())
//! ```
//!
//! Settings that are not given have the reference's defaults, not this library's. Those that change
//! nothing about the mathematics (`foreach`, `fused`, …) are accepted, and so is what torch and its
//! schedulers keep in a parameter group besides ([`BOOKKEEPING`]); one that is unknown or has no
//! counterpart here is an error that lists the known ones. Numbers that JSON does not have are the
//! texts `"inf"`, `"-inf"` and `"nan"`, or as Python writes them: `"Infinity"`, `"-Infinity"`,
//! `"NaN"`. As in Python, 0 and 1 are false and true.
//!
//! Every optimizer has one setting more, `layout`: how it sees tensors of more than two dimensions
//! (`auto`, `vector`, `last_two` or `flatten`, see [`Layout`]). Its default is what the reference
//! does, with one exception: pytorch_optimizer's SM3 keeps an accumulator for each axis, this library
//! one for the rows and one for the columns of each matrix. Up to two dimensions they are the same;
//! beyond, the steps differ. `adafactor` is three optimizers, chosen by `variant`: `torch` (the
//! default), `hf` and `paper`.
//!
//! [`entries`] lists all of them. A new one is one entry of the list.

use std::fmt::{self, Write as _};

use serde_json::Map;

use crate::decimal::{plain, precise};
use crate::definition::{Optimizer, Recipe};
use crate::error::{Error, Result};
use crate::json::{self, Json};
use crate::layout::Layout;
use crate::optim::{Adafactor, Adam, AdamW, Came, Sgd, Sm3};
use crate::setup::Settings;
use crate::text::{cut, joined};

/// An optimizer with the settings of its reference implementation. It is an [`Optimizer`] itself.
#[derive(Debug)]
pub struct Reference {
    entry: &'static Entry,
    optimizer: Box<dyn Settings>,
    layout: Layout,
}

/// What [`Reference::new`] knows of an optimizer. Its `Display` is a line for a listing.
#[derive(Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The value of the setting `variant`, where the name alone does not tell.
    pub variant: Option<&'static str>,
    /// The reference implementation: package and class.
    pub reference: &'static str,
    /// How the reference sees tensors of more than two dimensions (of SM3, what comes nearest).
    pub layout: Layout,
    /// Its settings, `variant` and `layout` left out.
    pub settings: &'static [Setting],
    /// Slots that have another name in the state of the reference: the one here, the one there.
    pub slots: &'static [(&'static str, &'static str)],
    /// What the state of the reference has although no slot here corresponds to it, or only with
    /// some settings.
    pub unused: &'static [&'static str],
    make: fn(&Given<'_>) -> Result<Box<dyn Settings>>,
}

/// A setting of an [`Entry`]. Its `Display` is its name and its default.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Setting {
    /// Its name in the reference.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
}

/// What a [`Setting`] may be, with the reference's default.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A number without a default.
    Required,
    /// A number.
    Number(f64),
    /// A number or `null`, which is the default.
    Optional,
    /// `true` or `false`.
    Flag(bool),
    /// A list of so many numbers, `null` where the default is.
    Numbers(&'static [Option<f64>]),
    /// This number alone: others have no counterpart here.
    Only(f64),
    /// This alone: the other has no counterpart here.
    Always(bool),
    /// `true`, `false`, `null` or a number: it changes nothing about the mathematics.
    Ignored,
}

const fn set(name: &'static str, kind: Kind) -> Setting {
    Setting { name, kind }
}

/// What torch adds to the settings of all its optimizers.
const MAXIMIZE: Setting = set("maximize", Kind::Always(false));
const FOREACH: Setting = set("foreach", Kind::Ignored);
const FUSED: Setting = set("fused", Kind::Ignored);
const CAPTURABLE: Setting = set("capturable", Kind::Ignored);
const DIFFERENTIABLE: Setting = set("differentiable", Kind::Ignored);

/// What the parameter groups of torch's optimizers hold besides settings: the tensors and their names,
/// and what schedulers note there. Accepted with any value and ignored: a step does not read them.
pub const BOOKKEEPING: &[&str] = &[
    "params",
    "param_names",
    "initial_lr",
    "base_lr",
    "max_lr",
    "min_lr",
    "swa_lr",
    "base_momentum",
    "max_momentum",
];

const ADAM_BETAS: Kind = Kind::Numbers(&[Some(0.9), Some(0.999)]);
const ADAFACTOR_EPS: Kind = Kind::Numbers(&[Some(1e-30), Some(1e-3)]);

static ENTRIES: &[Entry] = &[
    Entry {
        name: "adafactor",
        variant: Some("torch"),
        reference: "torch.optim.Adafactor",
        layout: Layout::LastTwo,
        settings: &[
            set("lr", Kind::Number(1e-2)),
            set("beta2_decay", Kind::Number(-0.8)),
            // The first is the machine epsilon of the parameters by default.
            set("eps", Kind::Numbers(&[None, Some(1e-3)])),
            set("d", Kind::Number(1.0)),
            set("weight_decay", Kind::Number(0.0)),
            FOREACH,
            MAXIMIZE,
        ],
        slots: &[
            ("exp_avg_sq_row", "row_var"),
            ("exp_avg_sq_col", "col_var"),
            ("exp_avg_sq", "variance"),
        ],
        unused: &[],
        make: |s| {
            Ok(Box::new(
                Adafactor::torch()
                    .with_lr(s.number("lr"))
                    .with_decay_rate(s.number("beta2_decay"))
                    .with_eps1(s.nth("eps", 0).unwrap_or(s.epsilon))
                    .with_eps2(s.at("eps", 1))
                    .with_clip_threshold(s.number("d"))
                    .with_weight_decay(s.number("weight_decay")),
            ))
        },
    },
    Entry {
        name: "adafactor",
        variant: Some("hf"),
        reference: "transformers.optimization.Adafactor",
        layout: Layout::LastTwo,
        settings: &[
            set("lr", Kind::Optional),
            set("eps", ADAFACTOR_EPS),
            set("clip_threshold", Kind::Number(1.0)),
            set("decay_rate", Kind::Number(-0.8)),
            set("beta1", Kind::Optional),
            set("weight_decay", Kind::Number(0.0)),
            set("scale_parameter", Kind::Flag(true)),
            set("relative_step", Kind::Flag(true)),
            set("warmup_init", Kind::Flag(false)),
        ],
        slots: &[],
        unused: &["RMS"],
        make: |s| {
            let ours = Adafactor::hugging_face();
            let lr = match (s.optional("lr"), s.flag("relative_step")) {
                (Some(_), true) => {
                    return Err(s.problem("lr", "cannot be combined with relative_step=true"));
                }
                (None, false) => {
                    return Err(s.problem("lr", "must be a number where relative_step is false"));
                }
                (Some(lr), false) => lr,
                // The reference's bound of a relative step is a fixed number: our default.
                (None, true) => ours.lr,
            };
            if s.flag("warmup_init") && !s.flag("relative_step") {
                return Err(s.problem("warmup_init", "needs relative_step=true"));
            }
            Ok(Box::new(
                ours.with_lr(lr)
                    .with_eps1(s.at("eps", 0))
                    .with_eps2(s.at("eps", 1))
                    .with_clip_threshold(s.number("clip_threshold"))
                    .with_decay_rate(s.number("decay_rate"))
                    .with_beta1(s.optional("beta1"))
                    .with_weight_decay(s.number("weight_decay"))
                    .with_scale_parameter(s.flag("scale_parameter"))
                    .with_relative_step(s.flag("relative_step"))
                    .with_warmup_init(s.flag("warmup_init")),
            ))
        },
    },
    Entry {
        name: "adafactor",
        variant: Some("paper"),
        reference: "arXiv:1804.04235, Algorithm 6",
        layout: Layout::LastTwo,
        settings: &[
            set("lr", Kind::Number(1e-2)),
            set("eps", ADAFACTOR_EPS),
            set("clip_threshold", Kind::Number(1.0)),
            set("decay_rate", Kind::Number(-0.8)),
        ],
        slots: &[],
        unused: &[],
        make: |s| {
            Ok(Box::new(
                Adafactor::paper()
                    .with_lr(s.number("lr"))
                    .with_eps1(s.at("eps", 0))
                    .with_eps2(s.at("eps", 1))
                    .with_clip_threshold(s.number("clip_threshold"))
                    .with_decay_rate(s.number("decay_rate")),
            ))
        },
    },
    Entry {
        name: "adam",
        variant: None,
        reference: "torch.optim.Adam",
        layout: Layout::Auto,
        settings: &[
            set("lr", Kind::Number(1e-3)),
            set("betas", ADAM_BETAS),
            set("eps", Kind::Number(1e-8)),
            set("weight_decay", Kind::Number(0.0)),
            set("amsgrad", Kind::Flag(false)),
            set("decoupled_weight_decay", Kind::Flag(false)),
            FOREACH,
            MAXIMIZE,
            CAPTURABLE,
            DIFFERENTIABLE,
            FUSED,
        ],
        slots: &[],
        unused: &[],
        make: |s| {
            if s.flag("decoupled_weight_decay") {
                return Ok(Box::new(adamw(s)));
            }
            Ok(Box::new(
                Adam::new(s.number("lr"))
                    .with_beta1(s.at("betas", 0))
                    .with_beta2(s.at("betas", 1))
                    .with_eps(s.number("eps"))
                    .with_weight_decay(s.number("weight_decay"))
                    .with_amsgrad(s.flag("amsgrad")),
            ))
        },
    },
    Entry {
        name: "adamw",
        variant: None,
        reference: "torch.optim.AdamW",
        layout: Layout::Auto,
        settings: &[
            set("lr", Kind::Number(1e-3)),
            set("betas", ADAM_BETAS),
            set("eps", Kind::Number(1e-8)),
            set("weight_decay", Kind::Number(1e-2)),
            set("amsgrad", Kind::Flag(false)),
            // Not an argument, but a group's settings have it.
            set("decoupled_weight_decay", Kind::Always(true)),
            MAXIMIZE,
            FOREACH,
            CAPTURABLE,
            DIFFERENTIABLE,
            FUSED,
        ],
        slots: &[],
        unused: &[],
        make: |s| Ok(Box::new(adamw(s))),
    },
    Entry {
        name: "came",
        variant: None,
        reference: "came_pytorch.CAME",
        layout: Layout::LastTwo,
        settings: &[
            set("lr", Kind::Required),
            set("eps", Kind::Numbers(&[Some(1e-30), Some(1e-16)])),
            set("clip_threshold", Kind::Number(1.0)),
            set("betas", Kind::Numbers(&[Some(0.9), Some(0.999), Some(0.9999)])),
            set("weight_decay", Kind::Number(0.0)),
        ],
        slots: &[],
        unused: &["RMS"],
        make: |s| {
            Ok(Box::new(
                Came::new(s.number("lr"))
                    .with_beta1(s.at("betas", 0))
                    .with_beta2(s.at("betas", 1))
                    .with_beta3(s.at("betas", 2))
                    .with_eps1(s.at("eps", 0))
                    .with_eps2(s.at("eps", 1))
                    .with_clip_threshold(s.number("clip_threshold"))
                    .with_weight_decay(s.number("weight_decay")),
            ))
        },
    },
    Entry {
        name: "sgd",
        variant: None,
        reference: "torch.optim.SGD",
        layout: Layout::Auto,
        settings: &[
            set("lr", Kind::Number(1e-3)),
            set("momentum", Kind::Number(0.0)),
            set("dampening", Kind::Number(0.0)),
            set("weight_decay", Kind::Number(0.0)),
            set("nesterov", Kind::Flag(false)),
            MAXIMIZE,
            FOREACH,
            DIFFERENTIABLE,
            FUSED,
        ],
        slots: &[],
        unused: &[],
        make: |s| {
            Ok(Box::new(
                Sgd::new(s.number("lr"))
                    .with_momentum(s.number("momentum"))
                    .with_dampening(s.number("dampening"))
                    .with_weight_decay(s.number("weight_decay"))
                    .with_nesterov(s.flag("nesterov")),
            ))
        },
    },
    Entry {
        name: "sm3",
        variant: None,
        reference: "pytorch_optimizer.SM3",
        // The reference has an accumulator for each axis; up to two they are the same.
        layout: Layout::LastTwo,
        settings: &[
            set("lr", Kind::Number(0.1)),
            set("momentum", Kind::Number(0.0)),
            set("beta", Kind::Only(0.0)),
            set("eps", Kind::Number(1e-30)),
            MAXIMIZE,
            FOREACH,
            // Not an argument, but a group's settings have it.
            set("step", Kind::Ignored),
        ],
        slots: &[],
        unused: &["momentum_buffer"],
        make: |s| {
            let sm3 = Sm3::new(s.number("lr"));
            Ok(Box::new(sm3.with_momentum(s.number("momentum")).with_eps(s.number("eps"))))
        },
    },
];

fn adamw(s: &Given<'_>) -> AdamW {
    AdamW::new(s.number("lr"))
        .with_beta1(s.at("betas", 0))
        .with_beta2(s.at("betas", 1))
        .with_eps(s.number("eps"))
        .with_weight_decay(s.number("weight_decay"))
        .with_amsgrad(s.flag("amsgrad"))
}

/// All optimizers that are known by name.
#[must_use]
pub fn entries() -> &'static [Entry] {
    ENTRIES
}

/// The entry that [`Reference::new`] takes for this name and the setting `variant`, if there is one.
///
/// # Errors
/// [`Error::NoOptimizer`], or [`Error::Setting`] for the variant.
pub fn entry(name: &str, settings: &Map<String, serde_json::Value>) -> Result<&'static Entry> {
    find(name, settings.get("variant").map(Json::from).as_ref())
}

const LAYOUTS: [(&str, Layout); 4] = [
    ("auto", Layout::Auto),
    ("vector", Layout::Vector),
    ("last_two", Layout::LastTwo),
    ("flatten", Layout::Flatten),
];

impl Reference {
    /// The optimizer of this name with these settings, for parameters in `f32`.
    ///
    /// The name is one of [`entries`], or the reference's class with its module, as Python gives it:
    /// `came_pytorch.CAME.CAME`, `torch.optim.adamw.AdamW`.
    ///
    /// # Errors
    /// [`Error::NoOptimizer`] or [`Error::Setting`].
    pub fn new(name: &str, settings: &Map<String, serde_json::Value>) -> Result<Self> {
        Self::with_epsilon(name, settings, f32::EPSILON.into())
    }

    /// As [`new`](Self::new), for parameters of a type with this machine epsilon, which is the default
    /// of a setting of torch's Adafactor.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_epsilon(
        name: &str,
        settings: &Map<String, serde_json::Value>,
        epsilon: f64,
    ) -> Result<Self> {
        Self::with_settings(name, &json::entries(settings), epsilon)
    }

    /// The same from settings that were read here.
    #[doc(hidden)]
    pub fn with_settings(name: &str, settings: &[(String, Json)], epsilon: f64) -> Result<Self> {
        let entry = find(name, get(settings, "variant"))?;
        let given = Given { entry, settings, epsilon };
        let layout = given.check()?;
        let optimizer = (entry.make)(&given)?;
        optimizer.check().map_err(|e| given.in_words_of_the_reference(e))?;
        Ok(Self { entry, optimizer, layout })
    }

    /// Its entry in the list.
    #[must_use]
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// How the reference sees tensors of more than two dimensions, or what the setting `layout`
    /// says.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

impl Clone for Reference {
    fn clone(&self) -> Self {
        Self { entry: self.entry, optimizer: (*self.optimizer).boxed(), layout: self.layout }
    }
}

impl Optimizer for Reference {
    fn hyper(&self, name: &str) -> Option<f64> {
        self.optimizer.hyper(name)
    }

    fn set_hyper(&mut self, name: &str, value: f64) -> bool {
        self.optimizer.set_hyper(name, value)
    }

    fn initial(&self, slot: &str) -> Option<f64> {
        self.optimizer.initial(slot)
    }

    fn recipe(&self) -> Recipe {
        self.optimizer.recipe()
    }

    fn check(&self) -> Result<()> {
        self.optimizer.check()
    }
}

/// The entry of a name, or of a class with its module, and of a variant.
fn find(name: &str, variant: Option<&Json>) -> Result<&'static Entry> {
    let package = |name| cut(name, ".").map(|parts| parts.0);
    let mut class = name;
    while let Some((_, rest)) = cut(class, ".") {
        class = rest;
    }
    let fits = |e: &&Entry| {
        e.name.eq_ignore_ascii_case(class)
            && (package(name).is_none() || package(name) == package(e.reference))
    };
    let mut entries = ENTRIES.iter().filter(fits).peekable();
    let Some(&first) = entries.peek() else {
        let mut names: Vec<_> = ENTRIES.iter().map(|e| e.name).collect();
        names.dedup();
        return Err(Error::NoOptimizer { name: name.into(), known: joined(names, ", ") });
    };
    let Some(variant) = variant else { return Ok(first) };
    let known: Vec<_> = entries.clone().filter_map(|e| e.variant).collect();
    let wanted = entries.find(|e| e.variant.is_some_and(|v| variant.as_str() == Some(v)));
    let problem = match known.as_slice() {
        [] => "is unknown".to_string(),
        known => format!("is {variant}; it must be one of {}", joined(known.iter().copied(), ", ")),
    };
    wanted.ok_or_else(|| first.problem("variant", problem))
}

impl Entry {
    fn problem(&self, setting: &str, problem: impl Into<String>) -> Error {
        Error::Setting {
            optimizer: self.name,
            setting: setting.into(),
            problem: problem.into(),
            known: self.known(),
        }
    }

    /// All settings, as a text.
    fn known(&self) -> String {
        let (layout, _) = LAYOUTS.iter().find(|l| l.1 == self.layout).unwrap_or(&LAYOUTS[0]);
        let mut list = self.variant.map_or(String::new(), |v| format!("variant = {v}, "));
        for setting in self.settings {
            let _ = write!(list, "{setting}, ");
        }
        list + "layout = " + layout
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.reference, self.known())
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.kind {
            Kind::Required => write!(f, "{name} (required)"),
            Kind::Number(x) => write!(f, "{name} = {}", precise(x)),
            Kind::Optional => write!(f, "{name} = null"),
            Kind::Flag(x) => write!(f, "{name} = {x}"),
            Kind::Numbers(list) => {
                let numbers = list.iter().map(|x| x.map_or("null".into(), precise));
                let numbers: Vec<_> = numbers.collect();
                write!(f, "{name} = [{}]", joined(numbers.iter().map(String::as_str), ","))
            }
            Kind::Only(x) => write!(f, "{name} (only {})", precise(x)),
            Kind::Always(x) => write!(f, "{name} (only {x})"),
            Kind::Ignored => write!(f, "{name} (ignored)"),
        }
    }
}

fn get<'s>(settings: &'s [(String, Json)], name: &str) -> Option<&'s Json> {
    settings.iter().find(|s| s.0 == name).map(|s| &s.1)
}

/// A number, or one that JSON does not have.
fn number(value: &Json) -> Option<f64> {
    let Json::Text(text) = value else { return value.as_f64() };
    match text.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => Some(f64::INFINITY),
        "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::NAN),
        _ => None,
    }
}

/// True or false, as which Python takes 1 and 0.
fn truth(value: &Json) -> Option<bool> {
    match value.as_f64() {
        Some(x) if x == 0.0 || x == 1.0 => Some(x == 1.0),
        _ => value.as_bool(),
    }
}

impl Kind {
    /// What is expected, unless `value` is that.
    fn expected(self, value: &Json) -> Option<String> {
        let is = match self {
            Self::Required | Self::Number(_) => number(value).is_some(),
            Self::Optional => value.is_null() || number(value).is_some(),
            Self::Flag(_) => truth(value).is_some(),
            Self::Numbers(list) => value.as_list().is_some_and(|values| {
                let fits = |(v, d): (&Json, &Option<f64>)| {
                    number(v).is_some() || v.is_null() && d.is_none()
                };
                values.len() == list.len() && values.iter().zip(list).all(fits)
            }),
            Self::Only(x) => number(value) == Some(x),
            Self::Always(x) => truth(value) == Some(x),
            Self::Ignored => !matches!(value, Json::Text(_) | Json::List(_) | Json::Object(_)),
        };
        let expected = match self {
            _ if is => return None,
            Self::Required | Self::Number(_) => "a number".into(),
            Self::Optional => "a number or null".into(),
            Self::Flag(_) => "true or false".into(),
            Self::Numbers(list) => format!("a list of {} numbers", list.len()),
            Self::Only(x) => format!("{}: this library has nothing else", precise(x)),
            Self::Always(x) => format!("{x}: this library has nothing else"),
            Self::Ignored => "true, false, null or a number".into(),
        };
        Some(expected)
    }
}

/// Settings that are given and those that are not, which have their defaults.
struct Given<'a> {
    entry: &'static Entry,
    settings: &'a [(String, Json)],
    epsilon: f64,
}

impl Given<'_> {
    fn problem(&self, setting: &str, problem: impl Into<String>) -> Error {
        self.entry.problem(setting, problem)
    }

    /// Checks names and types; what an entry makes of the settings may rely on them. Returns the
    /// layout.
    fn check(&self) -> Result<Layout> {
        let mut layout = self.entry.layout;
        for (name, value) in self.settings {
            match name.as_str() {
                "variant" => {} // It led to the entry.
                name if BOOKKEEPING.contains(&name) => {}
                "layout" => {
                    let known = LAYOUTS.iter().find(|l| value.as_str() == Some(l.0));
                    let names = joined(LAYOUTS.map(|l| l.0), ", ");
                    let problem = || format!("is {value}; it must be one of {names}");
                    layout = known.ok_or_else(|| self.problem(name, problem()))?.1;
                }
                _ => {
                    let found = self.entry.settings.iter().find(|s| s.name == name);
                    let setting = found.ok_or_else(|| self.unknown(name))?;
                    if let Some(expected) = setting.kind.expected(value) {
                        let hint = self
                            .variant_with(|s| s.name == name && s.kind.expected(value).is_none());
                        let hint = hint.map(|v| format!(" (set variant = {v}, which takes it)"));
                        let hint = hint.unwrap_or_default();
                        let problem = format!("is {value}; it must be {expected}{hint}");
                        return Err(self.problem(name, problem));
                    }
                }
            }
        }
        let missing =
            |s: &&Setting| s.kind == Kind::Required && get(self.settings, s.name).is_none();
        match self.entry.settings.iter().find(missing) {
            Some(setting) => Err(self.problem(setting.name, "is missing and has no default")),
            None => Ok(layout),
        }
    }

    /// A variant of this optimizer with such a setting.
    fn variant_with(&self, fits: impl Fn(&Setting) -> bool) -> Option<&'static str> {
        let mut variants = ENTRIES.iter().filter(|e| e.name == self.entry.name);
        variants.find(|e| e.settings.iter().any(&fits)).and_then(|e| e.variant)
    }

    /// An error about a hyper-parameter of ours, as one about the setting that it comes from.
    fn in_words_of_the_reference(&self, error: Error) -> Error {
        let Error::Hyper { name, value, expected, .. } = error else { return error };
        let (setting, index) = match name {
            _ if self.kind(name).is_some() => (name, None),
            "beta1" => ("betas", Some(0)),
            "beta2" => ("betas", Some(1)),
            "beta3" => ("betas", Some(2)),
            "eps1" => ("eps", Some(0)),
            "eps2" => ("eps", Some(1)),
            "decay_rate" => ("beta2_decay", None),
            "clip_threshold" => ("d", None),
            _ => (name, None),
        };
        let given = get(self.settings, setting).filter(|_| index.is_none());
        let value = given.map_or_else(|| plain(value), ToString::to_string);
        let place = index.map(|i: usize| format!("[{i}]")).unwrap_or_default();
        self.problem(&format!("{setting}{place}"), format!("is {value}; it must be {expected}"))
    }

    fn unknown(&self, name: &str) -> Error {
        let problem = match self.variant_with(|s| s.name == name).zip(self.entry.variant) {
            Some((other, this)) => {
                format!("is unknown to variant {this} (set variant = {other}, which has it)")
            }
            None => "is unknown".into(),
        };
        self.problem(name, problem)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.entry.settings.iter().find(|s| s.name == name).map(|s| s.kind)
    }

    fn number(&self, name: &str) -> f64 {
        let default = match self.kind(name) {
            Some(Kind::Number(x)) => x,
            // Checked to be there. What is no setting at all fails the check of the optimizer.
            _ => f64::NAN,
        };
        get(self.settings, name).map_or(default, |v| number(v).unwrap_or(f64::NAN))
    }

    fn optional(&self, name: &str) -> Option<f64> {
        get(self.settings, name).and_then(number)
    }

    fn flag(&self, name: &str) -> bool {
        let default = self.kind(name) == Some(Kind::Flag(true));
        get(self.settings, name).and_then(truth).unwrap_or(default)
    }

    /// A number of a list, `None` for null.
    fn nth(&self, name: &str, index: usize) -> Option<f64> {
        match (get(self.settings, name), self.kind(name)) {
            (Some(value), _) => value.as_list()?.get(index).and_then(number),
            (None, Some(Kind::Numbers(list))) => list.get(index).copied().flatten(),
            _ => None,
        }
    }

    fn at(&self, name: &str, index: usize) -> f64 {
        self.nth(name, index).unwrap_or(f64::NAN)
    }
}
