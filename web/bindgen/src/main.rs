//! `gradstep-bindgen MODULE.wasm FOLDER NAME`: writes `NAME.js` and `NAME_bg.wasm`, an ES module for
//! pages and Workers. (The command-line tool that does the same takes several times as long to build.)

use std::process::ExitCode;

use wasm_bindgen_cli_support::{Bindgen, EncodeInto};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder, name] = args.as_slice() else {
        eprintln!("usage: gradstep-bindgen MODULE.wasm FOLDER NAME");
        return ExitCode::FAILURE;
    };
    let made = Bindgen::new().input_path(module).web(true).and_then(|b| {
        b.typescript(false).remove_producers_section(true);
        // All browsers that run the module have it.
        b.encode_into(EncodeInto::Always).out_name(name).generate(folder)
    });
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gradstep-bindgen: {e:#}");
            ExitCode::FAILURE
        }
    }
}
