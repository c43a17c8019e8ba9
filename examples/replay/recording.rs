//! Reading a recording.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value as Json};

use super::Result;

/// What was recorded. Numbers are widened to `f64`, which holds all of them.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) optimizer: Option<String>,
    /// Of each step, or one for all of them. Never empty.
    settings: Vec<Map<String, Json>>,
    pub(crate) steps: usize,
    /// The learning rate of each step, where it is recorded.
    pub(crate) lr: Vec<Option<f64>>,
    /// The greatest machine epsilon of the parameters' types.
    pub(crate) epsilon: f64,
    /// Whether parameters are of several types.
    pub(crate) mixed: bool,
    /// By name.
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The greatest machine epsilon of the types of the parameter and of what is expected of it.
    pub(crate) epsilon: f64,
    pub(crate) param: Vec<f64>,
    /// By step.
    pub(crate) grads: Vec<Option<Vec<f64>>>,
    /// The parameter after each step, where it is known.
    pub(crate) expected: Vec<Option<Vec<f64>>>,
}

/// A tensor of the file as it lies there.
struct Stored {
    epsilon: f64,
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// What the name of a tensor of the file says.
enum Place<'a> {
    Param(&'a str),
    Grad(usize, &'a str),
    Expected(usize, &'a str),
    Lr(usize),
    /// The end of another replay.
    State,
}

fn place(key: &str) -> Option<Place<'_>> {
    let (kind, rest) = key.split_once('/')?;
    let step = || {
        let (t, name) = rest.split_once('/')?;
        Some((t.parse().ok()?, name))
    };
    match kind {
        "param" => Some(Place::Param(rest)),
        "grad" => step().map(|(t, name)| Place::Grad(t, name)),
        "expected" | "trajectory" => step().map(|(t, name)| Place::Expected(t, name)),
        "lr" => rest.parse().ok().map(Place::Lr),
        "state" => Some(Place::State),
        _ => None,
    }
}

fn widen(dtype: Dtype, data: &[u8]) -> Option<(f64, Vec<f64>)> {
    Some(match dtype {
        Dtype::F64 => {
            let values = data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b));
            (f64::EPSILON, values.collect())
        }
        Dtype::F32 => {
            let values = data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into());
            (f32::EPSILON.into(), values.collect())
        }
        Dtype::F16 => {
            let values = data.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f64());
            (half::f16::EPSILON.to_f64(), values.collect())
        }
        Dtype::BF16 => {
            let values = data.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64());
            (half::bf16::EPSILON.to_f64(), values.collect())
        }
        _ => return None,
    })
}

/// How many bytes of values the header tells of; none where it cannot be read.
fn end_of_values(bytes: &[u8]) -> Option<usize> {
    let (len, rest) = bytes.split_first_chunk()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    serde_json::from_slice::<Metadata>(header).ok().map(|header| header.data_len())
}

/// JSON as Python writes it: there, numbers that are not finite are bare words. They become texts.
pub(crate) fn json(text: &str) -> serde_json::Result<Json> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let (mut strict, mut rest, mut in_text) = (String::new(), text, false);
    while let Some(c) = rest.chars().next() {
        let word = WORDS.iter().find(|w| !in_text && rest.starts_with(**w));
        let length = match word {
            Some(word) => word.len(),
            None if in_text && c == '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            None => c.len_utf8(),
        };
        in_text ^= c == '"';
        let quote = if word.is_some() { "\"" } else { "" };
        strict.extend([quote, &rest[..length], quote]);
        rest = &rest[length..];
    }
    serde_json::from_str(&strict)
}

/// An object, or a list of them.
fn settings(text: &str) -> Result<Vec<Map<String, Json>>> {
    let own = |json: Json| match json {
        Json::Object(settings) => Ok(settings),
        other => Err(format!("{other} is not an object")),
    };
    let all = json(text).map_err(|e| e.to_string()).and_then(|json| match json {
        Json::Array(steps) if !steps.is_empty() => steps.into_iter().map(own).collect(),
        one => Ok(vec![own(one)?]),
    });
    all.map_err(|e| {
        format!("its metadata `settings` is not a JSON object or a list of them ({e}): {text}")
            .into()
    })
}

impl Recording {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let fail = |problem: String| format!("{}: {problem}", path.display());
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        Self::parse(&bytes).map_err(|e| fail(e.to_string()).into())
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        // safetensors adds what follows a header to its length before it compares them with the file,
        // and that overflows where ranges end at the last address.
        if let Some(end) = end_of_values(bytes).filter(|&end| end > bytes.len()) {
            return Err(format!("it tells of {end} bytes and has {}", bytes.len()).into());
        }
        let file = SafeTensors::deserialize(bytes)?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let settings = metadata.get("settings").map_or(Ok(vec![Map::new()]), |s| settings(s))?;
        let mut stored = BTreeMap::new();
        for (key, view) in file.tensors() {
            let (epsilon, values) = widen(view.dtype(), view.data()).ok_or_else(|| {
                format!("tensor `{key}` is {:?}; it must be F64, F32, F16 or BF16", view.dtype())
            })?;
            stored.insert(key, Stored { epsilon, shape: view.shape().to_vec(), values });
        }

        let step_of = |key: &String| match place(key) {
            Some(Place::Grad(t, _) | Place::Expected(t, _) | Place::Lr(t)) => Some(t),
            _ => None,
        };
        let seen = stored.keys().filter_map(step_of).max().map_or(0, |t| t.saturating_add(1));
        let steps = match metadata.get("steps") {
            None => seen,
            Some(text) => text.parse().map_err(|_| {
                format!("its metadata `steps` is {text}; it must be a whole number")
            })?,
        };
        // Every step of every tensor has a place, so that a wrong number must not ask for any amount
        // of memory.
        let params = stored.keys().filter(|k| matches!(place(k), Some(Place::Param(_)))).count();
        if steps.saturating_mul(params.max(1)) > bytes.len() {
            return Err(format!(
                "it tells of {steps} steps of {params} tensors, and has {} bytes",
                bytes.len()
            )
            .into());
        }
        if steps > seen {
            let last = match seen.checked_sub(1) {
                None => "no step has a tensor".to_string(),
                Some(last) => format!("the last step with a tensor is {last}, the first being 0"),
            };
            return Err(format!("its metadata `steps` is {steps}, but {last}").into());
        }
        if ![1, steps].contains(&settings.len()) {
            let found = settings.len();
            return Err(format!(
                "its metadata `settings` is a list of {found} objects, but there are {steps} steps"
            )
            .into());
        }

        let mut this = Self {
            optimizer: metadata.get("optimizer").cloned(),
            settings,
            steps,
            lr: vec![None; steps],
            epsilon: 0.0,
            mixed: false,
            tensors: Vec::new(),
        };
        for (key, tensor) in &stored {
            if let Some(Place::Param(name)) = place(key) {
                this.mixed |= !this.tensors.is_empty() && this.epsilon != tensor.epsilon;
                this.epsilon = this.epsilon.max(tensor.epsilon);
                this.tensors.push(Tensor {
                    name: name.into(),
                    shape: tensor.shape.clone(),
                    epsilon: tensor.epsilon,
                    param: tensor.values.clone(),
                    grads: vec![None; steps],
                    expected: vec![None; steps],
                });
            }
        }
        if this.tensors.is_empty() {
            return Err("it has no tensor `param/<name>`".into());
        }
        for (key, tensor) in stored {
            this.put(&key, tensor)?;
        }
        Ok(this)
    }

    /// The settings of a step, without the learning rates that are tensors.
    pub(crate) fn settings(&self, t: usize) -> &Map<String, Json> {
        self.settings.get(t).unwrap_or(&self.settings[0])
    }

    /// Whether steps have settings of their own.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.settings.len() > 1 || self.lr.iter().any(Option::is_some)
    }

    /// Puts a tensor of the file where it belongs; parameters are there already.
    fn put(&mut self, key: &str, stored: Stored) -> Result<()> {
        let steps = self.steps;
        let (t, name, is_grad) = match place(key) {
            Some(Place::Param(_) | Place::State) => return Ok(()),
            Some(Place::Lr(t)) => {
                let [lr] = stored.values[..] else {
                    let shape = stored.shape;
                    return Err(format!("tensor `{key}` has shape {shape:?}, not one value").into());
                };
                *self.lr.get_mut(t).ok_or_else(|| late(key, steps))? = Some(lr);
                return Ok(());
            }
            Some(Place::Grad(t, name)) => (t, name, true),
            Some(Place::Expected(t, name)) => (t, name, false),
            None => {
                return Err(format!(
                    "tensor `{key}` is none of param/<name>, grad/<t>/<name>, \
                     expected/<t>/<name> and lr/<t>"
                )
                .into());
            }
        };
        let found = self.tensors.binary_search_by(|x| x.name.as_str().cmp(name));
        let tensor = match found {
            Ok(i) => &mut self.tensors[i],
            Err(_) => return Err(format!("tensor `{key}` has no `param/{name}`").into()),
        };
        if stored.shape != tensor.shape {
            return Err(format!(
                "tensor `{key}` has shape {:?}, but `param/{name}` has {:?}",
                stored.shape, tensor.shape
            )
            .into());
        }
        let list = if is_grad {
            &mut tensor.grads
        } else {
            tensor.epsilon = tensor.epsilon.max(stored.epsilon);
            &mut tensor.expected
        };
        let slot = list.get_mut(t).ok_or_else(|| late(key, steps))?;
        if slot.replace(stored.values).is_some() {
            return Err(format!("tensor `{key}`: step {t} of `{name}` is given twice").into());
        }
        Ok(())
    }
}

fn late(key: &str, steps: usize) -> String {
    format!("tensor `{key}` is of a step beyond the {steps} of the metadata")
}
