//! Values that remember how they were made, and the walk back through them.
//!
//! This replaces candle's own graph for training. Candle's `backward` zero-fills and adds every
//! gradient into a fresh row-major tensor (which undoes channels-last memory), keeps all of them to
//! the end, and limits a custom operation to three inputs. Here a gradient keeps the layout that its
//! kernel gave it, is dropped as soon as it was used, and what a step of the walk has consumed (saved
//! activations included) is freed at once.
//!
//! Nodes are numbered as they are made, so descending numbers are a topological order: the walk needs
//! no sorting, and its additions always happen in the same order.

use std::cell::Cell;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::LocalKey;

use candle_core::{DType, Tensor, Var};

use crate::gradient::Gradient;
use crate::memory::on_host;
use crate::pointwise::sum_of;
use crate::stored::stored_as;
use crate::{Error, Precision, Result, pattern};

static NEXT_NODE: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static UNTRACKED: Cell<bool> = const { Cell::new(false) };
    static AGAIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without recording gradients: its results are constants, and no activation is kept.
///
/// For inference and evaluation of a trainable network.
pub fn untracked<T>(f: impl FnOnce() -> T) -> T {
    while_set(&UNTRACKED, f)
}

/// Returns whether a forward pass runs [again](recomputed), for its gradient.
///
/// Side effects of a forward pass (moving running statistics) must not happen then.
pub fn is_again() -> bool {
    AGAIN.get()
}

/// Runs `f` with `flag` set on this thread, and puts it back however `f` ends.
fn while_set<T>(flag: &'static LocalKey<Cell<bool>>, f: impl FnOnce() -> T) -> T {
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(flag, flag.replace(true));
    f()
}

/// Gradient checkpointing: computes `f` of `x`, drops its activations, and recomputes them in the backward
/// pass.
///
/// `parameters` are the leaves that `f` uses. A second run of `f` must give the same result (Chen et al.
/// 2016, arXiv 1604.06174).
///
/// # Errors
/// Errors of `f`; a parameter that is tracked and no leaf.
pub fn recomputed<E: From<Error> + Display>(
    x: &Value,
    parameters: &[&Value],
    f: impl Fn(&Value) -> std::result::Result<Value, E> + Send + 'static,
) -> std::result::Result<Value, E> {
    let leaves: Vec<&Value> = parameters.iter().copied().filter(|value| value.is_tracked()).collect();
    // Choices of a pass are kept in the order of its operations: each may run once.
    if UNTRACKED.get() || pattern::is_on() || (leaves.is_empty() && !x.is_tracked()) {
        return f(x);
    }
    let result = untracked(|| f(x))?;
    let names = leaves
        .iter()
        .map(|leaf| match leaf.node.as_deref().map(|node| &node.kind) {
            Some(Kind::Leaf(name)) => Ok(name.clone()),
            _ => Err(Error::invalid("recomputed", "a parameter is not a leaf")),
        })
        .collect::<Result<Vec<_>>>()?;
    let precision = Precision::asked();
    let (saved, tracked) = (x.tensor.clone(), x.is_tracked());
    let inputs: Vec<&Value> = [x].into_iter().chain(leaves).collect();
    Ok(Value::operation(&inputs, result.tensor, move |g| {
        let x = match tracked {
            true => Value::leaf(INPUT, saved),
            false => Value::constant(saved),
        };
        let result = while_set(&AGAIN, || precision.scope(|| f(&x)));
        let result = result.map_err(|error| Error::invalid("recomputed", error.to_string()))?;
        let mut gradients = result.backward_from(g)?;
        Ok([INPUT]
            .into_iter()
            .chain(names.iter().map(|name| &**name))
            .map(|name| gradients.remove(name))
            .collect())
    }))
}

/// The name of the input of what is recomputed; no parameter's, since those have a layer.
const INPUT: &str = "input";

type Backward = Box<dyn FnOnce(Gradient) -> Result<Vec<Option<Gradient>>> + Send>;

/// Tensor with its node in the autograd graph, if a gradient may be asked of it.
#[derive(Clone)]
pub struct Value {
    tensor: Tensor,
    node: Option<Arc<Node>>,
    remake: Option<Remake>,
}

type Remake = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// Input of an operation as it is kept for the gradient.
pub(crate) enum Saved {
    Tensor(Tensor),
    Remake(Remake, Precision),
}

impl Saved {
    /// The input's tensor.
    pub(crate) fn tensor(self) -> Result<Tensor> {
        match self {
            Self::Tensor(tensor) => Ok(tensor),
            Self::Remake(make, precision) => while_set(&AGAIN, || untracked(|| precision.scope(|| make()))),
        }
    }
}

struct Node {
    number: u64,
    kind: Kind,
    /// Type of the value, and of the gradient that comes to it.
    dtype: DType,
}

enum Kind {
    Leaf(Arc<str>),
    Operation { inputs: Vec<Option<Arc<Node>>>, backward: Mutex<Option<Backward>> },
}

/// Gradients by the names of the leaves, in order of the names.
pub type Gradients = BTreeMap<Arc<str>, Tensor>;

/// Receiver of the gradients of leaves while a [backward pass](Value::backward_into) goes on.
///
/// [`Gradients`] keeps them.
pub trait Sink<E> {
    /// Takes the gradient of a leaf, which nothing is added to any more.
    ///
    /// # Errors
    /// Errors of the receiver end the walk.
    fn leaf(&mut self, name: &Arc<str>, gradient: Tensor) -> std::result::Result<(), E>;

    /// Hears that one more operation was walked.
    ///
    /// # Errors
    /// Errors of the receiver end the walk.
    fn walked(&mut self) -> std::result::Result<(), E> {
        Ok(())
    }
}

impl<E: From<Error>> Sink<E> for Gradients {
    fn leaf(&mut self, name: &Arc<str>, gradient: Tensor) -> std::result::Result<(), E> {
        Ok(add_into(self, name.clone(), gradient)?)
    }
}

impl Value {
    /// Constant: a value without a gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self { tensor, node: None, remake: None }
    }

    /// Leaf: a value whose gradient [`backward`](Self::backward) reports under `name`.
    pub fn leaf(name: impl Into<Arc<str>>, tensor: Tensor) -> Self {
        let node = Node::new(Kind::Leaf(name.into()), tensor.dtype());
        Self { tensor, node: Some(Arc::new(node)), remake: None }
    }

    /// Records the result of an operation on `inputs`.
    ///
    /// `backward` turns the gradient of the result (in its shape, in any layout) into one gradient per
    /// input, `None` where there is none. It is dropped at once, with all it holds, if no input is tracked.
    pub fn operation(
        inputs: &[&Value],
        tensor: Tensor,
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Self {
        Self::consuming_operation(inputs, tensor, move |gradient| {
            let gradients = backward(&gradient.into_tensor()?)?;
            Ok(gradients.into_iter().map(|gradient| gradient.map(Gradient::Shared)).collect())
        })
    }

    /// Records an [`operation`](Self::operation) whose `backward` owns the gradient, and so can free it early or overwrite it; it
    /// may give gradients that are nobody else's.
    pub(crate) fn consuming_operation(
        inputs: &[&Value],
        tensor: Tensor,
        backward: impl FnOnce(Gradient) -> Result<Vec<Option<Gradient>>> + Send + 'static,
    ) -> Self {
        if UNTRACKED.get() || inputs.iter().all(|input| !input.is_tracked()) {
            return Self::constant(tensor);
        }
        let inputs = inputs.iter().map(|input| input.node.clone()).collect();
        let backward: Backward = Box::new(backward);
        let kind = Kind::Operation { inputs, backward: Mutex::new(Some(backward)) };
        let node = Node::new(kind, tensor.dtype());
        Self { tensor, node: Some(Arc::new(node)), remake: None }
    }

    /// Marks a large map that is cheap to make: a convolution that needs it for its gradient keeps `make`
    /// instead.
    ///
    /// `make` must give the same tensor again.
    pub fn remade_by<E: Display>(
        self,
        make: impl Fn() -> std::result::Result<Value, E> + Send + Sync + 'static,
    ) -> Self {
        let make = move || match make() {
            Ok(value) => Ok(value.tensor),
            Err(error) => Err(Error::invalid("remade", error.to_string())),
        };
        Self { remake: Some(Arc::new(make)), ..self }
    }

    /// Returns this value as an operation may keep it for its gradient.
    pub(crate) fn saved(&self) -> Saved {
        match &self.remake {
            Some(make) if !pattern::is_on() => Saved::Remake(make.clone(), Precision::asked()),
            _ => Saved::Tensor(self.tensor.clone()),
        }
    }

    /// Records a formula written in candle's own operations as one node.
    ///
    /// `f` sees the inputs as candle variables and returns one tensor; the gradient is candle's. For
    /// formulas over small tensors (losses), where clarity counts more than a fused kernel. Candle's
    /// operations with wrong gradients are listed in `clippy.toml`.
    ///
    /// # Errors
    /// Errors of `f`.
    pub fn from_candle(
        inputs: &[&Value],
        f: impl FnOnce(&[Tensor]) -> candle_core::Result<Tensor>,
    ) -> Result<Self> {
        if inputs.iter().all(|input| !input.is_tracked()) {
            let tensors = inputs.iter().map(|input| stored_as(&input.tensor, DType::F32));
            let tensors = tensors.collect::<Result<Vec<_>>>()?;
            return Ok(Self::constant(f(&tensors)?.detach()));
        }
        // Only tracked inputs become variables: candle then computes no other gradient.
        let tensors = inputs
            .iter()
            .map(|input| {
                let tensor = stored_as(&input.tensor, DType::F32)?;
                Ok(if input.is_tracked() { Var::from_tensor(&tensor)?.into_inner() } else { tensor })
            })
            .collect::<Result<Vec<_>>>()?;
        let result = f(&tensors)?;
        let output = result.detach();
        Ok(Self::operation(inputs, output, move |gradient| {
            let gradients = (result * gradient)?.sum_all()?.backward()?;
            Ok(tensors.iter().map(|tensor| gradients.get(tensor).cloned()).collect())
        }))
    }

    /// The tensor, outside any graph.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Returns whether a gradient may be asked of this value.
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// Detaches the tensor from its history: a constant.
    pub fn detach(&self) -> Self {
        Self::constant(self.tensor.clone())
    }

    /// The sizes of the tensor's dimensions.
    pub fn dims(&self) -> &[usize] {
        self.tensor.dims()
    }

    /// Returns the only element of a tensor that has one.
    ///
    /// # Errors
    /// If there are more, or the element is not f32.
    pub fn item(&self) -> Result<f32> {
        Ok(on_host(&self.tensor.reshape(())?)?.to_scalar::<f32>()?)
    }

    /// Backward pass: the gradients of this scalar with respect to every leaf it depends on.
    ///
    /// The graph behind the scalar is used up: each operation gives its gradient once.
    ///
    /// # Errors
    /// If this is no scalar, or a part of the graph was walked before.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use ckd_kernels::Value;
    /// use ckd_kernels::elementwise::{add, scale};
    ///
    /// let x = Value::leaf("x", Tensor::new(3f32, &Device::Cpu)?);
    /// let y = add(&scale(&x, 2.0)?, &x)?;
    /// assert_eq!(y.item()?, 9.0);
    /// assert_eq!(y.backward()?["x"].to_scalar::<f32>()?, 3.0);
    /// # Ok::<(), ckd_kernels::Error>(())
    /// ```
    pub fn backward(&self) -> Result<Gradients> {
        let mut gradients = Gradients::new();
        self.backward_into::<Error>(&mut gradients)?;
        Ok(gradients)
    }

    /// [Backward pass](Self::backward) that gives each leaf's gradient to `sink` as soon as the last operation that uses the
    /// leaf was walked.
    ///
    /// # Errors
    /// If this is no scalar, or a part of the graph was walked before; errors of `sink`.
    pub fn backward_into<E: From<Error>>(&self, sink: &mut dyn Sink<E>) -> std::result::Result<(), E> {
        if self.tensor.elem_count() != 1 {
            let reason =
                format!("the gradient of a scalar is defined, not that of {:?}", self.tensor.shape());
            return Err(Error::invalid("backward", reason).into());
        }
        self.walk(self.tensor.ones_like().map_err(Error::from)?, sink)
    }

    /// Backward pass from `gradient`, that of a later scalar with respect to this value.
    ///
    /// # Errors
    /// If `gradient` has another shape, or a part of the graph was walked before.
    pub fn backward_from(&self, gradient: &Tensor) -> Result<Gradients> {
        if gradient.dims() != self.dims() {
            let reason = format!("gradient {:?} of a result {:?}", gradient.dims(), self.dims());
            return Err(Error::invalid("backward", reason));
        }
        let mut gradients = Gradients::new();
        self.walk::<Error>(gradient.clone(), &mut gradients)?;
        Ok(gradients)
    }

    fn walk<E: From<Error>>(&self, gradient: Tensor, sink: &mut dyn Sink<E>) -> std::result::Result<(), E> {
        let Some(root) = &self.node else { return Ok(()) };
        let mut uses = uses_of_leaves(root);
        let gradient = Gradient::Shared(gradient).stored_as(root.dtype)?;
        let mut pending = HashMap::from([(root.number, gradient)]);
        let mut queue = BinaryHeap::from([ByNumber(root.clone())]);
        while let Some(ByNumber(node)) = queue.pop() {
            let Some(gradient) = pending.remove(&node.number) else { continue };
            let (inputs, backward) = match &node.kind {
                // The walk did not come to all its uses.
                Kind::Leaf(name) => {
                    sink.leaf(name, gradient.into_tensor()?)?;
                    continue;
                }
                Kind::Operation { inputs, backward } => (inputs, backward),
            };
            let backward =
                backward.lock().map_err(|_| Error::invalid("backward", "a thread panicked"))?.take();
            let Some(backward) = backward else {
                return Err(Error::invalid("backward", "this part of the graph was walked before").into());
            };
            for (input, gradient) in inputs.iter().zip(backward(gradient)?) {
                let Some(input) = input else { continue };
                if let Some(gradient) = gradient {
                    let gradient = gradient.stored_as(input.dtype)?;
                    let sum = match pending.remove(&input.number) {
                        Some(earlier) => earlier.plus(gradient)?,
                        None => {
                            queue.push(ByNumber(input.clone()));
                            gradient
                        }
                    };
                    pending.insert(input.number, sum);
                }
                let (Kind::Leaf(name), Some(uses)) = (&input.kind, uses.get_mut(&input.number)) else {
                    continue;
                };
                *uses -= 1;
                if *uses == 0
                    && let Some(gradient) = pending.remove(&input.number)
                {
                    sink.leaf(name, gradient.into_tensor()?)?;
                }
            }
            sink.walked()?;
        }
        Ok(())
    }
}

/// How often each leaf behind `root`, by its number, is an input of an operation.
fn uses_of_leaves(root: &Node) -> HashMap<u64, usize> {
    let (mut uses, mut seen, mut ahead) = (HashMap::new(), HashSet::from([root.number]), vec![root]);
    while let Some(node) = ahead.pop() {
        let Kind::Operation { inputs, .. } = &node.kind else { continue };
        for input in inputs.iter().flatten() {
            match &input.kind {
                Kind::Leaf(_) => *uses.entry(input.number).or_default() += 1,
                Kind::Operation { .. } if seen.insert(input.number) => ahead.push(input),
                Kind::Operation { .. } => {}
            }
        }
    }
    uses
}

/// Adds `gradient` to what `gradients` holds under `name`.
///
/// # Errors
/// If the shapes differ.
pub fn add_into(gradients: &mut Gradients, name: Arc<str>, gradient: Tensor) -> Result<()> {
    let sum = match gradients.get(&name) {
        Some(earlier) => sum_of(earlier, &gradient)?,
        None => gradient,
    };
    gradients.insert(name, sum);
    Ok(())
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_tracked() { "tracked" } else { "constant" };
        write!(f, "Value({:?}, {kind})", self.tensor.shape())
    }
}

impl Node {
    fn new(kind: Kind, dtype: DType) -> Self {
        Self { number: NEXT_NODE.fetch_add(1, Ordering::Relaxed), kind, dtype }
    }
}

struct ByNumber(Arc<Node>);

impl Ord for ByNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.number.cmp(&other.0.number)
    }
}

impl PartialOrd for ByNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByNumber {
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for ByNumber {}
