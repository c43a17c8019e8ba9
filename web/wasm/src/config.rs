//! What an optimizer is made from, as JSON:
//!
//! ```json
//! {
//!   "params": [{"name": "w", "shape": [4, 3], "layout": "last_two"}],
//!   "groups": [{
//!     "name": "all", "params": ["w"], "optimizer": "adamw", "settings": {"lr": 1e-3},
//!     "lrFactor": 1.0, "undecayed": ["b"], "schedules": {"lr": {"kind": "cosine", …}}
//!   }],
//!   "clipNorm": 1.0, "clipValue": 2.0, "checkFinite": true, "lossScale": 8.0,
//!   "average": {"decay": 0.999}, "accumulate": {"batches": 4, "kind": "mean"}
//! }
//! ```
//! A group without an optimizer is frozen. `lossScale` is a number, or `"dynamic"`, or an object with
//! what differs from the defaults of that. `average` is `"polyak"`, too, or `{"from": 100}`, and
//! `accumulate` a number of micro-batches.

use gradstep::json::Json;
use gradstep::reference::Reference;
use gradstep::{
    Accumulation, Average, Curve, Error, Gradients, Group, Layout, LossScale, OneCycle,
};
use gradstep::{Schedule, Select, Setup};

/// Errors are passed on often and happen seldom.
type Result<T> = std::result::Result<T, Box<Error>>;

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) setup: Setup,
    /// Micro-batches of a step, where they are accumulated.
    pub(crate) batches: Option<u32>,
}

fn problem(what: impl Into<String>, problem: String, remedy: &str) -> Box<Error> {
    Box::new(Error::Setup { what: what.into(), problem, remedy: remedy.into() })
}

/// An object, of which everything must be looked at.
struct Object<'a> {
    what: String,
    map: &'a [(String, Json)],
}

impl<'a> Object<'a> {
    fn new(what: impl Into<String>, json: &'a Json, known: &[&str]) -> Result<Self> {
        let what = what.into();
        let Some(map) = json.as_object() else {
            return Err(problem(what, format!("it is {json}"), "pass an object"));
        };
        match map.iter().find(|e| !known.contains(&e.0.as_str())) {
            Some((key, _)) => {
                let mut remedy = format!("the settings are {}", known[0]);
                known[1..].iter().for_each(|name| remedy.extend([", ", *name]));
                Err(problem(what, format!("it has no setting `{key}`"), &remedy))
            }
            None => Ok(Self { what, map }),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Json> {
        self.map.iter().find(|e| e.0 == name).map(|e| &e.1).filter(|v| !v.is_null())
    }

    fn wrong<T>(&self, name: &str, expected: &str) -> Result<T> {
        let found = self.get(name).map_or("missing".to_string(), ToString::to_string);
        Err(problem(self.what.as_str(), format!("`{name}` is {found}"), expected))
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Json) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map_or_else(|| self.wrong(name, expected), |x| Ok(Some(x)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "pass a number", Json::as_f64)
    }

    fn needed(&self, name: &str) -> Result<f64> {
        self.number(name)?.map_or_else(|| self.wrong(name, "pass a number"), Ok)
    }

    fn steps(&self, name: &str) -> Result<Option<u64>> {
        self.read(name, "pass a whole number that is not negative", Json::as_u64)
    }

    fn needed_steps(&self, name: &str) -> Result<u64> {
        let steps = self.steps(name)?;
        steps.map_or_else(|| self.wrong(name, "pass a whole number of steps"), Ok)
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.read(name, "pass a string", Json::as_str)
    }

    fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.read(name, "pass true or false", Json::as_bool)?.unwrap_or(false))
    }

    fn list(&self, name: &str) -> Result<&'a [Json]> {
        let list = self.read(name, "pass a list", Json::as_list)?;
        Ok(list.unwrap_or(&[]))
    }

    fn each<T>(
        &self,
        name: &str,
        expected: &str,
        read: fn(&'a Json) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut values = Vec::new();
        for value in self.list(name)? {
            match read(value) {
                Some(value) => values.push(value),
                None => return self.wrong(name, expected),
            }
        }
        Ok(values)
    }

    fn names(&self, name: &str) -> Result<Vec<String>> {
        self.each(name, "pass a list of strings", |v| Some(v.as_str()?.to_string()))
    }
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let json = Json::parse(text).map_err(|e| problem("the settings", e, "pass JSON"))?;
        let known = [
            "params",
            "groups",
            "clipNorm",
            "clipValue",
            "checkFinite",
            "lossScale",
            "average",
            "accumulate",
        ];
        let all = Object::new("the settings", &json, &known)?;
        let mut setup = Setup::new();
        for (i, param) in all.list("params")?.iter().enumerate() {
            let param = Object::new(format!("parameter {i}"), param, &["name", "shape", "layout"])?;
            let Some(name) = param.text("name")? else {
                return param.wrong("name", "give each parameter a name");
            };
            let whole = "pass a list of whole numbers";
            if param.get("shape").is_none() {
                return param.wrong("shape", whole);
            }
            let shape = param.each("shape", whole, |v| usize::try_from(v.as_u64()?).ok())?;
            setup = match layout(&param)? {
                Some(layout) => setup.tensor_with(name, &shape, layout),
                None => setup.tensor(name, &shape),
            };
        }
        for (i, json) in all.list("groups")?.iter().enumerate() {
            setup = setup.group(group(i, json)?);
        }
        let mut gradients = Gradients::new();
        gradients.max_norm = all.number("clipNorm")?;
        gradients.max_value = all.number("clipValue")?;
        gradients.check_finite = all.flag("checkFinite")?;
        gradients.loss_scale = match all.get("lossScale") {
            None => LossScale::None,
            Some(json @ Json::Number(_)) => LossScale::Fixed(json.as_f64().unwrap_or(f64::NAN)),
            Some(json) => dynamic(json)?,
        };
        setup = setup.gradients(gradients);
        if let Some(json) = all.get("average") {
            setup = setup.average(average(&all, json)?);
        }
        let mut batches = None;
        if let Some(json) = all.get("accumulate") {
            let (n, kind) = accumulation(&all, json)?;
            (setup, batches) = (setup.accumulate(kind), Some(n));
        }
        Ok(Self { setup, batches })
    }
}

fn layout(of: &Object<'_>) -> Result<Option<Layout>> {
    of.read("layout", "it must be one of auto, vector, last_two, flatten", |v| {
        match v.as_str()? {
            "auto" => Some(Layout::Auto),
            "vector" => Some(Layout::Vector),
            "last_two" => Some(Layout::LastTwo),
            "flatten" => Some(Layout::Flatten),
            _ => None,
        }
    })
}

fn average(all: &Object<'_>, json: &Json) -> Result<Average> {
    if json.as_str() == Some("polyak") {
        return Ok(Average::Polyak { from: 1 });
    }
    if json.as_object().is_none() {
        return all.wrong("average", "pass \"polyak\", { decay } or { from }");
    }
    let of = Object::new("`average`", json, &["decay", "from"])?;
    match (of.number("decay")?, of.steps("from")?) {
        (Some(decay), None) => Ok(Average::Ema { decay }),
        (None, Some(from)) => Ok(Average::Polyak { from }),
        _ => all.wrong("average", "pass `decay` or `from`"),
    }
}

/// How many micro-batches become one gradient, and how.
fn accumulation(all: &Object<'_>, json: &Json) -> Result<(u32, Accumulation)> {
    let count = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
    let whole = "pass a whole number of micro-batches, 1 at least";
    if json.as_object().is_none() {
        return Ok((all.read("accumulate", whole, count)?.unwrap_or(1), Accumulation::Mean));
    }
    let of = Object::new("`accumulate`", json, &["batches", "kind"])?;
    let batches = of.read("batches", whole, count)?;
    let kind = match of.text("kind")? {
        None | Some("mean") => Accumulation::Mean,
        Some("sum") => Accumulation::Sum,
        Some(_) => return of.wrong("kind", "it must be mean or sum"),
    };
    Ok((batches.map_or_else(|| of.wrong("batches", whole), Ok)?, kind))
}

fn dynamic(json: &Json) -> Result<LossScale> {
    let LossScale::Dynamic { mut initial, mut growth, mut backoff, mut interval } =
        LossScale::dynamic()
    else {
        return Ok(LossScale::None);
    };
    if json.as_str() != Some("dynamic") {
        let known = ["initial", "growth", "backoff", "interval"];
        let scale = Object::new("`lossScale`", json, &known)?;
        initial = scale.number("initial")?.unwrap_or(initial);
        growth = scale.number("growth")?.unwrap_or(growth);
        backoff = scale.number("backoff")?.unwrap_or(backoff);
        let whole = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let given = scale.read("interval", "pass a whole number of steps", whole)?;
        interval = given.unwrap_or(interval);
    }
    Ok(LossScale::Dynamic { initial, growth, backoff, interval })
}

fn group(index: usize, json: &Json) -> Result<Group> {
    let known =
        ["name", "params", "optimizer", "settings", "layout", "lrFactor", "undecayed", "schedules"];
    let of = Object::new(format!("group {index}"), json, &known)?;
    let name = of.text("name")?.map_or_else(|| format!("group {index}"), ToString::to_string);
    let select = match of.get("params") {
        Some(_) => Select::names(of.names("params")?),
        None => Select::all(),
    };
    let Some(optimizer) = of.text("optimizer")? else {
        return Ok(Group::frozen(name).of(select));
    };
    let settings = of.read("settings", "pass an object", Json::as_object)?.unwrap_or(&[]);
    let reference = Reference::with_settings(optimizer, settings, f32::EPSILON.into())?;
    let layout = layout(&of)?.unwrap_or(reference.layout());
    let mut group = Group::new(name, reference).of(select).layout(layout);
    if let Some(factor) = of.number("lrFactor")? {
        group = group.lr_factor(factor);
    }
    if of.get("undecayed").is_some() {
        group = group.without_decay(Select::names(of.names("undecayed")?));
    }
    let schedules = of.read("schedules", "pass an object", Json::as_object)?;
    for (hyper, json) in schedules.unwrap_or(&[]) {
        group = group.schedule(hyper.as_str(), schedule(hyper, json)?);
    }
    Ok(group)
}

/// A schedule: a number, or an object with its `kind`, what that takes, and `warmup` steps in front.
fn schedule(hyper: &str, json: &Json) -> Result<Schedule> {
    const KINDS: &str = "the kinds are constant, linear, polynomial, cosine, cosineRestarts, \
                         inverseSqrt, exponential, step, multiStep, oneCycle, wsd";
    if let Some(value) = json.as_f64() {
        return Ok(Schedule::constant(value)?);
    }
    let known = [
        "kind",
        "value",
        "from",
        "to",
        "steps",
        "power",
        "first",
        "factor",
        "timescale",
        "milestones",
        "peak",
        "stable",
        "decay",
        "warmup",
    ];
    let of = Object::new(format!("the schedule of `{hyper}`"), json, &known)?;
    let from = || of.needed("from");
    let to = || Ok::<_, Box<Error>>(of.number("to")?.unwrap_or(0.0));
    let steps = || of.needed_steps("steps");
    let warmup = of.steps("warmup")?;
    let made = match of.text("kind")? {
        Some("constant") => Schedule::constant(of.needed("value")?),
        Some("linear") => Schedule::linear(from()?, to()?, steps()?),
        Some("polynomial") => {
            Schedule::polynomial(from()?, to()?, steps()?, of.number("power")?.unwrap_or(1.0))
        }
        Some("cosine") => Schedule::cosine(from()?, to()?, steps()?),
        Some("cosineRestarts") => {
            let factor = of.steps("factor")?.unwrap_or(1);
            Schedule::cosine_restarts(from()?, to()?, of.needed_steps("first")?, factor)
        }
        Some("inverseSqrt") => Schedule::inverse_sqrt(from()?, of.needed_steps("timescale")?),
        Some("exponential") => Schedule::exponential(from()?, of.needed("factor")?, steps()?),
        Some("step") => Schedule::step(from()?, of.needed("factor")?, steps()?),
        Some("multiStep") => {
            let milestones = of.each("milestones", "pass a list of steps", Json::as_u64)?;
            Schedule::multi_step(from()?, of.needed("factor")?, milestones)
        }
        Some("oneCycle") => Schedule::one_cycle(OneCycle::new(of.needed("peak")?, steps()?)),
        Some("wsd") => {
            let (stable, decay) = (of.needed_steps("stable")?, of.needed_steps("decay")?);
            Schedule::wsd(of.needed("peak")?, to()?, 0, stable, decay, Curve::OneMinusSqrt)
        }
        _ => return of.wrong("kind", KINDS),
    }?;
    Ok(match warmup {
        Some(steps) => made.with_warmup(steps),
        None => made,
    })
}
