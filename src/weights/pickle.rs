//! Python's pickle format, read as data: nothing is imported, called or built.
//!
//! The machine (Python's `Lib/pickletools.py` documents it) has a stack, marks on it, and a memo. Values live
//! in one list and refer to each other by index, so a value that is used twice is stored once, cycles do no harm,
//! and memory is bounded by the number of opcodes.

use std::collections::HashMap;

/// Longer than the pickle of any state dict; bounds the memory that a hostile one can take.
const LONGEST: usize = 8 << 20;

/// A value: small ones as they are, others by their place among the [`Node`]s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Node(usize),
}

/// A value that has parts.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Bytes,
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// Also an `OrderedDict`.
    Dict(Vec<(Value, Value)>),
    /// The name of a class or function.
    Global {
        module: String,
        name: String,
    },
    /// A reference to something outside the pickle, by its id.
    Persistent(Value),
    /// What a function or class would make of these arguments.
    Call {
        function: Value,
        arguments: Value,
    },
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickled {
    nodes: Vec<Node>,
    pub(super) root: Value,
}

impl Pickled {
    /// Reads `bytes` up to the end of the first pickle in them.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > LONGEST {
            return Err(format!("its pickle has {} bytes, more than any state dict needs", bytes.len()));
        }
        let mut machine = Machine {
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nodes: Vec::new(),
        };
        loop {
            let start = machine.at;
            match machine.step() {
                Some(Step::On) => {}
                Some(Step::End(root)) => return Ok(Self { nodes: machine.nodes, root }),
                Some(Step::Unknown(opcode)) => {
                    return Err(format!(
                        "its pickle has the opcode {opcode:#04x} at byte {start}, which is not read"
                    ));
                }
                None => return Err(format!("its pickle is damaged at byte {start}")),
            }
        }
    }

    pub(super) fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
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
    pub(super) fn global(&self, value: Value) -> Option<(&str, &str)> {
        match self.node(value)? {
            Node::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }
}

enum Step {
    On,
    End(Value),
    Unknown(u8),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    nodes: Vec<Node>,
}

impl<'a> Machine<'a> {
    /// One opcode; `None` where the pickle makes no sense.
    fn step(&mut self) -> Option<Step> {
        let [opcode] = self.take()?;
        match opcode {
            b'.' => return self.pop().map(Step::End),
            // Frames (protocol 4) group bytes for buffering; the protocol is plain from the opcodes.
            0x80 => drop(self.take::<1>()?),
            0x95 => drop(self.take::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(*self.stack.last()?),

            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => self.take().map(|[byte]| self.stack.push(Value::Int(byte.into())))?,
            b'M' => self.take().map(|bytes| self.stack.push(Value::Int(u16::from_le_bytes(bytes).into())))?,
            b'J' => self.take().map(|bytes| self.stack.push(Value::Int(i32::from_le_bytes(bytes).into())))?,
            0x8a => {
                let [count] = self.take()?;
                let bytes = self.slice(count.into())?;
                self.stack.push(Value::Int(little_endian(bytes)?));
            }
            b'G' => self.take::<8>().map(|_| self.stack.push(Value::Float))?,
            b'X' | b'T' => {
                let count = u32::from_le_bytes(self.take()?);
                self.push_text(count as usize)?;
            }
            0x8c | b'U' => {
                let [count] = self.take()?;
                self.push_text(count.into())?;
            }
            b'B' => {
                let count = u32::from_le_bytes(self.take()?);
                self.slice(count as usize)?;
                self.push(Node::Bytes);
            }
            b'C' => {
                let [count] = self.take()?;
                self.slice(count.into())?;
                self.push(Node::Bytes);
            }

            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(opcode - 0x84))?;
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items));
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items));
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items));
            }
            b'd' => {
                let items = pairs(&self.pop_to_mark()?)?;
                self.push(Node::Dict(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(&[item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(vec![(key, value)])?;
            }
            b'u' => {
                let items = pairs(&self.pop_to_mark()?)?;
                self.extend_dict(items)?;
            }

            b'q' => self.take().map(|[index]| self.remember(index.into()))??,
            b'r' => self.take().map(|bytes| self.remember(u32::from_le_bytes(bytes)))??,
            0x94 => {
                let index = u32::try_from(self.memo.len()).ok()?;
                self.remember(index)?;
            }
            b'h' => self.take().map(|[index]| self.recall(index.into()))??,
            b'j' => self.take().map(|bytes| self.recall(u32::from_le_bytes(bytes)))??,

            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push(Node::Global { module, name });
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.push(Node::Global { module, name });
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let is_dict = matches!(
                    function,
                    Value::Node(index) if matches!(&self.nodes[index], Node::Global { module, name }
                        if module == "collections" && name == "OrderedDict")
                );
                self.push(if is_dict { Node::Dict(Vec::new()) } else { Node::Call { function, arguments } });
            }
            // The state of an object (a state dict's `_metadata`): not looked at.
            b'b' => drop(self.pop()?),
            unknown => return Some(Step::Unknown(unknown)),
        }
        Some(Step::On)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn slice(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let slice = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(slice)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Option<String> {
        let length = self.bytes.get(self.at..)?.iter().position(|&byte| byte == b'\n')?;
        let text = String::from_utf8(self.slice(length)?.to_vec()).ok()?;
        self.at += 1;
        Some(text)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn push_text(&mut self, length: usize) -> Option<()> {
        let text = String::from_utf8(self.slice(length)?.to_vec()).ok()?;
        self.push(Node::Text(text));
        Some(())
    }

    /// The top of the stack, which a mark may not cover.
    fn pop(&mut self) -> Option<Value> {
        if self.marks.last() == Some(&self.stack.len()) { None } else { self.stack.pop() }
    }

    fn pop_text(&mut self) -> Option<String> {
        match self.pop()? {
            Value::Node(index) => match &self.nodes[index] {
                Node::Text(text) => Some(text.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    fn pop_to_mark(&mut self) -> Option<Vec<Value>> {
        let mark = self.marks.pop()?;
        (mark <= self.stack.len()).then(|| self.stack.split_off(mark))
    }

    /// The node on top of the stack, to be extended.
    fn top(&mut self) -> Option<&mut Node> {
        match *self.stack.last()? {
            Value::Node(index) => self.nodes.get_mut(index),
            _ => None,
        }
    }

    fn extend_list(&mut self, items: &[Value]) -> Option<()> {
        match self.top()? {
            Node::List(list) => list.extend(items),
            // A list of another class: what it holds is not needed.
            Node::Call { .. } => {}
            _ => return None,
        }
        Some(())
    }

    fn extend_dict(&mut self, items: Vec<(Value, Value)>) -> Option<()> {
        match self.top()? {
            Node::Dict(dict) => dict.extend(items),
            Node::Call { .. } => {}
            _ => return None,
        }
        Some(())
    }

    fn remember(&mut self, index: u32) -> Option<()> {
        self.memo.insert(index, *self.stack.last()?);
        Some(())
    }

    fn recall(&mut self, index: u32) -> Option<()> {
        self.stack.push(*self.memo.get(&index)?);
        Some(())
    }
}

fn pairs(items: &[Value]) -> Option<Vec<(Value, Value)>> {
    items.len().is_multiple_of(2).then(|| items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A two's complement number of up to 8 bytes.
fn little_endian(bytes: &[u8]) -> Option<i64> {
    let Some(&highest) = bytes.last() else { return Some(0) };
    if bytes.len() > 8 {
        return None;
    }
    let fill = if highest & 0x80 == 0 { 0x00 } else { 0xff };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length_are_read() {
        assert_eq!(little_endian(&[]), Some(0));
        assert_eq!(little_endian(&[0xff]), Some(-1));
        assert_eq!(little_endian(&[0x00, 0x01]), Some(256));
        assert_eq!(little_endian(&[0xff; 9]), None);
    }

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
