//! Python's pickle format, read as data: nothing is imported, called or built.
//!
//! The machine (Python's `Lib/pickletools.py` documents it) has a stack, marks on it, and a memo. Values live
//! in one list and refer to each other by index, so a value that is used twice is stored once, cycles do no harm,
//! and memory is bounded by the number of opcodes: text and bytes stay where they are in the file.

mod machine;
mod value;

use machine::{Machine, Step};
pub(super) use value::{Node, Value};

/// More opcodes than the pickle of any state dict with its optimiser; bounds the memory that a hostile one can take.
const MOST_OPCODES: usize = 2 << 20;

/// The module and name of a class or function.
pub(super) type Global<'a> = (&'a str, &'a str);

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickled<'a> {
    nodes: Vec<Node<'a>>,
    pub(super) root: Value,
    /// Length in bytes.
    pub(super) length: usize,
}

impl<'a> Pickled<'a> {
    /// Reads `bytes` up to the end of the first pickle in them.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine::new(bytes);
        for _ in 0..MOST_OPCODES {
            let start = machine.at;
            match machine.step() {
                Some(Step::On) => {}
                Some(Step::End(root)) => return Ok(Self { nodes: machine.nodes, root, length: machine.at }),
                Some(Step::Unknown(opcode)) => {
                    return Err(format!(
                        "its pickle has the opcode {opcode:#04x} at byte {start}, which is not read"
                    ));
                }
                None => {
                    return Err(format!("its pickle is damaged or cut short at byte {start}; copy it again"));
                }
            }
        }
        Err(format!("its pickle has more than {MOST_OPCODES} opcodes, more than any state dict needs"))
    }

    /// Every value that has parts, in the order of their making.
    pub(super) fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    pub(super) fn node(&self, value: Value) -> Option<&Node<'a>> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    /// Text, or a string of Python 2 that is text.
    pub(super) fn text(&self, value: Value) -> Option<&'a str> {
        match *self.node(value)? {
            Node::Text(text) => Some(text),
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub(super) fn items(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::List(items) | Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Value under `key` in a dictionary.
    pub(super) fn entry(&self, dict: Value, key: &str) -> Option<Value> {
        self.dict(dict)?.iter().find(|&&(name, _)| self.text(name) == Some(key)).map(|&(_, value)| value)
    }

    /// A tuple of sizes.
    pub(super) fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let size = |item: &Value| match item {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        self.tuple(value)?.iter().map(size).collect()
    }

    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// The module and name of a class or function.
    pub(super) fn global(&self, value: Value) -> Option<Global<'a>> {
        match *self.node(value)? {
            Node::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The module and name of the function of a call, its arguments, and the state that its result is given.
    pub(super) fn call(&self, value: Value) -> Option<(Global<'a>, &[Value], Option<Value>)> {
        match *self.node(value)? {
            Node::Call { function, arguments, state } => {
                Some((self.global(function)?, self.tuple(arguments)?, state))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_and_every_changed_byte_of_a_pickle_is_an_error_or_a_value_and_never_a_panic() {
        // pickle.dumps({'a': [1, (2, 3)], 'b': None}, protocol=2)
        let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01K\x02K\x03\x86q\x03eX\x01\x00\x00\x00bq\x04Nu.";
        let pickled = Pickled::read(whole).unwrap();
        assert_eq!(pickled.dict(pickled.root).map(<[_]>::len), Some(2));
        for cut in 0..whole.len() {
            assert!(Pickled::read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                let _ = Pickled::read(&changed);
            }
        }
    }

    #[test]
    fn a_value_that_contains_itself_or_doubles_at_every_step_takes_no_more_memory_than_its_opcodes() {
        // l = []; l.append(l)
        let pickled = Pickled::read(b"]q\x00h\x00a.").unwrap();
        assert_eq!(pickled.nodes.len(), 1);
        // t = (t, t) two thousand times over: 2^2000 values if it were copied.
        let mut doubling = b"N".to_vec();
        doubling.extend(b"2\x86".repeat(2000));
        doubling.push(b'.');
        assert_eq!(Pickled::read(&doubling).unwrap().nodes.len(), 2000);
    }
}
