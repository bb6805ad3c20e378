//! Values of a pickle.

/// A value: small ones as they are, others by their place among the [`Node`]s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::weights) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A float, or an integer of more than 64 bits.
    OtherNumber,
    Node(usize),
}

/// A value that has parts.
#[derive(Debug)]
pub(in crate::weights) enum Node<'a> {
    Text(&'a str),
    /// Bytes, also the strings of Python 2, which have no encoding.
    Bytes(&'a [u8]),
    Tuple(Vec<Value>),
    /// List, also a set.
    List(Vec<Value>),
    /// Dictionary, also an `OrderedDict`.
    Dict(Vec<(Value, Value)>),
    /// The name of a class or function.
    Global {
        module: &'a str,
        name: &'a str,
    },
    /// A reference to something outside the pickle, by its id.
    Persistent(Value),
    /// Call of a function or class with these arguments, and the state set afterwards.
    Call {
        function: Value,
        arguments: Value,
        state: Option<Value>,
    },
}
