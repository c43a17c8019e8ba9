//! What the npm package runs in WASM, of which a page needs one of two modules: with the feature `gpu`
//! the planner for its own GPU device, with `cpu` the steps over its typed arrays. Saved state is in both.
//! The driver around them is `../index.js`; no formula stands there.
//!
//! What goes in and out is JSON and typed arrays, so that the interface is small: see `config` for
//! what an optimizer is made from.

mod config;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "gpu")]
mod gpu;

use std::fmt;

use gradstep::checkpoint;
use gradstep::json::Writer;
use gradstep::snapshot::Snapshot;
use wasm_bindgen::prelude::*;

/// The library's message as a JavaScript `Error`.
fn error(e: impl fmt::Display) -> JsError {
    JsError::new(&e.to_string())
}

/// It takes less of a download than the standard library's.
#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

type Result<T> = std::result::Result<T, JsError>;

fn to_file(snapshot: &Snapshot) -> Result<Vec<u8>> {
    checkpoint::to_bytes(snapshot).map_err(error)
}

/// The optimizers that are known by name, with their settings and defaults, as JSON.
#[wasm_bindgen]
pub fn optimizers() -> String {
    let mut out = Writer::default();
    out.list();
    for entry in gradstep::reference::entries() {
        out.object();
        out.key("name").text(entry.name);
        match entry.variant {
            Some(variant) => out.key("variant").text(variant),
            None => out.key("variant").null(),
        }
        out.end_object();
    }
    out.end_list();
    out.finish()
}
