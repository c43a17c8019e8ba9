/// <reference types="@webgpu/types" />

/** Where a WASM module comes from, if not from beside the script. */
export type Source = URL | Response | Promise<Response> | BufferSource | WebAssembly.Module;

/** The two WASM modules: `pkg/gradstep_gpu_bg.wasm` for devices, `pkg/gradstep_cpu_bg.wasm` for typed arrays. */
export interface Sources {
  gpu?: Source | boolean;
  cpu?: Source | boolean;
}

/**
 * Loads modules ahead, each once. `Optimizer.create` loads the one that it needs where nobody did. By
 * default it is what a browser with or without WebGPU is likely to need; `{ gpu: true, cpu: true }` loads
 * both. A source alone is taken for the module that it turns out to be.
 */
export function init(sources?: Source | Sources): Promise<void>;

/** The optimizers that are known by name. Loads a module where none is. */
export function optimizers(): Promise<{ name: string; variant: string | null }[]>;

/** How a tensor of any rank is seen by optimizers that tell rows from columns. */
export type Layout = "auto" | "vector" | "last_two" | "flatten";

/** A parameter on a device. Without `buffer` one is made, of zeros. */
export interface GpuParam {
  name: string;
  shape: number[];
  layout?: Layout;
  /**
   * The page's own buffer, with the usage `STORAGE` (and `COPY_SRC`, to export state; `COPY_DST`, to
   * import it; both with averages).
   */
  buffer?: GPUBuffer;
}

/** A parameter in memory. Without `data` it is made, of zeros. */
export interface CpuParam {
  name: string;
  shape: number[];
  layout?: Layout;
  data?: Float32Array;
}

/** Parameters: names, a pattern of names, or a test. */
export type Select =
  | string[]
  | RegExp
  | ((param: { name: string; shape: number[] }) => boolean);

/** A hyper-parameter as a function of the step: a number, or one of these with `warmup` steps in front. */
export type Schedule =
  | number
  | ({ warmup?: number } & (
      | { kind: "constant"; value: number }
      | { kind: "linear"; from: number; to?: number; steps: number }
      | { kind: "polynomial"; from: number; to?: number; steps: number; power?: number }
      | { kind: "cosine"; from: number; to?: number; steps: number }
      | { kind: "cosineRestarts"; from: number; to?: number; first: number; factor?: number }
      | { kind: "inverseSqrt"; from: number; timescale: number }
      | { kind: "exponential"; from: number; factor: number; steps: number }
      | { kind: "step"; from: number; factor: number; steps: number }
      | { kind: "multiStep"; from: number; factor: number; milestones: number[] }
      | { kind: "oneCycle"; peak: number; steps: number }
      | { kind: "wsd"; peak: number; to?: number; stable: number; decay: number }
    ));

/**
 * An optimizer and its settings, by the names of its reference implementation; `weightDecay` is read
 * as `weight_decay`. What is not given has the reference's default.
 */
export interface Settings {
  optimizer: "came" | "adafactor" | "adam" | "adamw" | "sgd" | "sm3" | (string & {});
  lr?: number | null | Exclude<Schedule, number>;
  layout?: Layout;
  /** Multiplies the learning rate, scheduled or not. */
  lrFactor?: number;
  /** Parameters whose weights do not decay. */
  noDecay?: Select;
  /** Schedules of any hyper-parameters, by the library's names (`lr`, `beta1`, `weight_decay`, …). */
  schedules?: Record<string, Schedule>;
  [setting: string]: unknown;
}

/** Parameters that are treated alike. Each falls into the first group that takes it. */
export type Group =
  | ({ name: string; params?: Select; frozen?: false } & Settings)
  | { name: string; params?: Select; frozen: true };

/** What is done to gradients before a step. */
export interface Gradients {
  /** Greatest norm of all gradients together. */
  clipNorm?: number;
  /** Greatest magnitude of an element. */
  clipValue?: number;
  /** Whether a gradient that is not finite skips the whole step. */
  checkFinite?: boolean;
  /** What the loss was multiplied by. */
  lossScale?:
    | number
    | "dynamic"
    | { initial?: number; growth?: number; backoff?: number; interval?: number };
}

/** What is kept beside a step. */
export interface Beside {
  /**
   * An average of the parameters: exponential with this `decay`, or (`"polyak"`) the mean of those after
   * each step, or after each from step `from` on.
   */
  average?: "polyak" | { decay: number } | { from: number };
  /**
   * A step follows so many micro-batches, each of which is a call of `encode` or `step`, and takes the
   * mean (or the sum) of their gradients.
   */
  accumulate?: number | { batches: number; kind?: "mean" | "sum" };
}

/** What `encode` and `step` may be told. */
export interface Batch {
  /** With `accumulate`: whether a step follows this micro-batch, whatever their number. */
  last?: boolean;
}

/** On a page's own device. */
export type GpuOptions = Gradients & Beside & { device: GPUDevice; params: GpuParam[] } & (
    | Settings
    | { groups: Group[] }
  );

/** On typed arrays. */
export type CpuOptions = Gradients & Beside & { device?: undefined; params: CpuParam[] } & (
    | Settings
    | { groups: Group[] }
  );

/** What became of a step. */
export interface Outcome {
  /** Whether a gradient was not finite and nothing was changed. */
  skipped: boolean;
  /** The norm of all gradients together, where it was taken. */
  gradNorm?: number | null;
  /** What gradients were multiplied by to clip their norm. */
  clipFactor: number;
  /** What the loss of the next step is to be multiplied by. */
  lossScale?: number;
  /** On typed arrays: the first parameter whose gradient was not finite. */
  notFinite?: string | null;
}

/** One for each parameter that is not frozen: by name, or in the order of the parameters. */
export type Grads<T> = Record<string, T> | (T | undefined | null)[];

/**
 * The optimizer of all parameters of a model. `T` is a gradient: `GPUBuffer` or `Float32Array`; `O` is
 * what a step gives.
 */
export class Optimizer<
  T extends GPUBuffer | Float32Array = GPUBuffer | Float32Array,
  O = T extends Float32Array ? Outcome : void,
> {
  private constructor();
  /** Makes one: on `device` where that is given, on typed arrays otherwise. */
  static create(options: GpuOptions): Promise<Optimizer<GPUBuffer>>;
  static create(options: CpuOptions & { accumulate?: undefined }): Promise<Optimizer<Float32Array>>;
  static create(options: CpuOptions): Promise<Optimizer<Float32Array, Outcome | undefined>>;
  /**
   * Records a step. Nothing is submitted, and nothing waits. With `accumulate` it records a micro-batch,
   * and a step after the last of them. Returns whether there is a step.
   */
  encode(encoder: GPUCommandEncoder, grads: Grads<T>, batch?: Batch): boolean;
  /**
   * Takes a step. On a device it is submitted at once, and the promise tells what was wrong with it. With
   * `accumulate` it adds a micro-batch, and takes a step after the last of them; without one, there is
   * no outcome.
   */
  step(grads: Grads<T>, batch?: Batch): Promise<O>;
  /** Micro-batches since the last step. */
  readonly pending: number;
  /** Forgets the micro-batches since the last step: the next one is the first again. */
  discard(): void;
  /**
   * Swaps all parameters and their averages, to evaluate with these; a second call swaps them back. In
   * between there is no step, and no state is exported or imported.
   */
  swapAverages(): Promise<void>;
  /** Records that. Nothing is submitted. */
  encodeSwap(encoder: GPUCommandEncoder): void;
  /** Calls `f` while the averages are in the place of the parameters. */
  withAverages<R>(f: (optimizer: this) => R | Promise<R>): Promise<R>;
  /** What became of the last step: waits for the device. */
  outcome(): Promise<Outcome>;
  /** Parameters and state as the bytes of a safetensors file, which the Rust crate reads, too. */
  exportState(): Promise<Uint8Array>;
  /** Goes back to such a file: parameters, averages, state, step number, hyper-parameters. */
  importState(file: Uint8Array): Promise<void>;
  /** The number of steps taken or recorded, skipped ones included. */
  readonly steps: number;
  /** Bytes of the optimizer's state, averages and sums of gradients not counted. */
  readonly stateBytes: number;
  /** Which parameter is in which group, and why, as text. */
  describe(): string;
  /** A hyper-parameter by the library's name. */
  getHyper(name: string, group?: string): number;
  /** Sets one from the next step on. What is scheduled is set by its schedule again. */
  setHyper(name: string, value: number, group?: string): void;
  /** The buffer or typed array of a parameter. */
  param(name: string): T;
  /** Frees what was allocated. The page's own device and buffers stay. */
  dispose(): void;
  [Symbol.dispose](): void;
}
