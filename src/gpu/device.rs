//! The device: opening one, compiling programs once, reading back, noticing that it is gone.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::blueprint::{self, Bind};
use crate::definition::Recipe;
use crate::error::{Error, Result};
use crate::logging::debug;
use crate::plan::Plan;
use crate::trace::{Kind, Watch};
use crate::wgsl::{self, Form, Program};

/// A graphics device: the caller's own, or one that the library opened.
///
/// Cheap to clone; clones share the compiled programs.
#[derive(Clone)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    device: wgpu::Device,
    queue: wgpu::Queue,
    programs: Mutex<HashMap<Key, Arc<Pipelines>>>,
}

/// What a program depends on: not on shapes, and not on hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    recipe: Recipe,
    kind: Kind,
    fused: bool,
    form: Form,
    watch: Watch,
}

/// A compiled program.
pub(crate) struct Pipelines {
    pub(crate) program: Arc<Program>,
    pub(crate) form: Form,
    pub(crate) pipelines: Vec<wgpu::ComputePipeline>,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("adapter", &self.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipelines").field("dispatches", &self.program.dispatches).finish()
    }
}

impl Gpu {
    /// Works on the caller's own device and queue.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::GpuLimit`] if the device was made with less than the
    /// default limits of WebGPU where they matter.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self> {
        let this = Self(Arc::new(Shared {
            device: device.clone(),
            queue: queue.clone(),
            programs: Mutex::default(),
        }));
        this.check_alive()?;
        let limits = device.limits();
        for (limit, available, needed) in [
            (
                "maxComputeInvocationsPerWorkgroup",
                limits.max_compute_invocations_per_workgroup,
                256,
            ),
            ("maxComputeWorkgroupSizeX", limits.max_compute_workgroup_size_x, 256),
            ("maxComputeWorkgroupStorageSize", limits.max_compute_workgroup_storage_size, 16384),
            ("maxStorageBuffersPerShaderStage", limits.max_storage_buffers_per_shader_stage, 5),
        ] {
            if available < needed {
                return Err(Error::GpuLimit {
                    what: "the library".into(),
                    needed: needed.into(),
                    limit,
                    available: available.into(),
                    remedy: "request a device with WebGPU's default limits",
                });
            }
        }
        Ok(this)
    }

    /// Finds an adapter and opens a device with exactly WebGPU's default limits.
    ///
    /// # Errors
    /// [`Error::NoAdapter`].
    pub async fn open() -> Result<Self> {
        Self::open_with(wgpu::Limits::defaults()).await
    }

    /// Finds an adapter and opens a device with the given limits.
    ///
    /// # Errors
    /// [`Error::NoAdapter`].
    pub async fn open_with(required_limits: wgpu::Limits) -> Result<Self> {
        let none = |e: &dyn fmt::Display| Error::NoAdapter { reason: e.to_string() };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|e| none(&e))?;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("gradstep"),
                required_limits,
                ..Default::default()
            })
            .await
            .map_err(|e| none(&e))?;
        Self::new(&device, &queue)
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// The adapter's name, and whether it is software.
    #[must_use]
    pub fn name(&self) -> String {
        let info = self.0.device.adapter_info();
        let software = info.device_type == wgpu::DeviceType::Cpu;
        format!("{}{}", info.name, if software { " (software)" } else { "" })
    }

    /// The number of programs that this device has compiled so far. Steps compile nothing.
    #[must_use]
    pub fn compiled_programs(&self) -> usize {
        self.programs().len()
    }

    /// The number of bytes that one binding holds.
    pub(crate) fn binding(&self) -> u64 {
        let limits = self.0.device.limits();
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
    }

    /// The number of elements that fit one binding.
    pub(crate) fn capacity(&self) -> usize {
        blueprint::capacity(self.binding())
    }

    /// The number of storage buffers that a shader binds at most.
    pub(crate) fn storage_buffers(&self) -> u32 {
        self.0.device.limits().max_storage_buffers_per_shader_stage
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Pipelines>>> {
        self.0.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device that is lost swallows everything in silence. A buffer mapped at its creation tells.
    pub(crate) fn check_alive(&self) -> Result<()> {
        let probe = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("gradstep probe"),
            size: 4,
            usage: wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        let alive = probe.get_mapped_range_mut(..).is_ok();
        if alive { Ok(()) } else { Err(lost("it made a buffer that cannot be mapped")) }
    }

    /// Runs `f` and turns what wgpu complains of into an error.
    pub(crate) async fn checked<R>(
        &self,
        what: impl fmt::Display,
        f: impl FnOnce(&wgpu::Device) -> R,
    ) -> Result<R> {
        let (result, errors) = {
            let scopes = [
                wgpu::ErrorFilter::OutOfMemory,
                wgpu::ErrorFilter::Internal,
                wgpu::ErrorFilter::Validation,
            ]
            .map(|filter| self.0.device.push_error_scope(filter));
            let result = f(&self.0.device);
            let [a, b, c] = scopes;
            // Innermost first, and all of them before the first wait.
            let (c, b, a) = (c.pop(), b.pop(), a.pop());
            (result, (c, b, a))
        };
        let (c, b, a) = errors;
        // All of them are awaited, whatever the first one says.
        let errors = [c.await, b.await, a.await];
        match errors.into_iter().flatten().next() {
            Some(error) => Err(Error::Gpu { what: what.to_string(), reason: error.to_string() }),
            None => Ok(result),
        }
    }

    /// As [`checked`](Self::checked) for what must not wait: errors are seen natively, where they
    /// are known at once.
    pub(crate) fn checked_now<R>(&self, f: impl FnOnce(&wgpu::Device) -> R) -> Result<R, String> {
        let scope = self.0.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = f(&self.0.device);
        let mut error = Box::pin(scope.pop());
        match error.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(error)) => Err(error.to_string()),
            _ => Ok(result),
        }
    }

    /// The compiled program of a plan.
    pub(crate) async fn pipelines(
        &self,
        recipe: Recipe,
        plan: &Plan,
        form: Form,
        watch: Watch,
    ) -> Result<Arc<Pipelines>> {
        let key = Key { recipe, kind: plan.graph.kind, fused: plan.fused, form, watch };
        if let Some(found) = self.programs().get(&key) {
            return Ok(found.clone());
        }
        blueprint::check_storage_buffers(plan, form.given, self.storage_buffers())?;
        let program = Arc::new(wgsl::print_form(plan, form)?);
        debug!("compiling {} for a {}: {:?}", recipe.name(), plan.graph.kind, program.dispatches);
        let bindings = blueprint::bindings(plan, &program, form);
        let entries: Vec<_> = bindings.into_iter().map(entry).collect();
        let name = recipe.name();
        let compiled = self
            .checked(format!("the program of {name}"), |device| {
                let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(name),
                    source: wgpu::ShaderSource::Wgsl(program.source.as_str().into()),
                });
                let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                    label: Some(name),
                    entries: &entries,
                });
                let pipeline_layout =
                    device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                        label: Some(name),
                        bind_group_layouts: &[Some(&layout)],
                        immediate_size: 0,
                    });
                let pipelines = program.dispatches.iter().map(|dispatch| {
                    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                        label: Some(dispatch.entry()),
                        layout: Some(&pipeline_layout),
                        module: &module,
                        entry_point: Some(dispatch.entry()),
                        compilation_options: wgpu::PipelineCompilationOptions {
                            // Every place of workgroup memory is written before it is read.
                            zero_initialize_workgroup_memory: false,
                            ..Default::default()
                        },
                        cache: None,
                    })
                });
                (pipelines.collect(), layout)
            })
            .await?;
        let (pipelines, layout) = compiled;
        let compiled = Arc::new(Pipelines { program, form, pipelines, layout });
        // Somebody may have compiled the same meanwhile: the first one stays.
        Ok(self.programs().entry(key).or_insert(compiled).clone())
    }

    /// A storage buffer with the given contents.
    pub(crate) fn buffer_of<T: bytemuck::Pod>(
        device: &wgpu::Device,
        label: &str,
        contents: &[T],
        usage: wgpu::BufferUsages,
    ) -> Option<wgpu::Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(contents);
        let size = (bytes.len() as u64).next_multiple_of(4).max(16);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: true,
        });
        {
            let mut view = buffer.get_mapped_range_mut(..).ok()?;
            view.slice(..bytes.len()).copy_from_slice(bytes);
        }
        buffer.unmap();
        Some(buffer)
    }

    /// Copies a range of a buffer to the host.
    pub(crate) async fn read(&self, buffer: &wgpu::Buffer, at: u64, out: &mut [f32]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.check_alive()?;
        let size = (out.len() * 4) as u64;
        let (sender, receiver) = oneshot();
        let (staging, submission) = self
            .checked("a read-back", |device| {
                let staging = device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("gradstep read-back"),
                    size,
                    usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                    mapped_at_creation: false,
                });
                let mut encoder = device.create_command_encoder(&Default::default());
                encoder.copy_buffer_to_buffer(buffer, at, &staging, 0, size);
                encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., sender);
                (staging, self.0.queue.submit([encoder.finish()]))
            })
            .await?;
        // In a browser this returns at once, and the wait below is a promise.
        self.0
            .device
            .poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
            .map_err(|e| lost(&e.to_string()))?;
        receiver.await.map_err(|e| lost(&e.to_string()))?;
        let view = staging.get_mapped_range(..).map_err(|e| lost(&e.to_string()))?;
        out.copy_from_slice(bytemuck::cast_slice(&view));
        Ok(())
    }

    /// Writes to a range of a buffer, in effect from the next submit on.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, at: u64, values: &[f32]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let written = self.checked_now(|_| {
            let size = std::num::NonZeroU64::new(size_of_val(values) as u64)?;
            let mut view = self.0.queue.write_buffer_with(buffer, at, size)?;
            view.copy_from_slice(bytemuck::cast_slice(values));
            Some(())
        });
        match written {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(lost("it took no data")),
            Err(reason) => Err(Error::Gpu { what: "a write".into(), reason }),
        }
    }
}

pub(crate) fn lost(reason: &str) -> Error {
    Error::DeviceLost { reason: reason.into() }
}

fn entry((binding, what, size): (u32, Bind, u64)) -> wgpu::BindGroupLayoutEntry {
    let ty = match what {
        _ if what.is_uniform() => wgpu::BufferBindingType::Uniform,
        _ => wgpu::BufferBindingType::Storage { read_only: what.is_read_only() },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            // A step chooses its set of the ring.
            has_dynamic_offset: what == Bind::Hosts,
            min_binding_size: std::num::NonZeroU64::new(size),
        },
        count: None,
    }
}

type Mapped = Result<(), wgpu::BufferAsyncError>;

/// A callback and the future that it completes.
fn oneshot() -> (impl FnOnce(Mapped) + Send + 'static, impl Future<Output = Mapped>) {
    struct Receiver(Arc<Mutex<(Option<Mapped>, Option<Waker>)>>);
    impl Future for Receiver {
        type Output = Mapped;
        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Mapped> {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match state.0.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    state.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }
    }
    let state = Arc::new(Mutex::new((None, None)));
    let receiver = Receiver(state.clone());
    let send = move |result| {
        let waker = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = Some(result);
            state.1.take()
        };
        if let Some(waker) = waker {
            Waker::wake(waker);
        }
    };
    (send, receiver)
}
