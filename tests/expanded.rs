//! The generated shaders under `shaders/expanded/` are what the library prints, and valid.
//!
//! `UPDATE=1 cargo test --test expanded` writes them anew; without it a difference fails.

use std::collections::BTreeMap;
use std::path::Path;

use gradstep::optim::{Adafactor, Adam, AdamW, Came, Sgd, Sm3};
use gradstep::{Kind, Optimizer, Plan, Recipe, wgsl};

/// Every definition of the library.
fn recipes() -> Vec<Recipe> {
    let came = Came::default;
    let optimizers: Vec<Box<dyn Optimizer>> = vec![
        Box::new(Sgd::default()),
        Box::new(Sgd::default().with_momentum(0.9)),
        Box::new(Sgd::default().with_momentum(0.9).with_nesterov(true)),
        Box::new(Adam::default()),
        Box::new(Adam::default().with_amsgrad(true)),
        Box::new(AdamW::default()),
        Box::new(AdamW::default().with_amsgrad(true)),
        Box::new(Adafactor::hugging_face()),
        Box::new(Adafactor::hugging_face().with_beta1(Some(0.9))),
        Box::new(Adafactor::hugging_face().with_scale_parameter(false)),
        Box::new(Adafactor::hugging_face().with_scale_parameter(false).with_beta1(Some(0.9))),
        Box::new(Adafactor::torch()),
        Box::new(Sm3::default()),
        Box::new(Sm3::default().with_momentum(0.9)),
        Box::new(came()),
        Box::new(came().with_clip_update(Some(1.0))),
    ];
    optimizers.iter().map(|o| o.recipe()).collect()
}

/// File names and texts.
fn programs() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for recipe in recipes() {
        let mut cases = vec![(Kind::Vector, false, "vector")];
        if recipe.is_factored() {
            cases.extend([(Kind::Matrix, true, "matrix"), (Kind::Matrix, false, "matrix_wide")]);
        }
        for (kind, fused, case) in cases {
            let graph = recipe.trace(kind).expect("the definition is valid");
            let plan = match (kind, fused) {
                (Kind::Matrix, false) => Plan::cut(&graph),
                _ => Plan::new(graph, fused),
            };
            let plan = plan.expect("the definition is valid");
            // One of each kind takes four columns at once.
            let fours = ["adamw", "came"].contains(&recipe.name());
            for (vectors, form) in [(false, ""), (true, "_vec4")] {
                if vectors && !fours {
                    continue;
                }
                let program = wgsl::print(&plan, false, vectors);
                let program = program.expect("the definition fits a workgroup");
                let name = format!("{}_{case}{form}.wgsl", recipe.name());
                let twice = files.insert(name, program.source);
                assert!(twice.is_none(), "two definitions have the name {}", recipe.name());
            }
        }
    }
    files.extend(guards());
    files
}

/// What clips and tests gradients: of one buffer of them, and of as many as are bound at once, four columns
/// at once where four divide their lengths.
#[cfg(feature = "export")]
fn guards() -> Vec<(String, String)> {
    let of = |(n, len, form): (u32, usize, &str)| {
        let setup = gradstep::Setup::new()
            .tensors((0..n).map(|i| (i.to_string(), [len])))
            .group(gradstep::Group::new("all", Sgd::default()))
            .gradients(gradstep::Gradients::new().clip_norm(1.0));
        let export = setup.export(gradstep::export::Limits::default()).expect("a valid setup");
        let plan = export.json();
        let mut modules = plan["modules"].as_array().expect("a list").iter();
        let guard = modules.find(|m| m["name"] == "control vector").expect("the guard");
        (format!("guard_of_{n}{form}.wgsl"), guard["code"].as_str().expect("WGSL").to_string())
    };
    [(1, 5, ""), (6, 5, ""), (6, 4, "_vec4")].map(of).into()
}

/// They are seen in exported plans only.
#[cfg(not(feature = "export"))]
fn guards() -> Vec<(String, String)> {
    committed().into_iter().filter(|(name, _)| name.starts_with("guard_of_")).collect()
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders").join(name)
}

fn committed() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder("expanded")).expect("shaders/expanded is there");
    let read = |f: std::io::Result<std::fs::DirEntry>| {
        let path = f.expect("the folder can be read").path();
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        (path.file_name().expect("a file").to_string_lossy().into_owned(), text)
    };
    files.map(read).collect()
}

#[test]
fn committed_shaders_are_what_the_library_prints() {
    let printed = programs();
    if std::env::var_os("UPDATE").is_some() {
        for name in committed().keys().filter(|&name| !printed.contains_key(name)) {
            std::fs::remove_file(folder("expanded").join(name)).expect("a stale file goes");
        }
        for (name, text) in &printed {
            std::fs::write(folder("expanded").join(name), text).expect("a file is written");
        }
    }
    let committed = committed();
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    let how = "run `UPDATE=1 cargo test --test expanded` and look at the difference";
    assert_eq!(names(&committed), names(&printed), "files of shaders/expanded; {how}");
    for (name, text) in &printed {
        let stale = committed[name].lines().zip(text.lines()).position(|(a, b)| a != b);
        assert!(
            committed[name] == *text,
            "shaders/expanded/{name} is stale from line {}; {how}",
            stale.map_or(0, |line| line + 1)
        );
    }
}

#[test]
fn every_shader_is_valid() {
    let mut files = committed();
    let skeleton = std::fs::read_to_string(folder("step.wgsl")).expect("the skeleton is there");
    files.insert("step.wgsl, the skeleton".into(), skeleton);
    for recipe in recipes() {
        // Parameter and gradient in one buffer: not committed, but valid all the same.
        let plan = Plan::new(recipe.trace(Kind::Vector).expect("valid"), false).expect("valid");
        for vectors in [false, true] {
            let pooled = wgsl::print(&plan, true, vectors).expect("it fits a workgroup");
            files.insert(format!("{}, pooled, {vectors}", recipe.name()), pooled.source);
        }
    }
    for (name, text) in files {
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        let mut validator = naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::empty(),
        );
        if let Err(e) = validator.validate(&module) {
            panic!("{name}: {}", e.emit_to_string(&text));
        }
    }
}

#[test]
fn where_tiles_have_whole_rows_no_settle_goes_over_rows() {
    let mut settles = 0;
    for (name, text) in programs() {
        if !name.contains("_matrix") || name.contains("_wide") {
            continue;
        }
        for settle in text.split("\nfn settle_").skip(1) {
            let body = settle.split("\n}\n").next().expect("it ends");
            let over_rows = |line: &&str| line.contains("for (") && line.contains("t.rows");
            assert_eq!(body.lines().find(over_rows), None, "{name}: rows are for the tiles");
            settles += 1;
        }
    }
    assert!(settles > 10, "{settles} settles");
}
