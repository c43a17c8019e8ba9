//! Optimizers by the names and settings of their references. That they compute what those do is
//! tested by `cpu/golden.rs`.
#![cfg(feature = "reference")]

use std::collections::BTreeSet;

use gradstep::reference::{BOOKKEEPING, Entry, Kind, Reference, Setting, entries, entry};
use gradstep::{Cpu, Error, Group, Layout, Optimizer, Setup};
use serde_json::{Map, Value as Json, json};

fn new(name: &str, settings: Json) -> Result<Reference, Error> {
    let settings: Map<String, Json> = serde_json::from_value(settings).expect("an object");
    Reference::new(name, &settings)
}

fn refused(name: &str, settings: Json) -> String {
    match new(name, settings.clone()) {
        Err(e) => e.to_string(),
        Ok(made) => panic!("{name} with {settings} is {made:?}"),
    }
}

fn hypers(reference: &Reference, names: &[&str]) -> Vec<f64> {
    names.iter().map(|n| reference.hyper(n).unwrap_or_else(|| panic!("no {n}"))).collect()
}

/// The least that an entry asks for.
fn least(entry: &Entry) -> Map<String, Json> {
    let required = entry.settings.iter().filter(|s| s.kind == Kind::Required);
    let variant = entry.variant.map(|v| ("variant".to_string(), json!(v)));
    required.map(|s| (s.name.to_string(), json!(0.1))).chain(variant).collect()
}

/// Another value than the default.
fn another(setting: &Setting) -> Json {
    match setting.kind {
        Kind::Required => json!(0.2),
        // Halves are in the range of everything.
        Kind::Number(x) => json!(if x == 0.0 { 0.5 } else { x / 2.0 }),
        Kind::Optional => json!(0.5),
        Kind::Flag(x) => json!(!x),
        Kind::Numbers(list) => list.iter().map(|x| json!(x.unwrap_or(1e-3) / 2.0)).collect(),
        Kind::Only(x) => json!(x),
        Kind::Always(x) => json!(x),
        _ => json!(true),
    }
}

#[test]
fn every_entry_makes_an_optimizer_of_the_least_settings() {
    for entry in entries() {
        let made = Reference::new(entry.name, &least(entry)).expect("an optimizer");
        assert_eq!(made.entry().reference, entry.reference);
        assert_eq!(made.layout(), entry.layout, "{entry}");
        assert_eq!(made.recipe(), made.clone().recipe(), "{entry}");
    }
}

#[test]
fn every_setting_of_every_entry_counts_unless_it_is_said_to_be_ignored() {
    // What a setting needs besides itself.
    let with = |entry: &Entry, name: &str| match (entry.variant, name) {
        (_, "dampening" | "nesterov") => json!({"momentum": 0.9}),
        (Some("hf"), "lr") => json!({"relative_step": false}),
        (Some("hf"), "relative_step") => json!({"lr": 0.1}),
        _ => json!({}),
    };
    for entry in entries() {
        for setting in entry.settings {
            let base = least(entry);
            let mut changed = base.clone();
            changed.extend(with(entry, setting.name).as_object().expect("an object").clone());
            changed.insert(setting.name.into(), another(setting));
            let text = |s: &Map<String, Json>| {
                format!("{:?}", Reference::new(entry.name, s).unwrap_or_else(|e| panic!("{e}")))
            };
            let ignored = matches!(setting.kind, Kind::Ignored | Kind::Only(_) | Kind::Always(_));
            if ignored {
                assert_eq!(text(&changed), text(&base), "{setting} of {entry}");
                continue;
            }
            // The same with the setting and without it, what it needs given to both where possible.
            let mut without = changed.clone();
            without.remove(setting.name);
            if setting.kind == Kind::Required
                || setting.name == "lr"
                || setting.name == "relative_step"
            {
                without = base;
            }
            assert_ne!(text(&changed), text(&without), "{setting} of {entry}");
        }
    }
}

#[test]
fn defaults_are_those_of_the_references() {
    let all = ["lr", "beta1", "beta2", "eps", "weight_decay"];
    let adam = new("adam", json!({})).expect("settings");
    assert_eq!(hypers(&adam, &all), [1e-3, 0.9, 0.999, 1e-8, 0.0]);
    let adamw = new("adamw", json!({})).expect("settings");
    assert_eq!(hypers(&adamw, &all), [1e-3, 0.9, 0.999, 1e-8, 1e-2]);
    let came = new("came", json!({"lr": 1})).expect("settings");
    let names = ["lr", "beta1", "beta2", "beta3", "eps1", "eps2", "clip_threshold"];
    assert_eq!(hypers(&came, &names), [1.0, 0.9, 0.999, 0.9999, 1e-30, 1e-16, 1.0]);
    let hf = new("adafactor", json!({"variant": "hf"})).expect("settings");
    assert_eq!(hypers(&hf, &["lr", "eps1", "relative_step"]), [1e-2, 1e-30, 1.0]);
}

#[test]
fn the_first_epsilon_of_torchs_adafactor_is_that_of_the_parameters() {
    let adafactor = |settings: Json, epsilon| {
        let settings = settings.as_object().expect("an object");
        let made = Reference::with_epsilon("adafactor", settings, epsilon).expect("settings");
        hypers(&made, &["eps1", "eps2"])
    };
    assert_eq!(adafactor(json!({}), f64::EPSILON), [f64::EPSILON, 1e-3]);
    assert_eq!(adafactor(json!({"eps": [null, 0.5]}), 0.25), [0.25, 0.5]);
    assert_eq!(adafactor(json!({"eps": [1e-9, 0.5]}), 0.25), [1e-9, 0.5]);
}

#[test]
fn classes_with_their_modules_are_names() {
    for (class, entry) in [
        ("torch.optim.adamw.AdamW", "torch.optim.AdamW"),
        ("torch.optim.sgd.SGD", "torch.optim.SGD"),
        ("torch.optim._adafactor.Adafactor", "torch.optim.Adafactor"),
        ("transformers.optimization.Adafactor", "transformers.optimization.Adafactor"),
        ("came_pytorch.CAME.CAME", "came_pytorch.CAME"),
        ("pytorch_optimizer.optimizer.sm3.SM3", "pytorch_optimizer.SM3"),
        ("AdamW", "torch.optim.AdamW"),
    ] {
        let made = new(class, json!({"lr": 0.1, "relative_step": false}));
        let made = made.or_else(|_| new(class, json!({"lr": 0.1}))).expect(class);
        assert_eq!(made.entry().reference, entry);
    }
    // Another package's class of the same name has other settings.
    let error = refused("pytorch_optimizer.optimizer.came.CAME", json!({"lr": 0.1}));
    assert!(error.contains("pytorch_optimizer.optimizer.came.CAME"), "{error}");
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = refused("adamx", json!({}));
    let names: BTreeSet<_> = entries().iter().map(|e| e.name).collect();
    assert!(error.contains("adamx"), "{error}");
    assert!(error.ends_with(&Vec::from_iter(names).join(", ")), "{error}");
}

#[test]
fn an_unknown_setting_lists_the_known_ones() {
    let error = refused("came", json!({"lr": 0.1, "clip": 1.0}));
    for part in
        ["`clip`", "came", "lr (required)", "betas = [0.9,0.999,0.9999]", "layout = last_two"]
    {
        assert!(error.contains(part), "{part} in {error}");
    }
    // The variant that has it is named.
    let error = refused("adafactor", json!({"scale_parameter": false}));
    assert!(error.contains("variant torch") && error.contains("variant = hf"), "{error}");
    let error = refused("adafactor", json!({"variant": "jax"}));
    assert!(error.contains("torch, hf, paper"), "{error}");
    assert!(refused("adam", json!({"variant": "torch"})).contains("unknown"));
}

#[test]
fn what_has_no_counterpart_or_another_type_is_refused() {
    for (name, settings, part) in [
        ("came", json!({}), "no default"),
        ("came", json!({"lr": "fast"}), "a number"),
        ("came", json!({"lr": true}), "a number"),
        ("came", json!({"lr": 0.1, "betas": [0.9, 0.99]}), "a list of 3 numbers"),
        ("came", json!({"lr": 0.1, "eps": [null, 0.1]}), "a list of 2 numbers"),
        ("came", json!({"lr": 0.1, "layout": "rows"}), "last_two"),
        ("came", json!({"lr": 0.1, "weight_decay": -1.0}), "not negative"),
        ("adam", json!({"maximize": true}), "false"),
        ("adam", json!({"amsgrad": 2}), "true or false"),
        ("adam", json!({"lr": "-inf"}), "finite"),
        ("adam", json!({"betas": [0.9, 1.5]}), "`betas[1]` of adam is 1.5"),
        ("adafactor", json!({"d": 0}), "`d` of adafactor is 0"),
        ("adafactor", json!({"beta2_decay": 0.5}), "`beta2_decay` of adafactor is 0.5"),
        ("adafactor", json!({"eps": [null, -1]}), "`eps[1]` of adafactor is -1"),
        ("adafactor", json!({"lr": null}), "set variant = hf, which takes it"),
        ("adam", json!({"foreach": "yes"}), "null"),
        ("adamw", json!({"decoupled_weight_decay": false}), "true"),
        ("sm3", json!({"beta": 0.5}), "0.0"),
        ("sgd", json!({"nesterov": true}), "momentum"),
        ("adafactor", json!({"variant": "hf", "lr": 0.1}), "relative_step"),
        ("adafactor", json!({"variant": "hf", "relative_step": false}), "number"),
        (
            "adafactor",
            json!({"variant": "hf", "lr": 0.1, "relative_step": false, "warmup_init": true}),
            "relative_step",
        ),
    ] {
        let error = refused(name, settings.clone());
        assert!(error.contains(part), "{part} for {name} with {settings}: {error}");
    }
}

#[test]
fn neutral_settings_are_accepted() {
    let settings = json!({
        "foreach": null, "fused": true, "maximize": false, "capturable": false,
        "differentiable": false, "decoupled_weight_decay": true
    });
    let neutral = new("adam", settings).expect("settings");
    assert_eq!(neutral.recipe().name(), "adamw");
    let came = new("came", json!({"lr": 0.1, "clip_threshold": "inf", "layout": "flatten"}));
    let came = came.expect("settings");
    assert_eq!(came.hyper("clip_threshold"), Some(f64::INFINITY));
    assert_eq!(came.layout(), Layout::Flatten);
    // As Python writes it, and its 1 for true.
    let came = new("came", json!({"lr": 0.1, "clip_threshold": "Infinity"})).expect("settings");
    assert_eq!(came.hyper("clip_threshold"), Some(f64::INFINITY));
    let adam = new("adam", json!({"decoupled_weight_decay": 1, "maximize": 0})).expect("settings");
    assert_eq!(adam.recipe().name(), "adamw");
}

#[test]
fn what_torch_keeps_in_a_group_besides_is_ignored() {
    let group: Map<_, _> = BOOKKEEPING.iter().map(|b| (b.to_string(), json!(["w", 0.5]))).collect();
    for entry in entries() {
        let mut settings = least(entry);
        let base = format!("{:?}", Reference::new(entry.name, &settings).expect("settings"));
        settings.extend(group.clone());
        let made = Reference::new(entry.name, &settings).expect("settings");
        assert_eq!(format!("{made:?}"), base, "{entry}");
    }
}

#[test]
fn an_entry_is_found_by_name_and_variant() {
    let hf = json!({"variant": "hf"}).as_object().expect("an object").clone();
    assert_eq!(entry("adafactor", &hf).expect("it").variant, Some("hf"));
    assert_eq!(entry("torch.optim.Adafactor", &Map::new()).expect("it").variant, Some("torch"));
    assert!(entry("torch.optim.Adafactor", &hf).is_err());
}

#[test]
fn a_group_takes_it_and_schedules_its_settings() {
    let sgd = new("sgd", json!({"lr": 1.0})).expect("settings");
    let group = Group::new("all", sgd).schedule_with("lr", |t| 0.5 / (t + 1) as f64);
    let setup = Setup::new().tensor("w", [1]).group(group);
    let mut optimizer = setup.cpu::<f64>(&Cpu::single_threaded()).expect("a setup");
    let mut w = [1.0];
    for _ in 0..2 {
        let mut step = optimizer.begin();
        step.tensor("w", &mut w, &[1.0]).expect("a tensor");
        step.finish().expect("a step");
    }
    assert_eq!(w, [0.25]);
}
