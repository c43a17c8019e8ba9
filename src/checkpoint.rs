//! A [`Snapshot`] as a file, in the [safetensors](https://github.com/huggingface/safetensors) format.
//!
//! ```
//! use gradstep::{Cpu, Group, Setup, checkpoint, optim::Came};
//!
//! let setup = Setup::new().tensor("w", [2, 2]).group(Group::new("all", Came::new(0.1)));
//! let mut optimizer = setup.cpu::<f32>(&Cpu::default())?;
//! let mut w = vec![1.0; 4];
//! let mut step = optimizer.begin();
//! step.tensor("w", &mut w, &[0.5; 4])?;
//! step.finish()?;
//!
//! let mut snapshot = optimizer.snapshot()?;
//! snapshot.set_param("w", w)?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("run.safetensors");
//! checkpoint::save(&snapshot, &path)?;
//!
//! let mut other = setup.cpu::<f32>(&Cpu::default())?;
//! other.restore(&checkpoint::load(&path)?)?;
//! assert_eq!(other.steps(), 1);
//! # Ok::<(), gradstep::Error>(())
//! ```
//!
//! # The file
//!
//! | tensor | meaning |
//! |---|---|
//! | `param/<name>` | the parameter, where the snapshot has it |
//! | `state/<name>/<slot>` | a slot, with the extent that [`slot_shape`](crate::snapshot::slot_shape) tells |
//!
//! All are `F32` or `F64`. The metadata has one entry, `gradstep`, a JSON object: `version` (1),
//! `step`, `groups` (each with `name`, `optimizer`, `hypers`), `tensors` (each with `name`, the index
//! of its `group`, `shape`, whether it has a `param`, and its `slots` in order) and `numbers` (loss
//! scale and the like). Numbers that JSON does not have are the strings `inf`, `-inf` and
//! `NaN(0x7ff8000000000000)` with its bits. Values of `F64` come first, so that each begins at a
//! multiple of its size. Other entries of the metadata are ignored.
//!
//! Equal snapshots make equal bytes, and what is read is what was written, bit for bit.
//!
//! # Safety of files
//!
//! [`save`] writes a temporary file beside the target, brings it to the disk, and puts it in the
//! target's place in one move: whatever happens meanwhile, the old file or the new one is there,
//! whole. A process that is killed may leave `.gradstep-….tmp` behind, which may be deleted.
//!
//! Reading checks everything: a file that is truncated, corrupt or made to harm is an error. Nothing
//! is allocated for a claim that was not compared with the file's length; all together, reading
//! takes the values and a small multiple of the header. Writing takes the header.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::snapshot::{GroupState, SlotState, Snapshot, TensorState, Values};

/// The entry of the metadata.
const KEY: &str = "gradstep";
const VERSION: u32 = 1;
/// Where safetensors keeps metadata.
const METADATA: &str = "__metadata__";
/// Bytes that give the length of the header.
const PREFIX: u64 = 8;
/// The longest header that safetensors' own readers take.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 16;
/// Names may be as long as the file; in a message they are not.
const LONGEST_MESSAGE: usize = 600;

/// What the metadata says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    step: u64,
    groups: Vec<Group>,
    tensors: Vec<Tensor>,
    numbers: Object<Number>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    optimizer: String,
    hypers: Object<Number>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    name: String,
    group: usize,
    shape: Vec<usize>,
    param: bool,
    slots: Vec<String>,
}

/// The version alone, of any version.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A number, as JSON's or as the name of one that JSON does not have.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            x if x.is_finite() => to.serialize_f64(x),
            x if x.is_nan() => to.collect_str(&format_args!("NaN({:#018x})", x.to_bits())),
            x if x > 0.0 => to.serialize_str("inf"),
            _ => to.serialize_str("-inf"),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<'a> {
            Number(f64),
            #[serde(borrow)]
            Text(std::borrow::Cow<'a, str>),
        }
        let text = match Either::deserialize(from)? {
            Either::Number(x) => return Ok(Self(x)),
            Either::Text(text) => text,
        };
        let number = match &*text {
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            other => other
                .strip_prefix("NaN(0x")
                .and_then(|bits| u64::from_str_radix(bits.strip_suffix(')')?, 16).ok())
                .map(f64::from_bits)
                .filter(|x| x.is_nan()),
        };
        number.map(Self).ok_or_else(|| de::Error::custom(format!("{text:?} is no number")))
    }
}

fn numbers(from: &BTreeMap<String, f64>) -> Object<Number> {
    Object(from.iter().map(|(name, &x)| (name.clone(), Number(x))).collect())
}

fn plain(from: Object<Number>) -> BTreeMap<String, f64> {
    from.0.into_iter().map(|(name, x)| (name, x.0)).collect()
}

/// A JSON object: all keys are different.
#[derive(Serialize)]
#[serde(transparent)]
struct Object<V>(BTreeMap<String, V>);

impl<V> Object<V> {
    fn insert<E: de::Error>(&mut self, key: String, value: V) -> Result<(), E> {
        use std::collections::btree_map::Entry;
        match self.0.entry(key) {
            Entry::Vacant(place) => {
                place.insert(value);
                Ok(())
            }
            Entry::Occupied(place) => Err(E::custom(format!("`{}` occurs twice", place.key()))),
        }
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Object<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Of<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Of<V> {
            type Value = Object<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<V>, A::Error> {
                let mut object = Object(BTreeMap::new());
                while let Some((key, value)) = map.next_entry()? {
                    object.insert(key, value)?;
                }
                Ok(object)
            }
        }

        from.deserialize_map(Of(PhantomData))
    }
}

/// The header of a safetensors file.
///
/// It is read here and then checked by safetensors' [`Metadata`]. That crate's own reader takes one
/// key twice, copies every token into a tree more than 20 times its size before it looks at it, and
/// overflows where ranges end at the last address.
struct Outer {
    metadata: Object<String>,
    tensors: Object<TensorInfo>,
}

impl<'de> Deserialize<'de> for Outer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Of;

        impl<'de> Visitor<'de> for Of {
            type Value = Outer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the header of a safetensors file")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outer, A::Error> {
                let (mut metadata, mut tensors) = (None, Object(BTreeMap::new()));
                while let Some(key) = map.next_key::<String>()? {
                    if key != METADATA {
                        tensors.insert(key, map.next_value()?)?;
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(de::Error::duplicate_field(METADATA));
                    }
                }
                let metadata = metadata.unwrap_or(Object(BTreeMap::new()));
                Ok(Outer { metadata, tensors })
            }
        }

        from.deserialize_map(Of)
    }
}

fn error(problem: String, remedy: &'static str) -> Error {
    let problem = match problem.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &problem[..end]),
        None => problem,
    };
    Error::Checkpoint { problem, remedy }
}

fn fail<T>(problem: impl Into<String>, remedy: &'static str) -> Result<T> {
    Err(error(problem.into(), remedy))
}

const MADE: &str = "make the snapshot with `snapshot`, or correct it";
const BROKEN: &str = "use another copy: this one is damaged, or was not written by gradstep";

fn param_key(tensor: &str) -> String {
    format!("param/{tensor}")
}

/// A slot's name has no slash, so that the last one ends the tensor's name.
fn slot_key(tensor: &str, slot: &str) -> String {
    format!("state/{tensor}/{slot}")
}

/// The file of a snapshot.
///
/// # Errors
/// [`Error::Checkpoint`] for a snapshot that contradicts itself: two tensors of one name, values that
/// do not fill a shape, a slot with a slash in its name, a group that does not exist.
pub fn to_bytes(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let file = Encoded::new(snapshot)?;
    let mut bytes = Vec::with_capacity(file.len());
    file.write(&mut bytes).map_err(|e| cannot(&e))?;
    Ok(bytes)
}

fn cannot(reason: &dyn fmt::Display) -> Error {
    error(format!("it cannot be written ({reason})"), MADE)
}

/// A snapshot as it goes into a file.
struct Encoded<'a> {
    /// With its length before it.
    header: Vec<u8>,
    /// In the order of the file.
    values: Vec<&'a Values>,
    /// Their bytes.
    data_len: usize,
}

impl<'a> Encoded<'a> {
    fn new(snapshot: &'a Snapshot) -> Result<Self> {
        let mut stored = BTreeMap::new();
        let mut tensors = Vec::new();
        for tensor in &snapshot.tensors {
            let TensorState { name, group, shape, param, slots } = tensor;
            if *group >= snapshot.groups.len() {
                let n = snapshot.groups.len();
                return fail(format!("tensor `{name}` is in group {group} of {n}"), MADE);
            }
            if elements(shape).is_none() {
                return fail(format!("tensor `{name}` has shape {shape:?}, {COUNTLESS}"), MADE);
            }
            if let Some(slot) = slots.iter().find(|s| s.name.contains('/')) {
                return fail(
                    format!("slot `{}` of `{name}` has a slash in its name", slot.name),
                    MADE,
                );
            }
            let param = param.iter().map(|values| (param_key(name), shape, values));
            let slots = slots.iter().map(|s| (slot_key(name, &s.name), &s.shape, &s.values));
            for (key, shape, values) in param.chain(slots) {
                if elements(shape) != Some(values.len()) {
                    return fail(
                        format!("`{key}` has shape {shape:?} and {} values", values.len()),
                        MADE,
                    );
                }
                if stored.insert(key.clone(), (shape, values)).is_some() {
                    return fail(format!("`{key}` occurs twice"), MADE);
                }
            }
            tensors.push(Tensor {
                name: name.clone(),
                group: *group,
                shape: shape.clone(),
                param: tensor.param.is_some(),
                slots: tensor.slots.iter().map(|s| s.name.clone()).collect(),
            });
        }
        if let Some(name) = twice(tensors.iter().map(|t| t.name.as_str())) {
            return fail(format!("tensor `{name}` occurs twice"), MADE);
        }
        let groups = snapshot.groups.iter().map(|g| Group {
            name: g.name.clone(),
            optimizer: g.optimizer.clone(),
            hypers: numbers(&g.hypers),
        });
        let header = Header {
            version: VERSION,
            step: snapshot.step,
            groups: groups.collect(),
            tensors,
            numbers: numbers(&snapshot.numbers),
        };
        let header = serde_json::to_string(&header).map_err(|e| cannot(&e))?;
        // One entry: a map of several has no order, and equal snapshots are to make equal bytes.
        let metadata = HashMap::from([(KEY.to_string(), header)]);

        let mut stored: Vec<_> = stored.into_iter().collect();
        stored.sort_by_key(|(_, (_, values))| matches!(values, Values::F32(_)));
        let (mut infos, mut values) = (Vec::new(), Vec::new());
        let mut data_len = 0;
        for (key, (shape, of)) in stored {
            let (dtype, bytes) = match of {
                Values::F32(x) => (Dtype::F32, size_of_val(&x[..])),
                Values::F64(x) => (Dtype::F64, size_of_val(&x[..])),
            };
            let data_offsets = (data_len, data_len + bytes);
            data_len += bytes;
            infos.push((key, TensorInfo { dtype, shape: shape.clone(), data_offsets }));
            values.push(of);
        }
        let outer = Metadata::new(Some(metadata), infos).map_err(|e| cannot(&e))?;
        let mut json = serde_json::to_vec(&outer).map_err(|e| cannot(&e))?;
        // Values begin at a multiple of eight bytes.
        json.resize(json.len().next_multiple_of(8), b' ');
        let len = json.len() as u64;
        if len > LONGEST_HEADER {
            return fail(
                format!("its header has {len} bytes, and readers take at most {LONGEST_HEADER}"),
                "save fewer tensors in one file",
            );
        }
        let header = [&len.to_le_bytes()[..], &json].concat();
        Ok(Self { header, values, data_len })
    }

    fn len(&self) -> usize {
        self.header.len() + self.data_len
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        let mut buffer = Vec::with_capacity(CHUNK);
        for values in &self.values {
            match values {
                Values::F32(x) => write_numbers(out, &mut buffer, x, f32::to_le_bytes)?,
                Values::F64(x) => write_numbers(out, &mut buffer, x, f64::to_le_bytes)?,
            }
        }
        Ok(())
    }
}

fn write_numbers<T: Copy, const N: usize>(
    out: &mut impl Write,
    buffer: &mut Vec<u8>,
    numbers: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    for chunk in numbers.chunks(CHUNK / N) {
        buffer.clear();
        for &x in chunk {
            buffer.extend_from_slice(&bytes(x));
        }
        out.write_all(buffer)?;
    }
    Ok(())
}

fn read_numbers<T, const N: usize>(
    input: &mut impl Read,
    buffer: &mut [u8],
    count: usize,
    number: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let mut numbers = Vec::new();
    // A file may be larger than memory: that is an error, and no abort.
    numbers.try_reserve_exact(count)?;
    while numbers.len() < count {
        let bytes = N * (count - numbers.len()).min(buffer.len() / N);
        let bytes = &mut buffer[..bytes];
        input.read_exact(bytes)?;
        numbers.extend(bytes.as_chunks().0.iter().map(|&b| number(b)));
    }
    Ok(numbers)
}

fn twice<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|&name| !seen.insert(name))
}

/// Reads the file of a snapshot.
///
/// # Errors
/// [`Error::Checkpoint`] that says what is wrong with it.
pub fn from_bytes(bytes: &[u8]) -> Result<Snapshot> {
    let mut input = bytes;
    read(&mut input, bytes.len() as u64)
}

fn broken(reason: &dyn fmt::Display) -> Error {
    error(format!("it is no valid safetensors file ({reason})"), BROKEN)
}

fn read(input: &mut impl Read, len: u64) -> Result<Snapshot> {
    let (mut metadata, mut infos, data_len) = read_outer(input, len)?;
    let mut ranges: Vec<_> = infos.0.iter().map(|(k, info)| (k.clone(), info.clone())).collect();
    ranges.sort_by_key(|(_, info)| info.data_offsets);
    // Ranges without gap or overlap, of as many bytes as shapes and types say.
    let checked = Metadata::new(None, ranges).map_err(|e| broken(&e))?;
    if checked.data_len() as u64 != data_len {
        let told = checked.data_len();
        return Err(broken(&format!("its header tells of {told} bytes, and {data_len} follow")));
    }
    drop(checked);

    let Some(text) = metadata.0.remove(KEY) else {
        return fail(
            format!("its metadata has no entry `{KEY}`"),
            "use a file that `checkpoint::save` wrote; for state of PyTorch there is `import`",
        );
    };
    let header = read_header(&text)?;
    drop((text, metadata));

    // All places are found before a value is read: nothing is read in vain.
    let count = infos.0.len();
    let mut places = Vec::with_capacity(count);
    let mut place = |key: String| -> Result<Vec<usize>> {
        let Some(info) = infos.0.remove(&key) else {
            return fail(format!("`{key}` is missing"), BROKEN);
        };
        if !matches!(info.dtype, Dtype::F32 | Dtype::F64) {
            let problem = format!("`{key}` is of {}, and F32 or F64 is expected", info.dtype);
            return fail(problem, BROKEN);
        }
        let (start, end) = info.data_offsets;
        places.push(((start, end), info.dtype, places.len()));
        Ok(info.shape)
    };
    let mut tensors = Vec::with_capacity(header.tensors.len());
    let empty = || Values::F32(Vec::new());
    for Tensor { name, group, shape, param, slots } in header.tensors {
        if param {
            let key = param_key(&name);
            let found = place(key.clone())?;
            if found != shape {
                let problem = format!("`{key}` has shape {found:?}, and its tensor {shape:?}");
                return fail(problem, BROKEN);
            }
        }
        let slot = |slot: String| {
            let shape = place(slot_key(&name, &slot))?;
            Ok(SlotState { name: slot, shape, values: empty() })
        };
        let slots = slots.into_iter().map(slot).collect::<Result<_>>()?;
        tensors.push(TensorState { name, group, shape, param: param.then(empty), slots });
    }
    if places.len() != count {
        let told = places.len();
        return fail(format!("it has {count} tensors, and its metadata tells of {told}"), BROKEN);
    }

    // Read in the order of the file, filled in that of the places.
    places.sort_unstable();
    let mut values: Vec<_> = (0..count).map(|_| None).collect();
    let mut buffer = vec![0; CHUNK];
    for ((start, end), dtype, place) in places {
        let read = match dtype {
            Dtype::F32 => read_numbers(input, &mut buffer, (end - start) / 4, f32::from_le_bytes)
                .map(Values::F32),
            _ => read_numbers(input, &mut buffer, (end - start) / 8, f64::from_le_bytes)
                .map(Values::F64),
        };
        values[place] = Some(read.map_err(|e| broken(&e))?);
    }
    let mut values = values.into_iter().flatten();
    for TensorState { param, slots, .. } in &mut tensors {
        let places = param.iter_mut().chain(slots.iter_mut().map(|s| &mut s.values));
        places.zip(&mut values).for_each(|(place, values)| *place = values);
    }
    let groups = header.groups.into_iter().map(|g| GroupState {
        name: g.name,
        optimizer: g.optimizer,
        hypers: plain(g.hypers),
    });
    Ok(Snapshot {
        step: header.step,
        groups: groups.collect(),
        tensors,
        numbers: plain(header.numbers),
    })
}

/// Metadata, tensors, and how many bytes of values follow.
fn read_outer(
    input: &mut impl Read,
    len: u64,
) -> Result<(Object<String>, Object<TensorInfo>, u64)> {
    let Some(rest) = len.checked_sub(PREFIX) else {
        let problem = format!("{len} bytes, where the length of its header takes {PREFIX}");
        return Err(broken(&problem));
    };
    let mut prefix = 0u64.to_le_bytes();
    input.read_exact(&mut prefix).map_err(|e| broken(&e))?;
    let header_len = u64::from_le_bytes(prefix);
    let Some(data_len) = rest.checked_sub(header_len) else {
        return Err(broken(&format!("a header of {header_len} bytes, where {rest} follow")));
    };
    if header_len > LONGEST_HEADER {
        let problem =
            format!("a header of {header_len} bytes, and at most {LONGEST_HEADER} are read");
        return Err(broken(&problem));
    }
    let mut json = Vec::new();
    input.by_ref().take(header_len).read_to_end(&mut json).map_err(|e| broken(&e))?;
    if json.len() as u64 != header_len {
        let found = json.len();
        return Err(broken(&format!("a header of {header_len} bytes, of which {found} are there")));
    }
    let Outer { metadata, tensors } = serde_json::from_slice(&json).map_err(|e| broken(&e))?;
    Ok((metadata, tensors, data_len))
}

/// What the metadata says, itself without contradiction.
fn read_header(text: &str) -> Result<Header> {
    let unread = |e: serde_json::Error| error(format!("its metadata cannot be read ({e})"), BROKEN);
    let Version { version } = serde_json::from_str(text).map_err(unread)?;
    if version != VERSION {
        return fail(
            format!("it has version {version}, and this library reads version {VERSION}"),
            "read it with the version of gradstep that wrote it",
        );
    }
    let header: Header = serde_json::from_str(text).map_err(unread)?;
    if let Some(name) = twice(header.tensors.iter().map(|t| t.name.as_str())) {
        return fail(format!("tensor `{name}` occurs twice"), BROKEN);
    }
    for Tensor { name, group, shape, slots, .. } in &header.tensors {
        if *group >= header.groups.len() {
            let n = header.groups.len();
            return fail(format!("tensor `{name}` is in group {group} of {n}"), BROKEN);
        }
        if elements(shape).is_none() {
            return fail(format!("tensor `{name}` has shape {shape:?}, {COUNTLESS}"), BROKEN);
        }
        if let Some(slot) = slots.iter().find(|s| s.contains('/')) {
            return fail(format!("slot `{slot}` of `{name}` has a slash in its name"), BROKEN);
        }
        if let Some(slot) = twice(slots.iter().map(String::as_str)) {
            return fail(format!("slot `{slot}` of `{name}` occurs twice"), BROKEN);
        }
    }
    Ok(header)
}

const COUNTLESS: &str = "with more elements than can be counted";

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

#[cfg(not(target_family = "wasm"))]
pub use self::files::{load, save};

#[cfg(not(target_family = "wasm"))]
mod files {
    use std::fs::{self, File};
    use std::io;
    #[cfg(unix)]
    use std::io::ErrorKind;
    use std::path::Path;

    use super::{Encoded, Error, Result, Snapshot, error, read};
    use crate::logging::debug;

    /// Writes the file of a snapshot, or leaves what was there before: see
    /// [safety of files](super#safety-of-files). Its permissions are those of any new file; a
    /// symbolic link at the path is replaced.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the path and what the system says, or as for
    /// [`to_bytes`](super::to_bytes).
    pub fn save(snapshot: &Snapshot, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = Encoded::new(snapshot).map_err(|e| at(path, e))?;
        debug!("saving step {}, {} bytes, to {}", snapshot.step, file.len(), path.display());
        replace(path, |out| file.write(out)).map_err(|e| {
            error(
                format!("{} cannot be written ({e})", path.display()),
                "choose a place that can be written; the file there is the old one or the new one, whole",
            )
        })
    }

    /// Puts what `write` writes in the place of `path`.
    fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".gradstep-").suffix(".tmp");
        // As any other file that a program makes, not readable by its owner alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        // Opened before the move, so that nearly every error leaves the old file.
        #[cfg(unix)]
        let opened = File::open(folder)?;
        // It is removed when it is dropped, on any way out of here but the last.
        let mut file = builder.tempfile_in(folder)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // The move itself is on the disk when its folder is; some file systems know no such thing.
        #[cfg(unix)]
        match opened.sync_all() {
            Err(e) if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                return Err(e);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads the file of a snapshot.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the path and what is wrong.
    pub fn load(path: impl AsRef<Path>) -> Result<Snapshot> {
        let path = path.as_ref();
        let (mut file, len) = open(path).map_err(|e| {
            error(
                format!("{} cannot be read ({e})", path.display()),
                "give the path of a file that `save` wrote",
            )
        })?;
        debug!("loading {len} bytes from {}", path.display());
        read(&mut file, len).map_err(|e| at(path, e))
    }

    fn open(path: &Path) -> io::Result<(File, u64)> {
        // Asked before it is opened: to open a pipe may wait for ever, and a device has no end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    }

    fn at(path: &Path, e: Error) -> Error {
        match e {
            Error::Checkpoint { problem, remedy } => {
                Error::Checkpoint { problem: format!("{}: {problem}", path.display()), remedy }
            }
            other => other,
        }
    }
}
