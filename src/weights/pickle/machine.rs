//! The machine that reads a pickle, one opcode after the other.

use std::collections::HashMap;

use super::value::{Node, Value};

/// Result of an opcode.
pub(super) enum Step {
    On,
    End(Value),
    Unknown(u8),
}

/// The stack machine in the middle of its work.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    pub(super) nodes: Vec<Node<'a>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), nodes: Vec::new() }
    }

    /// Executes an opcode; `None` where the pickle makes no sense.
    pub(super) fn step(&mut self) -> Option<Step> {
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
                let bytes = self.counted::<1>()?;
                self.stack.push(little_endian(bytes));
            }
            0x8b => {
                let bytes = self.counted::<4>()?;
                self.stack.push(little_endian(bytes));
            }
            b'G' => self.take::<8>().map(|_| self.stack.push(Value::OtherNumber))?,
            0x8c => self.counted::<1>().and_then(|bytes| self.push_text(bytes))?,
            b'X' => self.counted::<4>().and_then(|bytes| self.push_text(bytes))?,
            0x8d => self.counted::<8>().and_then(|bytes| self.push_text(bytes))?,
            b'C' | b'U' => self.counted::<1>().map(|bytes| self.push(Node::Bytes(bytes)))?,
            b'B' | b'T' => self.counted::<4>().map(|bytes| self.push(Node::Bytes(bytes)))?,
            0x8e | 0x96 => self.counted::<8>().map(|bytes| self.push(Node::Bytes(bytes)))?,

            b')' => self.push(Node::Tuple(Vec::new())),
            b']' | 0x8f => self.push(Node::List(Vec::new())),
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
            b'l' | 0x91 => {
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
            b'e' | 0x90 => {
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
                    Value::Node(index) if matches!(
                        self.nodes[index],
                        Node::Global { module: "collections", name: "OrderedDict" }
                    )
                );
                let call = Node::Call { function, arguments, state: None };
                self.push(if is_dict { Node::Dict(Vec::new()) } else { call });
            }
            b'b' => {
                let given = self.pop()?;
                // Of anything else (a state dict's `_metadata`) it is not looked at.
                if let Some(Node::Call { state, .. }) = self.top() {
                    *state = Some(given);
                }
            }
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

    /// Bytes after their number, which is N bytes long.
    fn counted<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let mut count = [0; 8];
        count[..N].copy_from_slice(&self.take::<N>()?);
        self.slice(usize::try_from(u64::from_le_bytes(count)).ok()?)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Option<&'a str> {
        let length = self.bytes.get(self.at..)?.iter().position(|&byte| byte == b'\n')?;
        let text = std::str::from_utf8(self.slice(length)?).ok()?;
        self.at += 1;
        Some(text)
    }

    fn push(&mut self, node: Node<'a>) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn push_text(&mut self, bytes: &'a [u8]) -> Option<()> {
        self.push(Node::Text(std::str::from_utf8(bytes).ok()?));
        Some(())
    }

    /// The top of the stack, which a mark may not cover.
    fn pop(&mut self) -> Option<Value> {
        if self.marks.last() == Some(&self.stack.len()) { None } else { self.stack.pop() }
    }

    fn pop_text(&mut self) -> Option<&'a str> {
        match self.pop()? {
            Value::Node(index) => match self.nodes[index] {
                Node::Text(text) => Some(text),
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
    fn top(&mut self) -> Option<&mut Node<'a>> {
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

/// A number in two's complement.
fn little_endian(bytes: &[u8]) -> Value {
    let Some(&highest) = bytes.last() else { return Value::Int(0) };
    if bytes.len() > 8 {
        return Value::OtherNumber;
    }
    let fill = if highest & 0x80 == 0 { 0x00 } else { 0xff };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length_are_read() {
        assert_eq!(little_endian(&[]), Value::Int(0));
        assert_eq!(little_endian(&[0xff]), Value::Int(-1));
        assert_eq!(little_endian(&[0x00, 0x01]), Value::Int(256));
        assert_eq!(little_endian(&[0xff; 9]), Value::OtherNumber);
    }
}
