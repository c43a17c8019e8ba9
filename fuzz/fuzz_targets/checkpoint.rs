//! Any bytes as a checkpoint: reading never panics, what was read is written and read again as the
//! same, and an optimizer takes it and goes on, or refuses it and is as before.
//!
//! Most inputs are not bytes but changes: of the header of a valid file, whose length is put right
//! again, of the JSON text within its metadata, or of single bytes of the file of a random snapshot.
//! They get past the first checks, and there is no need of a corpus.
//!
//! `cargo +nightly fuzz run checkpoint`

#![no_main]

use gradstep::optim::AdamW;
use gradstep::snapshot::{GroupState, SlotState, TensorState, Values};
use gradstep::{
    Average, Cpu, CpuOptimizer, Gradients, Group, LossScale, Setup, Snapshot, checkpoint,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value as Json;

/// Numbers from bytes; zeros when there are none left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % n.max(1)
    }

    fn f32(&mut self) -> f32 {
        f32::from_bits(u32::from_le_bytes([(); 4].map(|()| self.byte())))
    }

    fn f64(&mut self) -> f64 {
        f64::from_bits(u64::from_le_bytes([(); 8].map(|()| self.byte())))
    }

    fn name(&mut self) -> String {
        let n = usize::from(self.byte() % 6);
        String::from_utf8_lossy(self.take(n)).into()
    }

    fn values(&mut self, count: usize) -> Values {
        match self.byte() % 2 {
            0 => Values::F32((0..count).map(|_| self.f32()).collect()),
            _ => Values::F64((0..count).map(|_| self.f64()).collect()),
        }
    }

    fn shape(&mut self) -> Vec<usize> {
        (0..self.byte() % 4).map(|_| usize::from(self.byte() % 4)).collect()
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.step = self.f64().to_bits();
        for _ in 0..self.byte() % 3 {
            let (name, optimizer) = (self.name(), self.name());
            let hypers = (0..self.byte() % 3).map(|_| (self.name(), self.f64())).collect();
            snapshot.groups.push(GroupState { name, optimizer, hypers });
        }
        for _ in 0..self.byte() % 4 {
            let (name, group, shape) = (self.name(), usize::from(self.byte() % 2), self.shape());
            let param = (self.byte() % 2 == 0).then(|| self.values(shape.iter().product()));
            let slot = |this: &mut Self| {
                let (name, shape) = (this.name(), this.shape());
                let values = this.values(shape.iter().product());
                SlotState { name, shape, values }
            };
            let slots = (0..self.byte() % 3).map(|_| slot(self)).collect();
            snapshot.tensors.push(TensorState { name, group, shape, param, slots });
        }
        snapshot.numbers = (0..self.byte() % 3).map(|_| (self.name(), self.f64())).collect();
        snapshot
    }

    /// Replaces parts of a text until there are no bytes left.
    fn edit(&mut self, mut text: Vec<u8>) -> Vec<u8> {
        while !self.0.is_empty() {
            let start = self.below(text.len() + 1);
            let end = (start + usize::from(self.byte() % 32)).min(text.len());
            let n = usize::from(self.byte() % 32);
            text.splice(start..end, self.take(n).iter().copied());
        }
        text
    }
}

/// An optimizer that takes the valid file.
fn optimizer() -> CpuOptimizer<f32> {
    let setup = Setup::new()
        .tensor("a/b", [2, 3])
        .tensor("c", [])
        .group(Group::new("all", AdamW::new(0.1)))
        .gradients(Gradients::new().loss_scale(LossScale::dynamic()))
        .average(Average::Ema { decay: 0.5 });
    setup.cpu(&Cpu::single_threaded()).expect("it is valid")
}

/// A valid file with a bit of everything.
fn valid() -> Vec<u8> {
    let mut snapshot = optimizer().snapshot().expect("it is settled");
    snapshot.step = 7;
    snapshot.groups[0].hypers.insert("eps".into(), f64::NAN);
    snapshot.set_param("a/b", vec![1.0f32; 6]).expect("its size");
    for (i, slot) in snapshot.tensors.iter_mut().flat_map(|t| &mut t.slots).enumerate() {
        let values = vec![i as f64 + 0.5; slot.values.len()];
        slot.values = if i % 2 == 0 { Values::F64(values) } else { values_f32(&values) };
    }
    checkpoint::to_bytes(&snapshot).expect("it is valid")
}

fn values_f32(values: &[f64]) -> Values {
    Values::F32(values.iter().map(|&x| x as f32).collect())
}

fn parts(file: &[u8]) -> (&[u8], &[u8]) {
    let (prefix, rest) = file.split_first_chunk().expect("its length");
    rest.split_at(u64::from_le_bytes(*prefix) as usize)
}

fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Written and read again it is the same.
fn same(snapshot: &Snapshot, bytes: &[u8]) {
    let back = checkpoint::from_bytes(bytes).expect("its own file");
    assert_eq!(checkpoint::to_bytes(&back).expect("it is valid"), bytes);
    assert_eq!(back.differences(snapshot), [""; 0]);
}

fn read(bytes: &[u8]) {
    if let Ok(snapshot) = checkpoint::from_bytes(bytes) {
        same(&snapshot, &checkpoint::to_bytes(&snapshot).expect("what was read can be written"));
        restore(&snapshot);
    }
}

fn restore(snapshot: &Snapshot) {
    let mut optimizer = optimizer();
    let before = optimizer.snapshot().expect("it is settled");
    if optimizer.restore(snapshot).is_err() {
        assert_eq!(optimizer.snapshot().expect("it is settled"), before);
        return;
    }
    assert_eq!(optimizer.steps(), snapshot.step);
    let (mut a, mut c) = ([1.0f32; 6], [1.0f32]);
    let mut step = optimizer.begin();
    step.tensor("a/b", &mut a, &[1.0; 6]).expect("its size");
    step.tensor("c", &mut c, &[1.0]).expect("its size");
    let scale = step.finish().expect("a step").loss_scale;
    assert!(scale > 0.0 && scale.is_finite(), "{scale}");
    // Whatever hyper-parameters it has.
    let _ = optimizer.groups_mut().apply_hypers(snapshot);
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    match bytes.byte() % 4 {
        0 => read(bytes.0),
        1 => {
            let valid = valid();
            let (header, data) = parts(&valid);
            read(&file(&bytes.edit(header.to_vec()), data));
        }
        2 => {
            let valid = valid();
            let (header, data) = parts(&valid);
            let mut header: Json = serde_json::from_slice(header).expect("JSON");
            let text = &mut header["__metadata__"]["gradstep"];
            let edited = bytes.edit(text.as_str().expect("a text").into());
            *text = String::from_utf8_lossy(&edited).into();
            read(&file(header.to_string().as_bytes(), data));
        }
        _ => {
            let snapshot = bytes.snapshot();
            // It may have one name twice, or a group that does not exist.
            let Ok(mut file) = checkpoint::to_bytes(&snapshot) else { return };
            same(&snapshot, &file);
            while !bytes.0.is_empty() {
                let at = bytes.below(file.len());
                file[at] = bytes.byte();
                read(&file);
            }
        }
    }
});
