//! Sections and choices as a crate that uses them sees them.

use std::sync::Arc;

use ckd_settings::{
    Check, Diagnostics, Key, Layer, Node, Overlay, Section, Text, Value, choices, read, read_node, section,
};
use proptest::prelude::*;

choices! {
    /// A colour.
    pub enum Colour {
        /// The colour of blood.
        Red = "red",
        /// The colour of the sky.
        Blue = "light-blue",
    }
}

section! {
    /// Keys that two tables have.
    pub struct Shared {
        /// How often.
        pub times: usize = 3,
    }
}

impl Shared {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("times", self.times);
    }
}

section! {
    /// A wheel.
    pub struct Wheel with shared: Shared = default {
        /// In pixels.
        pub radius: f32,
        /// Its colour.
        pub colour: Colour = Colour::Red,
    }
}

impl Wheel {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("radius", self.radius.into());
    }
}

section! {
    /// A lamp, which needs nothing.
    pub struct Lamp {
        /// Whether it is on.
        pub on: bool = true,
        /// Its power.
        pub watts: Option<f64>,
    }
}

section! {
    /// A cart.
    pub struct Cart {
        /// Its wheels.
        pub wheel: Vec<Wheel>,
        /// Its lamp.
        pub lamp: Lamp = Lamp::default(),
        /// A wheel to put on instead.
        pub spare: Option<Wheel>,
        /// The spare wheel of a rival.
        pub rival: Option<Overlay<Wheel>>,
    }
}

fn messages(wrong: &Diagnostics) -> Vec<&str> {
    wrong.all().iter().map(|finding| finding.message()).collect()
}

#[test]
fn keys_that_must_be_given_are_parameters_and_the_rest_has_defaults() {
    let wheel = Wheel::new(2.0);
    assert_eq!((wheel.shared.times, wheel.colour), (3, Colour::Red));
    assert_eq!(Lamp::default(), Lamp { on: true, watts: None });
    let cart = Cart::new(vec![wheel.clone()]);
    assert_eq!(read::<Cart>("[[wheel]]\nradius = 2", "cart.toml").unwrap(), cart);
    assert_eq!((cart.lamp, cart.spare), (Lamp::default(), None));
}

#[test]
fn everything_wrong_is_reported_at_once_each_at_its_own_line() {
    let text = "[[wheel]]\nradius = 1\n[[wheel]]\nradius = -1.5\ntimes = 0\n[spare]\nradius = 0\n";
    let wrong = read::<Cart>(text, "cart.toml").unwrap_err();
    let expected = ["\"wheel.1.radius\" is -1.5", "\"wheel.1.times\" is 0", "\"spare.radius\" is 0"];
    assert_eq!(messages(&wrong), expected);
    let shown = wrong.to_string();
    for place in ["cart.toml:4:10", "cart.toml:5:9", "cart.toml:7:10"] {
        assert!(shown.contains(place), "{place}\n{shown}");
    }
}

#[test]
fn what_cannot_be_read_is_reported_at_once_before_anything_is_checked() {
    let text = "colour = 1\n[[wheel]]\nradius = -1\ncolour = \"light-blu\"\n[lamp]\non = 1\nwats = 3\n";
    let wrong = read::<Cart>(text, "cart.toml").unwrap_err();
    let expected = [
        "\"light-blu\" is not a choice for \"wheel.0.colour\"",
        "wrong type for \"lamp.on\"",
        "unknown key \"wats\" in [lamp]",
        "unknown key \"colour\"",
    ];
    assert_eq!(messages(&wrong), expected);
    assert_eq!(wrong.all()[0].advice(), Some("did you mean \"light-blue\"?"));
}

#[test]
fn an_overlay_is_not_checked_where_it_stands() {
    let text = "[[wheel]]\nradius = 1\n[rival]\nradius = -1\n";
    let cart: Cart = read(text, "cart.toml").unwrap();
    assert_eq!(cart.rival, Some(Overlay(Wheel::new(-1.0))));
    assert_eq!(cart.rival.unwrap().0.problems().len(), 1);
}

#[test]
fn documentation_lists_keys_with_types_and_defaults() {
    let mut keys: Vec<Key> = Vec::new();
    Cart::document_fields("", &mut keys);
    let listed: Vec<(&str, &str, Option<&str>)> =
        keys.iter().map(|key| (key.path.as_str(), key.takes.as_str(), key.default.as_deref())).collect();
    for expected in [
        ("wheel", "an array, each element a table", None),
        ("wheel.N.times", "an integer, 0 or more", Some("3")),
        ("wheel.N.colour", "\"red\" or \"light-blue\"", Some("\"red\"")),
        ("lamp", "a table", None),
        ("lamp.watts", "a finite number", Some("not given")),
        ("spare", "a table", Some("not given")),
    ] {
        assert!(listed.contains(&expected), "{expected:?}\n{listed:#?}");
    }
    assert_eq!(Cart::about(), "A cart.");
}

fn parsed(name: &str, text: &str) -> Node {
    let text = Text { name: name.to_owned(), text: text.to_owned(), layer: Layer::File };
    Node::parse(&Arc::new(text)).unwrap()
}

#[test]
fn layers_merge_key_by_key_arrays_are_replaced_and_errors_name_the_layer() {
    let mut root = parsed("base.toml", "[[wheel]]\nradius = 1\n[lamp]\non = false\nwatts = 5\n");
    root.merge(parsed("top.toml", "wheel = [{ radius = 2 }, { radius = 3 }]\n[lamp]\nwatts = \"a\"\n"));
    let wrong = read_node::<Cart>(&root).unwrap_err();
    assert!(wrong.to_string().contains("top.toml:3:9"), "{wrong}");
    root.merge(parsed("set.toml", "lamp.watts = 7\n"));
    let cart: Cart = read_node(&root).unwrap();
    assert_eq!(cart.lamp, Lamp { on: false, watts: Some(7.0) });
    assert_eq!(cart.wheel, [Wheel::new(2.0), Wheel::new(3.0)]);
}

/// A table of numbers (`a` to `c`) and tables (`x` to `z`): layers agree on which keys are tables.
fn table() -> impl Strategy<Value = toml::Table> {
    let numbers = || {
        proptest::collection::btree_map("[a-c]", any::<i32>().prop_map(toml::Value::from), 0..4)
            .prop_map(|numbers| numbers.into_iter().collect::<toml::Table>())
    };
    numbers().prop_recursive(3, 12, 4, move |inner| {
        let tables = proptest::collection::btree_map("[x-z]", inner.prop_map(toml::Value::Table), 0..4);
        (numbers(), tables).prop_map(|(numbers, tables)| numbers.into_iter().chain(tables).collect())
    })
}

/// The value of a tree, without its places.
fn plain(node: &Node) -> toml::Value {
    match &node.value {
        Value::Integer(value) => toml::Value::Integer(*value),
        Value::Table(table) => {
            toml::Value::Table(table.iter().map(|(name, entry)| (name.clone(), plain(&entry.node))).collect())
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn merging_is_associative_and_the_upper_layer_stays_whole(a in table(), b in table(), c in table()) {
        let node = |table: &toml::Table| parsed("x.toml", &toml::to_string(table).unwrap());
        let merged = |mut below: Node, above: Node| {
            below.merge(above);
            below
        };
        let left = merged(merged(node(&a), node(&b)), node(&c));
        let right = merged(node(&a), merged(node(&b), node(&c)));
        prop_assert_eq!(plain(&left), plain(&right));
        let again = merged(left.clone(), node(&c));
        prop_assert_eq!(plain(&again), plain(&left), "a layer laid twice counts once");
    }
}
