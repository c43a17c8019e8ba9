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

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;

use crate::error::{Error, Result};
use crate::json::{self, Reader, Writer};
use crate::snapshot::{GroupState, SlotState, Snapshot, TensorState, Values};
use crate::text::extents;

/// The entry of the metadata.
const KEY: &str = "gradstep";
const VERSION: u64 = 1;
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

/// What fails seldom and is passed on often: an error takes much room.
type Boxed<T> = std::result::Result<T, Box<Error>>;

/// What the metadata says.
#[derive(Default)]
struct Header {
    step: u64,
    groups: Vec<GroupState>,
    tensors: Vec<Tensor>,
    numbers: BTreeMap<String, f64>,
}

#[derive(Default)]
struct Tensor {
    name: String,
    group: usize,
    shape: Vec<usize>,
    param: bool,
    slots: Vec<String>,
}

/// A number, as JSON's or as the name of one that JSON does not have.
fn write_number(out: &mut Writer, x: f64) {
    match x {
        x if x.is_finite() => out.number(x),
        x if x.is_nan() => out.text(&format!("NaN({:#018x})", x.to_bits())),
        x if x > 0.0 => out.text("inf"),
        _ => out.text("-inf"),
    }
}

fn read_number(from: &mut Reader<'_>) -> json::Result<f64> {
    if from.peek() != b'"' {
        return from.number();
    }
    let text = from.text()?;
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
    number.map_or_else(|| from.fail(&format!("\"{text}\" is no number")), Ok)
}

fn write_numbers(out: &mut Writer, numbers: &BTreeMap<String, f64>) {
    out.object();
    for (name, &x) in numbers {
        write_number(out.key(name), x);
    }
    out.end_object();
}

fn read_numbers(from: &mut Reader<'_>) -> json::Result<BTreeMap<String, f64>> {
    let mut numbers = BTreeMap::new();
    from.object()?;
    while let Some(name) = from.key()? {
        if numbers.contains_key(&name) {
            return from.fail(&format!("`{name}` occurs twice"));
        }
        let number = read_number(from)?;
        numbers.insert(name, number);
    }
    Ok(numbers)
}

/// Reads an object with these fields, each once, in any order. With `others` there may be more, which
/// are passed.
fn fields(
    from: &mut Reader<'_>,
    names: &[&str],
    others: bool,
    read: &mut dyn FnMut(&mut Reader<'_>, usize) -> json::Result<()>,
) -> json::Result<()> {
    let mut seen = 0u32;
    from.object()?;
    while let Some(key) = from.key()? {
        match names.iter().position(|&name| name == key) {
            Some(i) if seen & 1 << i != 0 => return from.fail(&format!("duplicate field `{key}`")),
            Some(i) => {
                seen |= 1 << i;
                read(from, i)?;
            }
            None if others => from.skip()?,
            None => return from.fail(&format!("unknown field `{key}`")),
        }
    }
    match (0..names.len()).find(|i| seen & 1 << i == 0) {
        Some(i) => from.fail(&format!("missing field `{}`", names[i])),
        None => Ok(()),
    }
}

fn read_list(
    from: &mut Reader<'_>,
    read: &mut dyn FnMut(&mut Reader<'_>) -> json::Result<()>,
) -> json::Result<()> {
    from.list()?;
    while from.item()? {
        read(from)?;
    }
    Ok(())
}

fn read_group(from: &mut Reader<'_>) -> json::Result<GroupState> {
    let mut group = GroupState::default();
    fields(from, &["name", "optimizer", "hypers"], false, &mut |from, field| {
        match field {
            0 => group.name = from.text()?,
            1 => group.optimizer = from.text()?,
            _ => group.hypers = read_numbers(from)?,
        }
        Ok(())
    })?;
    Ok(group)
}

fn read_tensor(from: &mut Reader<'_>) -> json::Result<Tensor> {
    let mut tensor = Tensor::default();
    let names = ["name", "group", "shape", "param", "slots"];
    fields(from, &names, false, &mut |from, field| {
        match field {
            0 => tensor.name = from.text()?,
            1 => tensor.group = from.size()?,
            2 => tensor.shape = from.sizes()?,
            3 => tensor.param = from.flag()?,
            _ => read_list(from, &mut |from| {
                tensor.slots.push(from.text()?);
                Ok(())
            })?,
        }
        Ok(())
    })?;
    Ok(tensor)
}

/// The version alone, of any version.
fn parse_version(text: &str) -> json::Result<u64> {
    let (mut from, mut version) = (Reader::new(text), 0);
    fields(&mut from, &["version"], true, &mut |from, _| {
        version = from.whole()?;
        Ok(())
    })?;
    from.end()?;
    Ok(version)
}

fn parse_header(text: &str) -> json::Result<Header> {
    let (mut from, mut header) = (Reader::new(text), Header::default());
    let names = ["version", "step", "groups", "tensors", "numbers"];
    fields(&mut from, &names, false, &mut |from, field| {
        match field {
            0 => from.skip()?,
            1 => header.step = from.whole()?,
            2 => read_list(from, &mut |from| {
                header.groups.push(read_group(from)?);
                Ok(())
            })?,
            3 => read_list(from, &mut |from| {
                header.tensors.push(read_tensor(from)?);
                Ok(())
            })?,
            _ => header.numbers = read_numbers(from)?,
        }
        Ok(())
    })?;
    from.end()?;
    Ok(header)
}

/// The types of the format, and their bits.
const TYPES: [(&str, usize); 21] = [
    ("F32", 32),
    ("F64", 64),
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("C64", 64),
    ("I64", 64),
];

/// A tensor in the header of a safetensors file.
#[derive(Default)]
struct Info {
    /// Its place among [`TYPES`].
    kind: usize,
    shape: Vec<usize>,
    from: u64,
    upto: u64,
}

/// In the order of their names.
type Infos = Vec<(String, Info)>;

fn read_info(from: &mut Reader<'_>) -> json::Result<Info> {
    let mut info = Info::default();
    fields(from, &["dtype", "shape", "data_offsets"], true, &mut |from, field| {
        match field {
            0 => {
                let name = from.text()?;
                match TYPES.iter().position(|t| t.0 == name) {
                    Some(kind) => info.kind = kind,
                    None => return from.fail(&format!("unknown type `{name}`")),
                }
            }
            1 => info.shape = from.sizes()?,
            _ => {
                let mut offsets = Vec::with_capacity(2);
                read_list(from, &mut |from| {
                    if offsets.len() == 2 {
                        return from.fail("expected two offsets");
                    }
                    offsets.push(from.whole()?);
                    Ok(())
                })?;
                match offsets[..] {
                    [start, upto] => (info.from, info.upto) = (start, upto),
                    _ => return from.fail("expected two offsets"),
                }
            }
        }
        Ok(())
    })?;
    Ok(info)
}

/// The header of a safetensors file: our entry of its metadata, and the tensors in the order of their
/// names.
fn parse_outer(text: &str) -> json::Result<(Option<String>, Infos)> {
    let mut from = Reader::new(text);
    let (mut metadata, mut infos) = (None, Vec::new());
    from.object()?;
    while let Some(key) = from.key()? {
        if key == METADATA && metadata.is_some() {
            return from.fail(&format!("duplicate field `{key}`"));
        } else if key == METADATA {
            metadata = Some(read_metadata(&mut from)?);
        } else {
            let info = read_info(&mut from)?;
            infos.push((key, info));
        }
    }
    from.end()?;
    infos.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = infos.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return from.fail(&format!("`{}` occurs twice", pair[0].0));
    }
    Ok((metadata.flatten(), infos))
}

/// Our entry of the metadata.
fn read_metadata(from: &mut Reader<'_>) -> json::Result<Option<String>> {
    let (mut ours, mut names) = (None, Vec::new());
    from.object()?;
    while let Some(name) = from.key()? {
        let text = from.text()?;
        if name == KEY {
            ours = Some(text);
        }
        names.push(name);
    }
    match twice(names.iter().map(String::as_str)) {
        Some(name) => from.fail(&format!("`{name}` occurs twice")),
        None => Ok(ours),
    }
}

/// Where the values of tensors end, whose ranges are without gap or overlap, of as many bytes as
/// shapes and types say.
fn check_ranges(infos: &[(String, Info)]) -> Boxed<u64> {
    let mut ranges: Vec<_> = infos.iter().map(|(key, i)| (i.from, i.upto, key, i)).collect();
    ranges.sort_unstable_by_key(|&(from, upto, ..)| (from, upto));
    let mut end = 0;
    for (from, upto, key, info) in ranges {
        if from != end || upto < from {
            return Err(broken(&format!("the values of `{key}` are not where the last ones end")));
        }
        let bits = elements(&info.shape).and_then(|n| n.checked_mul(TYPES[info.kind].1));
        let bytes = bits.filter(|bits| bits % 8 == 0).map(|bits| bits as u64 / 8);
        if bytes != Some(upto - from) {
            let (n, shape, name) = (upto - from, &info.shape, TYPES[info.kind].0);
            let shape = extents(shape);
            let problem = format!("`{key}` has {n} bytes for shape {shape} of {name}");
            return Err(broken(&problem));
        }
        end = upto;
    }
    Ok(end)
}

fn error(problem: String, remedy: &'static str) -> Box<Error> {
    let problem = match problem.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &problem[..end]),
        None => problem,
    };
    Box::new(Error::Checkpoint { problem, remedy })
}

fn fail<T>(problem: String, remedy: &'static str) -> Boxed<T> {
    Err(error(problem, remedy))
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
    let file = Encoded::new(snapshot).map_err(|e| *e)?;
    let mut bytes = Vec::with_capacity(file.len());
    let put = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok::<_, Infallible>(())
    };
    match file.write(put) {
        Ok(()) => Ok(bytes),
    }
}

fn write_sizes(out: &mut Writer, sizes: &[usize]) {
    out.wholes(sizes.iter().map(|&n| n as u64));
}

/// The entry of the metadata.
fn write_header(snapshot: &Snapshot) -> String {
    let mut out = Writer::default();
    out.object();
    out.key("version").whole(VERSION);
    out.key("step").whole(snapshot.step);
    out.key("groups").list();
    for group in &snapshot.groups {
        out.object();
        out.key("name").text(&group.name);
        out.key("optimizer").text(&group.optimizer);
        write_numbers(out.key("hypers"), &group.hypers);
        out.end_object();
    }
    out.end_list();
    out.key("tensors").list();
    for tensor in &snapshot.tensors {
        out.object();
        out.key("name").text(&tensor.name);
        out.key("group").whole(tensor.group as u64);
        write_sizes(out.key("shape"), &tensor.shape);
        out.key("param").flag(tensor.param.is_some());
        out.key("slots").list();
        tensor.slots.iter().for_each(|s| out.text(&s.name));
        out.end_list();
        out.end_object();
    }
    out.end_list();
    write_numbers(out.key("numbers"), &snapshot.numbers);
    out.end_object();
    out.finish()
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
    fn new(snapshot: &'a Snapshot) -> Boxed<Self> {
        let mut stored = Vec::new();
        for tensor in &snapshot.tensors {
            let TensorState { name, group, shape, param, slots } = tensor;
            if *group >= snapshot.groups.len() {
                let n = snapshot.groups.len();
                return fail(format!("tensor `{name}` is in group {group} of {n}"), MADE);
            }
            if elements(shape).is_none() {
                return countless(name, shape, MADE);
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
                        format!("`{key}` has shape {} and {} values", extents(shape), values.len()),
                        MADE,
                    );
                }
                stored.push((key, shape, values));
            }
        }
        stored.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = stored.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return fail(format!("`{}` occurs twice", pair[0].0), MADE);
        }
        if let Some(name) = twice(snapshot.tensors.iter().map(|t| t.name.as_str())) {
            return fail(format!("tensor `{name}` occurs twice"), MADE);
        }
        let mut values = Vec::new();
        let mut data_len = 0;
        let mut out = Writer::default();
        out.object();
        // One entry, so that equal snapshots make equal bytes.
        out.key(METADATA).object();
        out.key(KEY).text(&write_header(snapshot));
        out.end_object();
        let single = |of: &Values| matches!(of, Values::F32(_));
        let (first, second) = (stored.iter().filter(|s| !single(s.2)), stored.iter());
        for (key, shape, of) in first.chain(second.filter(|s| single(s.2))) {
            let (kind, bytes) = match of {
                Values::F32(x) => ("F32", size_of_val(&x[..])),
                Values::F64(x) => ("F64", size_of_val(&x[..])),
            };
            let from = data_len;
            data_len += bytes;
            out.key(key).object();
            out.key("dtype").text(kind);
            write_sizes(out.key("shape"), shape);
            write_sizes(out.key("data_offsets"), &[from, data_len]);
            out.end_object();
            values.push(*of);
        }
        out.end_object();
        let mut json = out.finish().into_bytes();
        // Values begin at a multiple of eight bytes.
        json.resize(json.len().next_multiple_of(8), b' ');
        let len = json.len() as u64;
        if len > LONGEST_HEADER {
            return fail(
                format!("its header has {len} bytes, and readers take at most {LONGEST_HEADER}"),
                "save fewer tensors in one file",
            );
        }
        let mut header = len.to_le_bytes().to_vec();
        header.extend_from_slice(&json);
        Ok(Self { header, values, data_len })
    }

    fn len(&self) -> usize {
        self.header.len() + self.data_len
    }

    /// Gives all bytes to `put`, part after part.
    fn write<E>(&self, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        put(&self.header)?;
        let mut buffer = Vec::with_capacity(CHUNK);
        for values in &self.values {
            match values {
                Values::F32(x) => write_values(&mut put, &mut buffer, x, f32::to_le_bytes)?,
                Values::F64(x) => write_values(&mut put, &mut buffer, x, f64::to_le_bytes)?,
            }
        }
        Ok(())
    }
}

fn write_values<T: Copy, E, const N: usize>(
    put: &mut impl FnMut(&[u8]) -> Result<(), E>,
    buffer: &mut Vec<u8>,
    numbers: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> Result<(), E> {
    for chunk in numbers.chunks(CHUNK / N) {
        buffer.clear();
        for &x in chunk {
            buffer.extend_from_slice(&bytes(x));
        }
        put(buffer)?;
    }
    Ok(())
}

/// Where a file is read from.
trait Source {
    /// The next bytes, or why they are not there.
    fn fill(&mut self, to: &mut [u8]) -> Result<(), String>;
}

impl Source for &[u8] {
    fn fill(&mut self, to: &mut [u8]) -> Result<(), String> {
        let Some((first, rest)) = self.split_at_checked(to.len()) else {
            return Err("it ends too early".into());
        };
        to.copy_from_slice(first);
        *self = rest;
        Ok(())
    }
}

fn read_values<T, const N: usize>(
    input: &mut impl Source,
    buffer: &mut [u8],
    count: usize,
    number: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, String> {
    let mut numbers = Vec::new();
    // A file may be larger than memory: that is an error, and no abort.
    numbers.try_reserve_exact(count).map_err(|e| e.to_string())?;
    while numbers.len() < count {
        let bytes = N * (count - numbers.len()).min(buffer.len() / N);
        let bytes = &mut buffer[..bytes];
        input.fill(bytes)?;
        numbers.extend(bytes.as_chunks().0.iter().map(|&b| number(b)));
    }
    Ok(numbers)
}

fn twice<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Reads the file of a snapshot.
///
/// # Errors
/// [`Error::Checkpoint`] that says what is wrong with it.
pub fn from_bytes(bytes: &[u8]) -> Result<Snapshot> {
    let mut input = bytes;
    read(&mut input, bytes.len() as u64).map_err(|e| *e)
}

fn broken(reason: &dyn fmt::Display) -> Box<Error> {
    error(format!("it is no valid safetensors file ({reason})"), BROKEN)
}

fn read(input: &mut impl Source, len: u64) -> Boxed<Snapshot> {
    let (text, mut infos, data_len) = read_outer(input, len)?;
    let told = check_ranges(&infos)?;
    if told != data_len {
        return Err(broken(&format!("its header tells of {told} bytes, and {data_len} follow")));
    }

    let Some(text) = text else {
        return fail(
            format!("its metadata has no entry `{KEY}`"),
            "use a file that `checkpoint::save` wrote; for state of PyTorch there is `import`",
        );
    };
    let header = read_header(&text)?;
    drop(text);

    // All places are found before a value is read: nothing is read in vain.
    let count = infos.len();
    let mut places = Vec::with_capacity(count);
    let mut place = |key: String| -> Boxed<Vec<usize>> {
        let found = infos.binary_search_by(|i| i.0.cmp(&key));
        let Some(info) = found.ok().map(|i| &mut infos[i].1) else {
            return fail(format!("`{key}` is missing"), BROKEN);
        };
        let (name, _) = TYPES[info.kind];
        if !matches!(name, "F32" | "F64") {
            return fail(format!("`{key}` is of {name}, and F32 or F64 is expected"), BROKEN);
        }
        places.push((info.from, info.upto, places.len(), info.kind));
        Ok(std::mem::take(&mut info.shape))
    };
    let mut tensors = Vec::with_capacity(header.tensors.len());
    let empty = || Values::F32(Vec::new());
    for Tensor { name, group, shape, param, slots } in header.tensors {
        if param {
            let key = param_key(&name);
            let found = place(key.clone())?;
            if found != shape {
                let (found, shape) = (extents(&found), extents(&shape));
                let problem = format!("`{key}` has shape {found}, and its tensor {shape}");
                return fail(problem, BROKEN);
            }
        }
        let slot = |slot: String| {
            let shape = place(slot_key(&name, &slot))?;
            Ok(SlotState { name: slot, shape, values: empty() })
        };
        let slots = slots.into_iter().map(slot).collect::<Boxed<_>>()?;
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
    for (from, upto, place, kind) in places {
        // What does not fit into memory is not there, which is found out below.
        let count = usize::try_from(upto - from).unwrap_or(usize::MAX);
        let read = match kind {
            0 => read_values(input, &mut buffer, count / 4, f32::from_le_bytes).map(Values::F32),
            _ => read_values(input, &mut buffer, count / 8, f64::from_le_bytes).map(Values::F64),
        };
        values[place] = Some(read.map_err(|e| broken(&e))?);
    }
    let mut values = values.into_iter().flatten();
    for TensorState { param, slots, .. } in &mut tensors {
        let places = param.iter_mut().chain(slots.iter_mut().map(|s| &mut s.values));
        places.zip(&mut values).for_each(|(place, values)| *place = values);
    }
    Ok(Snapshot { step: header.step, groups: header.groups, tensors, numbers: header.numbers })
}

/// Our entry of the metadata, tensors, and how many bytes of values follow.
fn read_outer(input: &mut impl Source, len: u64) -> Boxed<(Option<String>, Infos, u64)> {
    let Some(rest) = len.checked_sub(PREFIX) else {
        let problem = format!("{len} bytes, where the length of its header takes {PREFIX}");
        return Err(broken(&problem));
    };
    let mut prefix = 0u64.to_le_bytes();
    input.fill(&mut prefix).map_err(|e| broken(&e))?;
    let header_len = u64::from_le_bytes(prefix);
    let Some(data_len) = rest.checked_sub(header_len) else {
        return Err(broken(&format!("a header of {header_len} bytes, where {rest} follow")));
    };
    if header_len > LONGEST_HEADER {
        let problem =
            format!("a header of {header_len} bytes, and at most {LONGEST_HEADER} are read");
        return Err(broken(&problem));
    }
    // No more than the file has.
    let mut json = vec![0; usize::try_from(header_len).unwrap_or(0)];
    input.fill(&mut json).map_err(|e| broken(&e))?;
    let text = str::from_utf8(&json).map_err(|e| broken(&e))?;
    let (metadata, tensors) = parse_outer(text).map_err(|e| broken(&e))?;
    Ok((metadata, tensors, data_len))
}

/// What the metadata says, itself without contradiction.
fn read_header(text: &str) -> Boxed<Header> {
    let unread = |e: String| error(format!("its metadata cannot be read ({e})"), BROKEN);
    let version = parse_version(text).map_err(unread)?;
    if version != VERSION {
        return fail(
            format!("it has version {version}, and this library reads version {VERSION}"),
            "read it with the version of gradstep that wrote it",
        );
    }
    let header = parse_header(text).map_err(unread)?;
    if let Some(name) = twice(header.tensors.iter().map(|t| t.name.as_str())) {
        return fail(format!("tensor `{name}` occurs twice"), BROKEN);
    }
    for Tensor { name, group, shape, slots, .. } in &header.tensors {
        if *group >= header.groups.len() {
            let n = header.groups.len();
            return fail(format!("tensor `{name}` is in group {group} of {n}"), BROKEN);
        }
        if elements(shape).is_none() {
            return countless(name, shape, BROKEN);
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

fn countless<T>(name: &str, shape: &[usize], remedy: &'static str) -> Boxed<T> {
    let shape = extents(shape);
    let problem =
        format!("tensor `{name}` has shape {shape}, with more elements than can be counted");
    fail(problem, remedy)
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

#[cfg(not(target_family = "wasm"))]
pub use self::files::{load, save};

#[cfg(not(target_family = "wasm"))]
mod files {
    use std::fs::{self, File};
    use std::io::{self, ErrorKind, Read, Write};
    use std::path::Path;

    use super::{Encoded, Error, Result, Snapshot, Source, error, read};
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
        let file = Encoded::new(snapshot).map_err(|e| at(path, *e))?;
        debug!("saving step {}, {} bytes, to {}", snapshot.step, file.len(), path.display());
        replace(path, |out| file.write(|part| out.write_all(part))).map_err(|e| {
            *error(
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
            *error(
                format!("{} cannot be read ({e})", path.display()),
                "give the path of a file that `save` wrote",
            )
        })?;
        debug!("loading {len} bytes from {}", path.display());
        read(&mut file, len).map_err(|e| at(path, *e))
    }

    impl Source for File {
        fn fill(&mut self, to: &mut [u8]) -> Result<(), String> {
            self.read_exact(to).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => "it ends too early".into(),
                _ => e.to_string(),
            })
        }
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
