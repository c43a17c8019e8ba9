//! What is written and read as JSON here, against serde_json and the standard library.

#[path = "../src/decimal.rs"]
mod decimal;

use gradstep::json::{Json, Reader, Writer};
use proptest::prelude::*;
use serde_json::Value;

fn number(text: &str) -> Result<f64, String> {
    let mut reader = Reader::new(text);
    let x = reader.number()?;
    reader.end().map(|()| x)
}

fn same_as_std(text: &str) {
    let expected: f64 = text.parse().expect("a number");
    match number(text) {
        Ok(x) => assert_eq!(x.to_bits(), expected.to_bits(), "{text}: {x:?}, not {expected:?}"),
        Err(e) => assert!(expected.is_infinite(), "{text}: {e}"),
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest() {
    for text in [
        "0",
        "-0",
        "0.0e5",
        "5e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1e99999999999999999999999",
        "1e-99999999999999999999999",
        "0e99999999999999999999999",
        "9007199254740992.5",
        "9007199254740993",
        "9007199254740993.00000000000000000000000000000001",
        "100000000000000000000000000000000000000000000e-45",
    ] {
        same_as_std(text);
    }
    // Half-way between two neighbours, in full, and beside it.
    for bits in (0..2000).map(|i| i * 0x1_f3d5_79ac_e135 % 0x7fe0_0000_0000_0000) {
        let x = f64::from_bits(bits);
        let text = format!("{x:.1080}");
        same_as_std(&text);
        let (half, digits) = (f64::from_bits(bits) / 2.0, format!("{:.1100}", x / 2.0));
        if half * 2.0 == x {
            same_as_std(&digits);
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
fn single(x: f64) -> f32 {
    x as f32
}

fn written_as_std(x: f64) {
    assert_eq!(decimal::plain(x), format!("{x}"), "the number of bits {:#x}", x.to_bits());
    assert_eq!(decimal::precise(x), format!("{x:?}"), "the number of bits {:#x}", x.to_bits());
    let x = single(x);
    assert_eq!(
        decimal::precise_single(x),
        format!("{x:?}"),
        "the number of bits {:#x}",
        x.to_bits()
    );
}

#[test]
fn numbers_are_written_with_the_fewest_digits() {
    for x in [0.0, 1.0, 123.0, 0.3, 9.99e-5, 1e-4, 1e15, 1e16, 9_999_999_999_999_998.0, 1e22, 1e23]
    {
        written_as_std(x);
        written_as_std(-x);
    }
    for x in [f64::NAN, -f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e-45] {
        written_as_std(x);
        written_as_std(-x);
    }
    // Around powers of two, where the gaps differ on both sides, and of ten.
    let powers = (0..2047).map(|i| f64::from_bits(i << 52));
    for x in powers.chain((-320..308).map(|i| decimal::parse(&format!("1e{i}")))) {
        for bits in x.to_bits().saturating_sub(2)..=x.to_bits() + 2 {
            written_as_std(f64::from_bits(bits));
        }
        for bits in single(x).to_bits().saturating_sub(2)..=single(x).to_bits() + 2 {
            written_as_std(f32::from_bits(bits).into());
        }
    }
}

/// Texts that are nearly JSON.
fn nearly() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[\\[\\]{},: ]",
        "\"[a-z\\\\\"/\u{1}\u{e9}]{0,4}\"",
        "\\\\u[0-9a-fA-F]{3,4}",
        "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?",
        Just("true".to_string()),
        Just("false".to_string()),
        Just("null".to_string()),
        Just("\"\\ud83d\\ude00\\n\"".to_string()),
        Just("\"\\ud83d\"".to_string()),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_number_comes_back(bits: u64) {
        let x = f64::from_bits(bits);
        prop_assume!(x.is_finite());
        same_as_std(&format!("{x:?}"));
        same_as_std(&format!("{x:.3e}"));
        written_as_std(x);
        written_as_std(f32::from_bits((bits >> 32) as u32).into());
        let mut out = Writer::default();
        out.number(x);
        prop_assert_eq!(number(&out.finish()).map(f64::to_bits), Ok(bits));
    }

    #[test]
    fn long_numbers_are_those_of_the_standard_library(
        text in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?",
    ) {
        same_as_std(&text);
    }

    #[test]
    fn trees_come_back(value in tree()) {
        let json = Json::parse(&value.to_string()).expect("JSON");
        prop_assert_eq!(Value::from(json.clone()), value.clone());
        // What is printed is read by others.
        let again: Value = serde_json::from_str(&json.to_string()).expect("JSON");
        prop_assert_eq!(again, value.clone());
        prop_assert_eq!(Value::from(Json::from(&value)), value);
    }

    #[test]
    fn what_is_no_json_is_refused_as_serde_json_refuses_it(text in nearly()) {
        let (ours, theirs) = (Json::parse(&text), serde_json::from_str::<Value>(&text));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}: {:?} {:?}", text, ours, theirs);
        let mut reader = Reader::new(&text);
        let passed = reader.skip().and_then(|()| reader.end());
        prop_assert!(passed.is_ok() || theirs.is_err(), "{}: {:?}", text, passed);
    }
}

#[test]
fn depth_has_an_end() {
    for depth in [100, 1_000_000] {
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(Json::parse(&text).is_ok(), depth < 128, "{depth}");
        assert_eq!(Reader::new(&text).skip().is_ok(), depth < 128, "{depth}");
    }
}
