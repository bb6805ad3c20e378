//! The part of a VOC annotation that is read: size and objects.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};

/// Elements within elements that are read: more would be no VOC annotation, and slow.
const DEEPEST: usize = 100;

/// A VOC annotation.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Document {
    /// (width, height), where given.
    pub(super) size: Option<(u32, u32)>,
    pub(super) objects: Vec<Object>,
}

/// An `object` of it.
#[derive(Debug, PartialEq)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) difficult: bool,
    /// `[xmin, ymin, xmax, ymax]`.
    pub(super) corners: [f64; 4],
}

/// An object being read.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    difficult: bool,
    corners: [Option<f64>; 4],
}

/// Parses an annotation; the error says what is wrong and where.
pub(super) fn parse(text: &str) -> Result<Document, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    // The names of the open elements, and the text of the innermost since its last child.
    let (mut open, mut inner) = (Vec::<String>::new(), String::new());
    let (mut document, mut draft) = (Document::default(), Draft::default());
    let (mut width, mut height) = (None, None);
    let mut seen_root = false;
    loop {
        let event = reader.read_event().map_err(|error| {
            format!("broken XML at byte {}: {error}; save it again", reader.error_position())
        })?;
        match event {
            Event::Start(tag) => {
                if open.len() >= DEEPEST {
                    return Err(format!("elements lie more than {DEEPEST} deep; VOC's lie 4 deep"));
                }
                open.push(String::from_utf8_lossy(tag.name().as_ref()).into_owned());
                seen_root |= open[0] == "annotation";
                inner.clear();
            }
            Event::Text(piece) => inner.push_str(&piece.decode().map_err(|error| error.to_string())?),
            Event::CData(piece) => inner.push_str(&piece.decode().map_err(|error| error.to_string())?),
            Event::GeneralRef(entity) => inner.push_str(&resolve(&entity)?),
            Event::End(_) => {
                let path: Vec<&str> = open.iter().map(String::as_str).collect();
                let value = inner.trim();
                match path.as_slice() {
                    ["annotation", "size", "width"] => width = value.parse().ok(),
                    ["annotation", "size", "height"] => height = value.parse().ok(),
                    ["annotation", "object", "name"] => draft.name = Some(value.to_owned()),
                    ["annotation", "object", "difficult"] => draft.difficult = value == "1",
                    ["annotation", "object", "bndbox", side] => draft.side(side, value)?,
                    ["annotation", "object"] => document.objects.push(std::mem::take(&mut draft).finish()?),
                    _ => {}
                }
                open.pop();
                inner.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if !open.is_empty() || !seen_root {
        return Err("the file is cut short or no VOC <annotation>; copy it again".to_owned());
    }
    document.size = width.zip(height);
    Ok(document)
}

impl Draft {
    fn side(&mut self, side: &str, value: &str) -> Result<(), String> {
        let place = match side {
            "xmin" => 0,
            "ymin" => 1,
            "xmax" => 2,
            "ymax" => 3,
            _ => return Ok(()),
        };
        let number = value.parse().ok().filter(|number: &f64| number.is_finite());
        self.corners[place] = Some(number.ok_or_else(|| format!("<{side}> is \"{value}\", not a number"))?);
        Ok(())
    }

    fn finish(self) -> Result<Object, String> {
        let name = self.name.filter(|name| !name.is_empty()).ok_or("an <object> has no <name>")?;
        match self.corners {
            [Some(xmin), Some(ymin), Some(xmax), Some(ymax)] => {
                Ok(Object { name, difficult: self.difficult, corners: [xmin, ymin, xmax, ymax] })
            }
            _ => Err(format!("the <object> \"{name}\" has no complete <bndbox>")),
        }
    }
}

fn resolve(entity: &BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = entity.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character.to_string());
    }
    let name = entity.decode().map_err(|error| error.to_string())?;
    resolve_predefined_entity(&name).map(str::to_owned).ok_or_else(|| format!("unknown XML entity &{name};"))
}
