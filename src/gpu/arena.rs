//! Many tensors in a few large buffers of the library's own.

use std::fmt;
use std::ops::Range;

use super::device::{Gpu, lost};
use super::engine::{Bound, Engine, Group, Ready, begin, floats};
use crate::blueprint::{Call, Owner};
use crate::cut::Piece;
use crate::definition::Optimizer;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::plan::Plan;
use crate::wgsl::Given;

/// Parameters, gradients and state of many tensors, stepped together.
///
/// The number of dispatches does not depend on the number of tensors. Write gradients with your
/// own shaders into the regions that [`grad`](Self::grad) names, or from the host with
/// [`write_grad`](Self::write_grad), and [`encode`](Self::encode) the step.
#[derive(Debug)]
pub struct Arena<O> {
    engine: Engine<O>,
    groups: Vec<ArenaGroup>,
    /// Group and index there of each tensor; none for tensors without elements.
    tensors: Vec<Tensor>,
}

#[derive(Debug)]
struct Tensor {
    shape: Vec<usize>,
    dims: Dims,
    place: Option<(usize, usize)>,
}

#[derive(Debug)]
struct ArenaGroup {
    group: Group,
    params: Vec<wgpu::Buffer>,
    grads: Vec<wgpu::Buffer>,
    binds: Vec<Ready>,
    calls: Vec<Call>,
}

/// Where some elements of a tensor lie. A tensor larger than a binding lies in several regions.
#[derive(Clone, Debug)]
pub struct Region<'a> {
    /// The buffer, with usages STORAGE, COPY_SRC and COPY_DST.
    pub buffer: &'a wgpu::Buffer,
    /// Where in the buffer, in bytes. The first region of a tensor begins at a multiple of 256.
    pub offset: u64,
    /// Which elements of the tensor.
    pub elements: Range<usize>,
}

impl Gpu {
    /// Prepares an optimizer for tensors of the given shapes, with [`Layout::Auto`].
    ///
    /// Compiles what is not compiled yet, and allocates.
    ///
    /// # Errors
    /// Any of [`Error`] but those of a step.
    pub async fn arena<O: Optimizer>(
        &self,
        optimizer: O,
        shapes: &[impl AsRef<[usize]>],
    ) -> Result<Arena<O>> {
        let shapes: Vec<_> = shapes.iter().map(|s| (s.as_ref(), Layout::Auto)).collect();
        self.arena_with(optimizer, &shapes).await
    }

    /// Prepares an optimizer for tensors of the given shapes and layouts.
    ///
    /// # Errors
    /// As for [`arena`](Self::arena).
    pub async fn arena_with<O: Optimizer>(
        &self,
        optimizer: O,
        shapes: &[(impl AsRef<[usize]>, Layout)],
    ) -> Result<Arena<O>> {
        let capacity = self.capacity();
        let mut engine = Engine::new(self, optimizer, Owner::Library)?;
        for (shape, layout) in shapes {
            engine.core.classes.expect(shape.as_ref(), *layout, capacity)?;
        }
        let mut tensors = Vec::new();
        let mut classes: Vec<Vec<Dims>> = Vec::new();
        for (shape, layout) in shapes {
            let shape = shape.as_ref();
            let (class, dims) = engine.class(shape, *layout, Given::Apart, capacity).await?;
            classes.resize(engine.core.classes.len(), Vec::new());
            let place = (!dims.is_empty()).then(|| {
                classes[class].push(dims);
                (class, classes[class].len() - 1)
            });
            tensors.push(Tensor { shape: shape.to_vec(), dims, place });
        }
        engine.make_ring().await?;
        let mut groups = Vec::new();
        for (class, dims) in classes.iter().enumerate() {
            groups.push(ArenaGroup::new(&engine, class, dims, capacity).await?);
        }
        Ok(Arena { engine, groups, tensors })
    }
}

impl ArenaGroup {
    async fn new<O: Optimizer>(
        engine: &Engine<O>,
        class: usize,
        dims: &[Dims],
        capacity: usize,
    ) -> Result<Self> {
        let group = Group::new(&engine.core, class, dims, capacity).await?;
        let Some(ring) = engine.ring_buffer() else {
            return Err(lost("it has no ring of constants"));
        };
        let gpu = &engine.core.gpu;
        let made = gpu
            .checked("the arena", |device| {
                let make = |label| {
                    let chunks = group.layouts.chunks.iter();
                    chunks.map(|c| floats(device, label, c.len, 0.0)).collect::<Option<Vec<_>>>()
                };
                let (params, grads) = (make("gradstep params")?, make("gradstep grads")?);
                let binds = (0..params.len()).map(|c| {
                    let bound = |b| Bound { buffer: b, offset: 0, size: wgpu::Buffer::size(b) };
                    let (param, grad) = (bound(&params[c]), bound(&grads[c]));
                    group.bind(device, &engine.core, ring, c, (&param, 0), (Some(&grad), 0))
                });
                let binds: Option<Vec<_>> = binds.collect();
                Some((params.clone(), grads.clone(), binds?))
            })
            .await?;
        let Some((params, grads, binds)) = made else {
            return Err(lost("it made buffers that cannot be mapped"));
        };
        let calls = group.calls(&engine.core);
        Ok(Self { group, params, grads, binds, calls })
    }
}

impl<O: Optimizer> Arena<O> {
    /// Records one step of all tensors.
    ///
    /// Steps recorded before one submission are steps one after another. A step that is recorded
    /// and never submitted counts in the step number, and nowhere else.
    ///
    /// # Errors
    /// [`Error::Hyper`], [`Error::Structure`], [`Error::RingFull`] or [`Error::DeviceLost`];
    /// nothing is recorded then.
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let ticket = self.engine.begin()?;
        {
            let mut pass = begin(encoder);
            for group in &self.groups {
                let (calls, binds) = (&group.calls, &group.binds);
                self.engine.core.dispatch(&mut pass, &group.group, calls, binds, &ticket);
            }
        }
        self.engine.end(encoder, ticket);
        Ok(())
    }

    /// The number of dispatches of a step.
    pub fn dispatches(&self) -> usize {
        self.groups.iter().map(|g| g.calls.len()).sum()
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &O {
        &self.engine.optimizer
    }

    /// The optimizer, to change hyper-parameters between steps. Nothing is compiled anew.
    pub fn optimizer_mut(&mut self) -> &mut O {
        &mut self.engine.optimizer
    }

    /// The number of steps recorded.
    pub fn steps(&self) -> u64 {
        self.engine.t
    }

    /// Sets the number of steps taken, after state was restored.
    pub fn set_steps(&mut self, t: u64) {
        self.engine.t = t;
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True if there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The plans by which the tensors run.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.engine.core.classes.iter().map(|c| &c.plan)
    }

    /// Bytes of optimizer state of all tensors.
    pub fn state_bytes(&self) -> usize {
        let bytes = |t: &Tensor| {
            let class = t.place.map_or(0, |p| p.0);
            4 * t.dims.state_len(&self.engine.core.classes[class].plan.graph)
        };
        self.tensors.iter().map(bytes).sum()
    }

    /// Where the parameter of a tensor lies.
    ///
    /// # Errors
    /// [`Error::Count`] for an index that does not exist.
    pub fn param(&self, tensor: usize) -> Result<Vec<Region<'_>>> {
        self.regions(tensor, |g| &g.params)
    }

    /// Where the gradient of a tensor is expected.
    ///
    /// # Errors
    /// [`Error::Count`] for an index that does not exist.
    pub fn grad(&self, tensor: usize) -> Result<Vec<Region<'_>>> {
        self.regions(tensor, |g| &g.grads)
    }

    /// Overwrites a parameter from the host, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_param(&self, tensor: usize, values: &[f32]) -> Result<()> {
        self.write(tensor, "parameter", values, |g| &g.params)
    }

    /// Writes a gradient from the host, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_grad(&self, tensor: usize, values: &[f32]) -> Result<()> {
        self.write(tensor, "gradient", values, |g| &g.grads)
    }

    /// Copies a parameter to the host. Submits a copy and waits for it.
    ///
    /// # Errors
    /// [`Error::Count`] or [`Error::DeviceLost`].
    pub async fn read_param(&self, tensor: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.tensor(tensor)?.dims.len()];
        for region in self.param(tensor)? {
            let to = &mut out[region.elements.clone()];
            self.engine.core.gpu.read(region.buffer, region.offset, to).await?;
        }
        Ok(out)
    }

    /// Copies a slot of a tensor to the host.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::NoSlot`] or [`Error::DeviceLost`].
    pub async fn read_slot(&self, tensor: usize, name: &str) -> Result<Vec<f32>> {
        match self.tensor(tensor)?.place {
            Some((g, i)) => self.groups[g].group.read_slot(&self.engine.core, i, name).await,
            None => Ok(Vec::new()),
        }
    }

    /// Overwrites a slot of a tensor, in effect from the next submit on.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::NoSlot`], [`Error::Shape`] or [`Error::DeviceLost`].
    pub fn write_slot(&self, tensor: usize, name: &str, values: &[f32]) -> Result<()> {
        match self.tensor(tensor)?.place {
            Some((g, i)) => self.groups[g].group.write_slot(&self.engine.core, i, name, values),
            None => Ok(()),
        }
    }

    fn tensor(&self, tensor: usize) -> Result<&Tensor> {
        let expected = self.tensors.len();
        let none = Error::Count { what: "tensors", expected, found: tensor.saturating_add(1) };
        self.tensors.get(tensor).ok_or(none)
    }

    fn pieces(&self, tensor: usize) -> Result<Option<(&ArenaGroup, &[Piece])>> {
        let place = self.tensor(tensor)?.place;
        Ok(place.map(|(g, i)| {
            let group = &self.groups[g];
            (group, group.group.layouts.pieces[i].as_slice())
        }))
    }

    fn regions<'s>(
        &'s self,
        tensor: usize,
        of: fn(&'s ArenaGroup) -> &'s Vec<wgpu::Buffer>,
    ) -> Result<Vec<Region<'s>>> {
        let Some((group, pieces)) = self.pieces(tensor)? else {
            return Ok(Vec::new());
        };
        let region = |p: &Piece| Region {
            buffer: &of(group)[p.chunk],
            offset: p.at as u64 * 4,
            elements: p.elements.clone(),
        };
        Ok(pieces.iter().map(region).collect())
    }

    fn write<'s>(
        &'s self,
        tensor: usize,
        what: &str,
        values: &[f32],
        of: fn(&'s ArenaGroup) -> &'s Vec<wgpu::Buffer>,
    ) -> Result<()> {
        let known = self.tensor(tensor)?;
        if values.len() != known.dims.len() {
            return Err(Error::Shape {
                what: format!("{what} of tensor {tensor}"),
                expected: known.shape.clone(),
                found: vec![values.len()],
            });
        }
        let Some((group, pieces)) = self.pieces(tensor)? else {
            return Ok(());
        };
        for piece in pieces {
            let buffer = &of(group)[piece.chunk];
            let values = &values[piece.elements.clone()];
            self.engine.core.gpu.write(buffer, piece.at as u64 * 4, values)?;
        }
        Ok(())
    }
}

impl fmt::Display for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "elements {:?} from byte {}", self.elements, self.offset)
    }
}
