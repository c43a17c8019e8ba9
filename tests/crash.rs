//! A process that saves is killed at random moments, or the system stops it half-way, and there is
//! always a whole file.
//!
//! The tests start themselves again as the process that saves. They see the order of writing and
//! moving; only a power cut would show what bringing to the disk is for.
#![cfg(feature = "checkpoint")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gradstep::Snapshot;
use gradstep::checkpoint::{load, save};
use gradstep::snapshot::{GroupState, TensorState, Values};

const PATH: &str = "GRADSTEP_CRASH_TEST";
const KILLS: usize = 50;
/// Elements: a file of 8 MB, so that most kills come while one is written.
const SIZE: usize = 2 << 20;

fn content(kind: u8) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.step = kind.into();
    snapshot.groups = vec![GroupState::default()];
    snapshot.tensors = vec![TensorState {
        name: "w".into(),
        shape: vec![SIZE],
        param: Some(Values::F32(vec![f32::from(kind) + 0.5; SIZE])),
        ..TensorState::default()
    }];
    snapshot
}

/// The process that is killed: saves one of two contents after the other, and first the one that is
/// not there.
fn save_for_ever(path: &Path) -> ! {
    let mut contents = [content(1), content(2)];
    if load(path).expect("a whole file") == contents[0] {
        contents.reverse();
    }
    loop {
        for content in &contents {
            save(content, path).expect("there is room");
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_file() {
    if let Some(path) = std::env::var_os(PATH) {
        save_for_ever(Path::new(&path));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    let contents = [content(1), content(2)];
    let start = Instant::now();
    save(&contents[0], &path).expect("written");
    let one = start.elapsed().as_micros().try_into().unwrap_or(u64::MAX / 4);
    let (mut rng, mut during) = (fastrand::Rng::with_seed(3), 0);
    let mut seen = [0, 0];
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["a_kill_at_any_moment_leaves_a_whole_file", "--exact", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::null())
            .spawn()
            .expect("another process");
        // It is saving as soon as there is a temporary file.
        let begun = Instant::now();
        while temporary(folder.path()).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it never began to save");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..2 * one)));
        child.kill().expect("killed");
        child.wait().expect("it is dead");
        during += usize::from(!temporary(folder.path()).is_empty());
        let loaded = load(&path).unwrap_or_else(|e| panic!("kill {kill}: {e}"));
        let which = contents.iter().position(|c| *c == loaded);
        seen[which.unwrap_or_else(|| panic!("kill {kill}: neither of the two"))] += 1;
        for file in temporary(folder.path()) {
            std::fs::remove_file(file).expect("removed");
        }
    }
    println!(
        "{KILLS} kills in {:.1?}, {during} while a file was written; contents {seen:?}",
        start.elapsed()
    );
    assert!(during >= 5, "only {during} of {KILLS} kills came while a file was written");
    assert!(seen.iter().all(|&n| n > 0), "one content was never seen: {seen:?}");
}

/// With a limit on the size of files, the system takes the first bytes of one and refuses the rest.
#[cfg(unix)]
#[test]
fn a_write_that_fails_half_way_leaves_the_old_file() {
    if let Some(path) = std::env::var_os(PATH) {
        let error = save(&content(2), &path).expect_err("there is a limit").to_string();
        let says = format!("{} cannot be written (File too large", Path::new(&path).display());
        assert!(error.contains(&says), "{error}");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    save(&content(1), &path).expect("written");
    // 1000 blocks, of 512 or 1024 bytes, without the signal that would end the process.
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 1000; exec "$@""#, "sh"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["a_write_that_fails_half_way_leaves_the_old_file", "--exact"])
        .env(PATH, &path)
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    assert!(temporary(folder.path()).is_empty(), "the temporary file was removed");
    assert!(load(&path).expect("a whole file") == content(1), "the old file");
}

fn temporary(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let paths = files.map(|f| f.expect("a file").path());
    paths.filter(|p| p.extension().is_some_and(|e| e == "tmp")).collect()
}
