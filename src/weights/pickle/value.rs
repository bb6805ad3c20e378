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
    /// Also the strings of Python 2, which have no encoding.
    Bytes(&'a [u8]),
    Tuple(Vec<Value>),
    /// Also a set.
    List(Vec<Value>),
    /// Also an `OrderedDict`.
    Dict(Vec<(Value, Value)>),
    /// The name of a class or function.
    Global {
        module: &'a str,
        name: &'a str,
    },
    /// A reference to something outside the pickle, by its id.
    Persistent(Value),
    /// What a function or class would make of these arguments, and the state it would then be given.
    Call {
        function: Value,
        arguments: Value,
        state: Option<Value>,
    },
}
