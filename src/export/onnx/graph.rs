//! A graph under construction.

use std::collections::BTreeMap;

use super::proto::{Attribute, Constant, Dim, Element, Extent, Graph, Kind, Node, Port, Shape, TensorKind};

/// A tensor that flows through the graph, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge(pub(super) String);

impl Edge {
    /// The input of an operation that is left out.
    pub(super) fn none() -> Self {
        Self(String::new())
    }
}

/// A setting of an operation.
#[derive(Debug, Clone)]
pub(super) enum Set<'a> {
    I(i64),
    F(f32),
    S(&'a str),
    Ints(&'a [i64]),
}

/// A dimension of an input or output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side<'a> {
    Fixed(usize),
    Named(&'a str),
}

/// Collects nodes and constants; equal small constants are kept once.
#[derive(Debug, Default)]
pub(super) struct GraphBuilder {
    graph: Graph,
    shared: BTreeMap<(i32, Vec<i64>, Vec<u8>), Edge>,
    made: usize,
}

impl GraphBuilder {
    /// Adds an operation with one result and no settings.
    pub(super) fn op(&mut self, kind: &str, inputs: &[&Edge]) -> Edge {
        self.op_with(kind, inputs, &[])
    }

    /// Adds an operation with one result.
    pub(super) fn op_with(&mut self, kind: &str, inputs: &[&Edge], settings: &[(&str, Set<'_>)]) -> Edge {
        let [output] = self.op_of(kind, inputs, settings);
        output
    }

    /// Adds an operation with `N` results.
    pub(super) fn op_of<const N: usize>(
        &mut self,
        kind: &str,
        inputs: &[&Edge],
        settings: &[(&str, Set<'_>)],
    ) -> [Edge; N] {
        let number = self.made;
        self.made += 1;
        let outputs: [Edge; N] = std::array::from_fn(|i| {
            let place = if N == 1 { String::new() } else { format!(".{i}") };
            Edge(format!("{kind}_{number}{place}"))
        });
        self.graph.node.push(Node {
            input: inputs.iter().map(|edge| edge.0.clone()).collect(),
            output: outputs.iter().map(|edge| edge.0.clone()).collect(),
            name: format!("{kind}_{number}"),
            op_type: kind.to_owned(),
            attribute: settings.iter().map(|(name, value)| attribute(name, value)).collect(),
        });
        outputs
    }

    /// A constant of its own name: a weight.
    pub(super) fn named(&mut self, name: &str, element: Element, dims: &[usize], raw_data: Vec<u8>) -> Edge {
        let dims = dims.iter().map(|&side| side as i64).collect();
        let constant = Constant { dims, data_type: element as i32, name: name.to_owned(), raw_data };
        self.graph.initializer.push(constant);
        Edge(name.to_owned())
    }

    fn shared(&mut self, element: Element, dims: &[usize], raw_data: Vec<u8>) -> Edge {
        let key = (element as i32, dims.iter().map(|&side| side as i64).collect(), raw_data);
        if let Some(edge) = self.shared.get(&key) {
            return edge.clone();
        }
        let edge = self.named(&format!("constant_{}", self.shared.len()), element, dims, key.2.clone());
        self.shared.insert(key, edge.clone());
        edge
    }

    /// A constant row of integers.
    pub(super) fn ints(&mut self, values: &[i64]) -> Edge {
        self.shared(Element::I64, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A constant integer without dimensions.
    pub(super) fn int(&mut self, value: i64) -> Edge {
        self.shared(Element::I64, &[], value.to_le_bytes().to_vec())
    }

    /// A constant of f32.
    pub(super) fn floats(&mut self, dims: &[usize], values: &[f32]) -> Edge {
        self.shared(Element::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A constant f32 without dimensions.
    pub(super) fn float(&mut self, value: f32) -> Edge {
        self.floats(&[], &[value])
    }

    /// A constant f64 without dimensions.
    pub(super) fn double(&mut self, value: f64) -> Edge {
        self.shared(Element::F64, &[], value.to_le_bytes().to_vec())
    }

    /// `x` as another type.
    pub(super) fn cast(&mut self, x: &Edge, to: Element) -> Edge {
        self.op_with("Cast", &[x], &[("to", Set::I(to as i64))])
    }

    /// u8 (N, H, W, 3) as f32 (N, 3, H, W) in 0..1.
    pub(super) fn unit(&mut self, bytes: &Edge) -> Edge {
        let pixels = self.cast(bytes, Element::F32);
        let white = self.float(255.0);
        let pixels = self.op("Div", &[&pixels, &white]);
        self.transpose(&pixels, &[0, 3, 1, 2])
    }

    /// The length of one axis, as a row of one integer.
    pub(super) fn side(&mut self, x: &Edge, axis: i64) -> Edge {
        let shape = self.op("Shape", &[x]);
        let axis = self.ints(&[axis]);
        self.op("Gather", &[&shape, &axis])
    }

    /// `x` with the dimensions `dims`: 0 keeps one, -1 takes what is left.
    pub(super) fn reshape(&mut self, x: &Edge, dims: &[i64]) -> Edge {
        let dims = self.ints(dims);
        self.op("Reshape", &[x, &dims])
    }

    /// `x` with its axes in another order.
    pub(super) fn transpose(&mut self, x: &Edge, order: &[i64]) -> Edge {
        self.op_with("Transpose", &[x], &[("perm", Set::Ints(order))])
    }

    /// `x` with further axes of one element.
    pub(super) fn unsqueeze(&mut self, x: &Edge, axes: &[i64]) -> Edge {
        let axes = self.ints(axes);
        self.op("Unsqueeze", &[x, &axes])
    }

    /// The parts one after the other.
    pub(super) fn concat(&mut self, parts: &[&Edge], axis: i64) -> Edge {
        match parts {
            [one] => (*one).clone(),
            _ => self.op_with("Concat", parts, &[("axis", Set::I(axis))]),
        }
    }

    /// 0, 1, ... below `end`, a row of one integer.
    pub(super) fn range(&mut self, end: &Edge) -> Edge {
        let end = self.reshape(end, &[]);
        let [zero, one] = [0, 1].map(|value| self.int(value));
        self.op("Range", &[&zero, &end, &one])
    }

    /// An input of the graph.
    pub(super) fn input(&mut self, name: &str, element: Element, sides: &[Side<'_>], doc: &str) -> Edge {
        self.graph.input.push(port(name, element, sides, doc));
        Edge(name.to_owned())
    }

    /// Makes `x` an output of the graph.
    pub(super) fn output(&mut self, x: &Edge, name: &str, element: Element, sides: &[Side<'_>], doc: &str) {
        let node = Node {
            input: vec![x.0.clone()],
            output: vec![name.to_owned()],
            name: format!("{name}_out"),
            op_type: "Identity".to_owned(),
            attribute: Vec::new(),
        };
        self.graph.node.push(node);
        self.graph.output.push(port(name, element, sides, doc));
    }

    /// The finished graph.
    pub(super) fn finish(mut self, name: &str) -> Graph {
        name.clone_into(&mut self.graph.name);
        self.graph
    }
}

fn attribute(name: &str, value: &Set<'_>) -> Attribute {
    let mut attribute = Attribute { name: name.to_owned(), ..Attribute::default() };
    match value {
        Set::F(value) => (attribute.kind, attribute.f) = (1, *value),
        Set::I(value) => (attribute.kind, attribute.i) = (2, *value),
        Set::S(value) => (attribute.kind, attribute.s) = (3, value.as_bytes().to_vec()),
        Set::Ints(values) => (attribute.kind, attribute.ints) = (7, values.to_vec()),
    }
    attribute
}

fn port(name: &str, element: Element, sides: &[Side<'_>], doc: &str) -> Port {
    let dim = |side: &Side| Dim {
        extent: Some(match *side {
            Side::Fixed(length) => Extent::Fixed(length as i64),
            Side::Named(name) => Extent::Named(name.to_owned()),
        }),
    };
    let shape = Some(Shape { dim: sides.iter().map(dim).collect() });
    Port {
        name: name.to_owned(),
        kind: Some(Kind { tensor: Some(TensorKind { element: element as i32, shape }) }),
        doc: doc.to_owned(),
    }
}
