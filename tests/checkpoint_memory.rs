//! What a checkpoint takes of memory: to read a hostile file little, and of values no second copy.
//!
//! A binary of its own, for its allocator.
#![cfg(feature = "checkpoint")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gradstep::Snapshot;
use gradstep::checkpoint::{from_bytes, load, save, to_bytes};
use gradstep::snapshot::{GroupState, TensorState};

thread_local! {
    /// Bytes that the thread holds, and the most that it has held.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: everything is the system's allocator; counting touches thread-local Cells only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(p, layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, n: usize) -> *mut u8 {
        // Both may be there at once.
        count(n.cast_signed());
        count(-layout.size().cast_signed());
        // SAFETY: the caller's contract.
        unsafe { System.realloc(p, layout, n) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held at a time meanwhile.
fn peak<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = f();
    (result, (MOST.get() - before).cast_unsigned())
}

#[test]
fn the_counter_counts() {
    assert_eq!(peak(|| drop(std::hint::black_box(vec![0u8; 1000]))).1, 1000);
}

fn file(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

fn told(metadata: &str) -> Vec<u8> {
    let metadata = serde_json::to_string(metadata).expect("a text");
    file(&format!("{{\"__metadata__\":{{\"gradstep\":{metadata}}}}}"))
}

#[test]
fn a_claim_takes_nothing() {
    let huge: u64 = 1 << 60;
    let mut long = file("{}");
    long[..8].copy_from_slice(&huge.to_le_bytes());
    let mut longest = long.clone();
    longest[..8].fill(0xff);
    let tensor = |shape: &str, end: u64| {
        let info = format!("{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[0,{end}]}}");
        file(&format!("{{\"param/w\":{info}}}"))
    };
    let metadata = |shape: &str| {
        told(&format!(
            "{{\"version\":1,\"step\":0,\"numbers\":{{}},\"groups\":[{{\"name\":\"g\",\
             \"optimizer\":\"o\",\"hypers\":{{}}}}],\"tensors\":[{{\"name\":\"w\",\"group\":0,\
             \"shape\":[{shape}],\"param\":true,\"slots\":[]}}]}}"
        ))
    };
    for bytes in [
        long,
        longest,
        tensor("288230376151711744", huge),
        tensor("1152921504606846976", huge),
        tensor("4611686018427387904,4", huge),
        metadata("1152921504606846976"),
        metadata("1152921504606846976,1152921504606846976"),
    ] {
        let (error, most) = peak(|| from_bytes(&bytes).expect_err("it is hostile"));
        assert!(most < 100_000, "{most} bytes: {error}");
    }
}

/// Headers of a megabyte, each of what makes many things of few bytes.
#[test]
fn a_header_takes_a_small_multiple() {
    let n = 1 << 20;
    let list = |what: &str| {
        let mut list = what.repeat(n / what.len());
        list.pop();
        list
    };
    let numbered = |what: &str| {
        let items = (0..n / (what.len() + 4)).map(|i| what.replacen('#', &i.to_string(), 1));
        items.collect::<Vec<_>>().join(",")
    };
    let info = "\"#\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}";
    let group = "{\"name\":\"#\",\"optimizer\":\"\",\"hypers\":{}}";
    let tensor = "{\"name\":\"#\",\"group\":0,\"shape\":[],\"param\":false,\"slots\":[]}";
    let whole = |groups: &str, tensors: &str, numbers: &str| {
        told(&format!(
            "{{\"version\":1,\"step\":0,\"groups\":[{groups}],\"tensors\":[{tensors}],\
             \"numbers\":{{{numbers}}}}}"
        ))
    };
    let one = group.replace('#', "");
    let slots = |slots: &str| tensor.replace("\"slots\":[]", &format!("\"slots\":[{slots}]"));
    let long = slots(&numbered("\"#\"")).replacen('#', &"x".repeat(n / 2), 1);
    for (what, bytes) in [
        ("dimensions", file(&format!("{{\"a\":{{\"shape\":[{}]}}}}", list("0,")))),
        ("what is skipped", file(&format!("{{\"a\":{{\"b\":[{}]}}}}", list("[],")))),
        ("tensors", file(&format!("{{{}}}", numbered(info)))),
        ("other metadata", file(&format!("{{\"__metadata__\":{{{}}}}}", numbered("\"#\":\"\"")))),
        ("a long key", file(&format!("{{\"{}\":0}}", list("x")))),
        ("groups", whole(&numbered(group), "", "")),
        ("entries", whole(&one, &numbered(tensor), "")),
        (
            "dimensions of an entry",
            whole(&one, &tensor.replace("[]", &format!("[{}]", list("0,"))), ""),
        ),
        ("slots", whole(&one, &slots(&list("\"\",")), "")),
        ("a long name with many slots", whole(&one, &long, "")),
        ("numbers", whole(&one, "", &numbered("\"#\":0"))),
        ("texts for numbers", whole(&one, "", &numbered("\"#\":\"inf\""))),
    ] {
        let (read, most) = peak(|| from_bytes(&bytes));
        println!("{what}: {most} bytes held for {}", bytes.len());
        assert!(most < 16 * bytes.len(), "{what}: {most} bytes held for {}", bytes.len());
        let message = read.map_or_else(|e| e.to_string(), |_| String::new());
        assert!(message.len() < 4000, "{what}: a message of {} bytes", message.len());
    }
}

#[test]
fn values_are_not_copied_twice() {
    let n = 1 << 20;
    let mut snapshot = Snapshot::default();
    snapshot.groups = vec![GroupState::default()];
    snapshot.tensors = vec![TensorState {
        name: "w".into(),
        shape: vec![n],
        param: Some(vec![0.5f32; n].into()),
        ..TensorState::default()
    }];
    let room = 256 << 10;
    let (bytes, most) = peak(|| to_bytes(&snapshot).expect("valid"));
    assert!(most < bytes.len() + room, "to_bytes: {most} for {}", bytes.len());
    let (_, most) = peak(|| from_bytes(&bytes).expect("a file"));
    assert!(most < bytes.len() + room, "from_bytes: {most} for {}", bytes.len());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    let ((), most) = peak(|| save(&snapshot, &path).expect("written"));
    assert!(most < room, "save: {most} for {}", bytes.len());
    let (_, most) = peak(|| load(&path).expect("read"));
    assert!(most < bytes.len() + room, "load: {most} for {}", bytes.len());
}
