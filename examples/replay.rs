//! Replays recorded gradients through an optimizer and compares with what another implementation
//! made of them.
//!
//! ```sh
//! cargo run --release --example replay -- run.safetensors --out ours.safetensors
//! ```
//!
//! For those who train with PyTorch: record a few steps of your own training run, and see whether
//! this library would have taken the same ones. The recorder:
//!
//! ```python
//! import json
//! from safetensors.torch import save_file
//!
//! class Recorder:
//!     def __init__(self, model, optimizer):
//!         self.params, self.optimizer, self.t = dict(model.named_parameters()), optimizer, 0
//!         self.tensors = {f"param/{n}": p.detach().clone() for n, p in self.params.items()}
//!         self.settings = []  # of each step: schedulers change them
//!
//!     def step(self):  # in place of optimizer.step()
//!         group = self.optimizer.param_groups[0].items()
//!         settings = {k: v for k, v in group if k not in ("params", "param_names")}
//!         self.settings.append(json.dumps(settings, default=float))
//!         self.keep("grad", {n: p.grad for n, p in self.params.items() if p.grad is not None})
//!         self.optimizer.step()
//!         self.keep("expected", self.params)
//!         self.t += 1
//!
//!     def keep(self, what, tensors):
//!         self.tensors |= {f"{what}/{self.t}/{n}": x.detach().clone() for n, x in tensors.items()}
//!
//!     def save(self, path):
//!         kind = type(self.optimizer)
//!         metadata = {
//!             "optimizer": f"{kind.__module__}.{kind.__qualname__}",
//!             "settings": f"[{', '.join(self.settings)}]",
//!             "steps": str(self.t),
//!         }
//!         save_file({n: x.contiguous() for n, x in self.tensors.items()}, path, metadata)
//! ```
//!
//! # The recording
//!
//! A safetensors file of F64, F32, F16 or BF16 tensors; the short ones are widened, and results are
//! not rounded back to them.
//!
//! | tensor | meaning |
//! |---|---|
//! | `param/<name>` | the parameter before the first step |
//! | `grad/<t>/<name>` | its gradient at step t = 0 … T−1 |
//! | `expected/<t>/<name>` | the parameter after `grad/<t>`, for any t; `trajectory/<t>/<name>` is the same |
//! | `lr/<t>` | the learning rate of step t, where it is not that of the settings |
//!
//! Its metadata: `optimizer`, a name as `came` or a class with its module; `settings`, a JSON object
//! of the reference's own keyword arguments, or a list of T objects, one for each step, so that any
//! number may change (what is no number selects the step and stays); `steps`, T (else one more than
//! the greatest t). What torch's schedulers note in a parameter group (`initial_lr`, `max_lr`, …) is
//! ignored, and so are learning rates where `relative_step` is on: that code ignores them too.
//! `Infinity` and `NaN` are numbers, as in Python.
//!
//! `--optimizer` and `--set` come before the metadata. With another optimizer's name, or another
//! variant of Adafactor, the recorded settings are another code's and are left out, learning rates
//! too. `--set lr=…` holds at all steps; `--set lr=null` leaves out what is recorded, also of a setting
//! that is unknown here, and the reference's default holds. After `--set`, further words are settings
//! as long as they have a `=` and no file is called so. `maximize=true` is replayed by negating the
//! gradients, as torch does it (SM3 does not keep it in its group: `--set` it).
//!
//! A tensor without a gradient at some step stays as it is in that step, its state too, and its own
//! step number does not advance: what torch does where `grad` is `None`.
//!
//! One file is one group: all tensors have the same settings.
//!
//! # The comparison
//!
//! For every tensor the displacement Δ = p_t − p_0 is compared with the expected one in the Euclidean
//! norm, beyond what rounding the parameter itself once in each step explains:
//! ```text
//! error = max over t of  max(0, ‖Δ − Δref‖ − u (t+1) ‖pref‖) / max over s ≤ t of ‖Δref‖
//! ```
//! where u = 2⁻²⁴ in `f32`, 2⁻⁵³ where both sides are `f64`, and half the machine epsilon of the
//! tensor's `param/…` or `expected/…` where that is coarser. (Compared with the parameter itself, a step
//! that is wrong by a tenth would hardly show.) Where rounding may hide all of the displacement, as it
//! does with small steps in `bf16`, the report says that the tensor is not checked. The table has the
//! same error beside it, with nothing allowed for: `plain`.
//!
//! All recordings in `tests/golden/replay` hold 1e-5 so, on the CPU and on a GPU. But each of the two codes
//! rounds, and some round twice a step, once for the decay and once for the rest. Among many elements
//! such errors average out, a tensor of a few may miss by them. So `--tolerance` is held against the error
//! beyond two roundings a step, and the table says where it took the second.
//!
//! SM3 beyond matrices is known to differ from its reference, see [`gradstep::reference`]; a note on
//! standard error names the tensors.
//!
//! Exit status: 0; 1 if an error is above `--tolerance`, or a parameter is not finite on either side; 2
//! if there is nothing to compare because something is wrong with the command or the file.
//!
//! # The output
//!
//! `trajectory/<t>/<name>`, the parameter after each step, and `state/<name>/<slot>`, the state at the
//! end, in the precision of the computation. The same command writes the same bytes.

use std::io::{stderr, stdout};
use std::process::ExitCode;

#[path = "replay/mod.rs"]
mod replay;

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1);
    replay::command(args, &mut stdout().lock(), &mut stderr().lock()).into()
}
