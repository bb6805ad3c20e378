//! The geometry of Faster R-CNN and RetinaNet against torchvision's own values.

#[path = "../../tests/support/golden.rs"]
mod golden;

#[test]
fn the_golden_generator_gives_its_check_values() {
    golden::check_generator();
}
